"""Kill a run with SIGKILL at many instants, resume it, and compare with one that was never interrupted.

`python tests/torture/kills.py --instants 60 --output result.json`. Each attempt is a fork of this process, which has
everything imported and the starting point cached, so that an attempt takes about a second. An instant is the n-th of
the calls that change what is on disk (fsync, rename, replace, unlink, rmdir, mkdir, write to metrics) or an optimiser
step; the attempt kills itself right before it. What a clock would hit lies between two of these.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console
from support.tiny import tiny_recipe
from transformers.utils import logging as transformers_logging

from benchmarks.run_contents import contents as contents_of_one
from benchmarks.run_contents import differing
from dynamics.records import metrics as metrics_module
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.records.reader import open_run, run_beside
from dynamics.regularizers.registry import METHODS
from dynamics.reporting import Reporter
from dynamics.training.recipe_run import train

CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
MUST_BE_GIVEN = {"weight_decay": {"value": 0.5}, "loss_truncation": {"warmup": 1}}


def recipe(**changes: Any) -> Any:
    """Three epochs of a tiny model whose dropout draws from torch's generator, so that its state must be restored."""
    fields: dict[str, Any] = {
        "regularizers": [{"name": "entrodrop", "ratio": 0.3}, {"name": "hidden_dropout", "rate": 0.1}],
        "recording": {"train_sequences": 20, "validation_sequences": 10, "dtype": "float32"},
        "training": {"num_train_epochs": 3, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
    }
    return tiny_recipe(**{**fields, **changes})


class Instants:
    """Counts what happens, and kills this process right before the n-th."""

    def __init__(self, kill_at: int | None, note: Callable[[str], None] = lambda kind: None) -> None:
        self.seen: list[str] = []
        self._kill_at = kill_at
        self._note = note

    def happen(self, kind: str) -> None:
        if self._kill_at is not None and len(self.seen) == self._kill_at:
            self._note(kind)
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(kind)

    def watch(self) -> None:
        for name in CALLS:
            setattr(os, name, self._wrapped(getattr(os, name), name))
        metrics_module.append_metrics = self._wrapped(metrics_module.append_metrics, "metrics")
        import dynamics.training.loop.step_metrics as step_metrics

        step_metrics.append_metrics = metrics_module.append_metrics
        torch.optim.AdamW.step = self._wrapped(torch.optim.AdamW.step, "step")  # type: ignore[method-assign]

    def _wrapped(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.happen(kind)
            return function(*args, **kwargs)

        return wrapper


def attempt(one: Any, folder: Path, *, kill_at: int | None = None) -> tuple[int, str, list[str]]:
    """Train, or resume, in a fork; return how it ended, at what it was killed, and all that happened."""
    log = folder.parent / f"{folder.name}.log"
    log.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        said = io.StringIO()
        try:
            instants = Instants(kill_at, lambda kind: log.write_text(json.dumps([kind])))
            instants.watch()
            train(one, folder, resume=True, reporter=Reporter(Console(file=said)))
            log.write_text(json.dumps(["done", *instants.seen]))
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 (a fork must not return into the parent's code)
            log.write_text(json.dumps([f"{type(error).__name__}: {error}"]))
            os._exit(1)
    _, status = os.waitpid(child, 0)
    first, *rest = json.loads(log.read_text())
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, first, rest


def contents(folder: Path) -> dict[str, Any]:
    """Return what must be the same of a run, and of those of models measured beside it."""
    found = contents_of_one(folder)
    for word in ("ema", "swa"):
        beside = contents_of_one(run_beside(folder, word))
        if beside:
            beside[schema.MANIFEST_FILE]["averaged"].pop("path")  # with the name of this folder in it
        found |= {f"{word}/{name}": value for name, value in beside.items()}
    return found


def readable(folder: Path) -> str | None:
    """Return what is wrong with an interrupted run as a reader sees it; every epoch that it shows must be whole."""
    if not (folder / schema.MANIFEST_FILE).exists():
        return None
    report = check_run(folder)
    if report.problems:
        return "; ".join(map(str, report.problems))
    run = open_run(folder)
    for split in run.splits:
        records = run.records(split)
        for epoch in run.epochs:
            records.loss(epoch), records.entropy(epoch), records.correct(epoch)
    return None


def torture(n_instants: int, root: Path, one: Any, *, at: float = 0.0) -> dict[str, Any]:
    """Kill and resume `n_instants` times; return counts and what went wrong. A single instant is at the share `at`."""
    root.mkdir(exist_ok=True)
    # Once to fill the cache, so that what follows is the run alone; then once to compare with.
    for name in ("first", "whole"):
        code, said, events = attempt(one, root / name)
        assert code == 0, said
    whole = root / "whole"
    expected = contents(whole)
    # Evenly over all that happens, so that every kind of instant is among them.
    last = len(events) - 1
    chosen = [round(n * last / (n_instants - 1)) for n in range(n_instants)] if n_instants > 1 else [round(at * last)]
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    for instant in chosen:
        folder = root / f"killed-{instant}"
        code, kind, _ = attempt(one, folder, kill_at=instant)
        where = f"before event {instant} of {len(events)} ({kind})"
        kinds[kind] += 1
        if code != -signal.SIGKILL:
            wrong.append(f"{where}: ended with {code}")
            continue
        if (problem := readable(folder)) is not None:
            wrong.append(f"{where}: a reader sees {problem}")
        code, said, _ = attempt(one, folder)
        if code != 0:
            wrong.append(f"{where}: resuming ended with {said}")
            continue
        differ = differing(contents(folder), expected)
        if differ:
            wrong.append(f"{where}: {', '.join(differ)} differ")
        shutil.rmtree(folder)
    return {"events": len(events), "killed": len(chosen), "kinds": dict(kinds), "wrong": wrong}


def every_method(root: Path) -> dict[str, Any]:
    """Kill one run of every regulariser in its last epoch, where what it has learned matters."""
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    for name in METHODS:
        settings: dict[str, Any] = {"name": name} | MUST_BE_GIVEN.get(name, {})
        found = torture(1, root / name, recipe(regularizers=[settings]), at=0.8)
        kinds.update(found["kinds"])
        wrong += [f"{name}: {problem}" for problem in found["wrong"]]
    return {"killed": len(METHODS), "methods": list(METHODS), "kinds": dict(kinds), "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instants", type=int, default=60)
    parser.add_argument("--methods", action="store_true", help="kill one run of every regulariser, at one instant each")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["DYNAMICS_CACHE"] = str(root / "cache")
        result = every_method(root) if given.methods else torture(given.instants, root, recipe())
    result["identical"] = result["killed"] - len(result["wrong"])
    text = json.dumps(result, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n")
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
