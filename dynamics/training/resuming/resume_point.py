"""Where an interrupted run goes on: its newest whole checkpoint, with records and metrics brought back to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import yaml

from dynamics.errors import InputError
from dynamics.recipe.loading import differing_keys, resolved
from dynamics.recipe.settings import Recipe
from dynamics.records import schema
from dynamics.records.epochs import good_epochs
from dynamics.records.metrics import rewind_metrics
from dynamics.records.reader import Run, open_run
from dynamics.records.writer import discard_epochs
from dynamics.reporting import Reporter
from dynamics.training.environment.hardware import hardware
from dynamics.training.environment.processes import world_size
from dynamics.training.preparation.prepare import Prepared
from dynamics.training.resuming.checkpoints import Checkpoint, Checkpoints


def finished(recipe: Recipe, output: Path, *, resume: bool, reporter: Reporter) -> bool:
    """Whether there is nothing left to do; refuse an output that this run may not have."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is a file; name a new directory")
    # A run that was killed while it wrote its very first file has left that one alone.
    torn = schema.CONFIG_FILE + schema.TEMPORARY_SUFFIX
    if not output.exists() or {path.name for path in output.iterdir()} <= {torn}:
        return False
    if not resume:
        raise InputError(
            f"--output: {output} is not empty; give --resume to go on with the run in it, or name a new directory"
        )
    config_file = output / schema.CONFIG_FILE
    if not config_file.exists():
        raise InputError(f"--output: {output} holds something else than a run; name a new directory")
    differing = differing_keys(yaml.safe_load(config_file.read_text()), resolved(recipe))
    if differing:
        raise InputError(
            f"--output: {output} holds a run of another recipe, which differs in {', '.join(differing)}; name a new "
            "directory, or give the recipe of that run"
        )
    if not (output / schema.MANIFEST_FILE).exists():
        return False
    if open_run(output).complete:
        # Removed last, and so what may be left of a run that was killed when all was done.
        shutil.rmtree(output / schema.CHECKPOINTS_FOLDER, ignore_errors=True)
        reporter.line(f"{output}: the run is finished already; nothing to do")
        return True
    return False


def resume_point(output: Path, checkpoints: Checkpoints, prepared: Prepared, reporter: Reporter) -> Checkpoint | None:
    """Return where an interrupted run goes on; None to start from its first epoch. Says what is skipped, and why.

    Raises
    ------
    InputError
        Data, tokenizer or starting model are not those of the run, or its records cannot be read.
    """
    if not (output / schema.MANIFEST_FILE).exists():
        return None
    run = open_run(output)
    _require_same_start(run, prepared)
    good = set(good_epochs(run))
    for point in checkpoints.latest(on_skip=lambda reason: reporter.line(f"{output}: {reason}")):
        missing = sorted(set(range(point.epoch + 1)) - good)
        if not missing:
            reporter.line(f"{output}: the run was interrupted; it goes on after epoch {point.epoch}")
            return point
        reporter.line(
            f"{output}: {point.path.name} is skipped: epoch {missing[0]}, which comes before it, is damaged or missing"
        )
    reporter.line(f"{output}: the run was interrupted before a checkpoint was whole; it starts from its first epoch")
    return None


def rewind(output: Path, point: Checkpoint, reporter: Reporter) -> None:
    """Bring a run back to a checkpoint: later epochs and metrics go."""
    gone = discard_epochs(output, after=point.epoch)
    if gone:
        reporter.line(f"{output}: epochs {', '.join(map(str, gone))} came after the checkpoint; they are trained again")
    rewind_metrics(output / schema.METRICS_FILE, step=point.step)


def restore_threads(output: Path, reporter: Reporter) -> None:
    """Compute with as many threads as the run began with; say so, and what else differs."""
    before, now = open_run(output).manifest["hardware"], {**hardware(), "processes": world_size()}
    threads = before.get("threads", now["threads"])
    if threads != now["threads"]:
        reporter.line(f"{output}: {threads} threads, as the run began with, instead of {now['threads']}")
        torch.set_num_threads(threads)
    differing = [key for key in ("machine", "processor", "device", "processes") if before.get(key) != now[key]]
    if differing:
        reporter.line(
            f"{output}: the run began on other hardware ({', '.join(differing)}); it goes on, but not in the same bits"
        )


def discard(output: Path) -> None:
    """Remove what an interrupted attempt at this run left: only names that a run writes."""
    for name in (schema.MANIFEST_FILE, schema.METRICS_FILE):
        (output / name).unlink(missing_ok=True)
    for name in (
        schema.TOKENS_FOLDER,
        schema.EPOCHS_FOLDER,
        schema.MODEL_FOLDER,
        schema.CHECKPOINTS_FOLDER,
    ):
        shutil.rmtree(output / name, ignore_errors=True)


def _require_same_start(run: Run, prepared: Prepared) -> None:
    expected = {
        **prepared.facts,
        "tokens": {split: prepared.splits[split].tokens_hash() for split in run.splits},
    }
    found = {
        **{key: run.manifest.get(key) for key in prepared.facts},
        "tokens": {split: run.manifest["tokens"][split]["tokens_hash"] for split in run.splits},
    }
    differing = differing_keys(found, expected)
    if differing:
        raise InputError(
            f"--output: {run.path} holds a run of other data than the recipe gives now, which differs in "
            f"{', '.join(differing)}; restore what it was made from, or name a new directory"
        )
