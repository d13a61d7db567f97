"""Does a run that was killed end, when it is resumed, in the bits of one that was not, under full_determinism?

The promise of docs/reliability.md, on this device: a small recipe with EntroDrop, and with dropout that draws from the
device's own generator, in bfloat16, through the command line, each run a process of its own. Two run undisturbed, side
by side, with nothing in common, not even the cache; a third is killed by SIGKILL in the middle of an epoch, and
resumed. Weights, every file of records, and metrics but for their wall clock must be the same in all three. Where tiny
there is no second one: a process takes seconds to start.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.protocol import Found, Where, holds
from benchmarks.run_contents import contents, differing
from dynamics.recipe.loading import dump
from dynamics.records import schema
from dynamics.records.check import check_run

ROOT = Path(__file__).parents[3]
DYNAMICS = ("-m", "dynamics")
#: The optimiser step after its first checkpoint before which the third run dies.
STEPS = 3
KILLED = ("-m", "benchmarks.gpu.killed_training", str(STEPS))
WEIGHTS = f"{schema.MODEL_FOLDER}/model.safetensors"


@dataclasses.dataclass
class Attempt:
    """One process that trains into a folder of its own."""

    folder: Path
    process: subprocess.Popen[str]
    started: float
    said: str = ""
    seconds: float = 0.0

    def ended(self, code: int) -> Attempt:
        """Wait for the process; raise RuntimeError unless it ends with `code`."""
        self.said, errors = self.process.communicate()
        self.seconds = time.perf_counter() - self.started
        if self.process.returncode != code:
            raise RuntimeError(
                f"{self.folder.name}: the process ended with {self.process.returncode}, not {code}: "
                f"{(errors or self.said)[-2000:]}"
            )
        return self


def run(where: Where) -> Found:
    """Train two runs undisturbed and kill a third; resume it; compare."""
    with tempfile.TemporaryDirectory() as temporary:
        *undisturbed, killed = side_by_side(where, Path(temporary))
        left = schema.read_manifest(killed.folder / schema.MANIFEST_FILE)
        resumed = started(killed.folder, where, DYNAMICS, resume=True).ended(0)
        return compared(undisturbed, resumed, left)


def side_by_side(where: Where, root: Path) -> list[Attempt]:
    """Return the runs that ended, and last the one that was killed."""
    (root / "recipe.yaml").write_text(dump(recipe(where)))
    names = ["whole"] if where.tiny else ["whole", "again"]
    attempts = [started(root / name, where, DYNAMICS) for name in names]
    attempts.append(started(root / "killed", where, KILLED))
    try:
        return [attempt.ended(0) for attempt in attempts[:-1]] + [attempts[-1].ended(-signal.SIGKILL)]
    finally:
        for attempt in attempts:
            attempt.process.kill()


def compared(undisturbed: Sequence[Attempt], resumed: Attempt, left: dict[str, Any]) -> Found:
    """Compare finished runs; `left` is the manifest that the killed one left."""
    expected = contents(undisturbed[0].folder)
    measured: dict[str, Any] = {
        "weights, sha256": expected[WEIGHTS],
        "files compared": len(expected),
        "undisturbed, s": undisturbed[0].seconds,
        "resumed, s": resumed.seconds,
    }
    checks = []
    for again in undisturbed[1:]:
        twice = differing(contents(again.folder), expected)
        checks.append(holds("resume: the same run twice differs in", ", ".join(twice) or "nothing", not twice))
    if len(undisturbed) == 1:
        measured["the same run twice"] = "not shown where tiny"
    steps = left["steps_per_epoch"]
    died = f"before step {STEPS} of {steps} in an epoch, and its manifest says {left['status']}"
    after = differing(contents(resumed.folder), expected)
    report = check_run(resumed.folder)
    checks += [
        holds("resume: killed", died, 1 < STEPS <= steps and left["status"] == "running"),
        holds("resume: it goes on from its checkpoint", "it continues after epoch 1" in resumed.said),
        holds("resume: killed and resumed, it differs in", ", ".join(after) or "nothing", not after),
        holds("resume: what dynamics check finds", "; ".join(map(str, report.problems)) or "nothing", report.ok),
    ]
    return Found(measured, checks)


def recipe(where: Where) -> dict[str, Any]:
    """Return what all of them run."""
    cpu = {"use_cpu": True, "bf16": True} if where.device == "cpu" else {}
    return {
        "name": "resume",
        "corpus": {"source": "builtin:python-reference", "documents": 8 if where.tiny else 60},
        "tokenizer": {"train": {"vocab_size": 300 if where.tiny else 1024}},
        "model": {"name": "nano"},
        "block_size": 32 if where.tiny else 128,
        "regularizers": [{"name": "entrodrop", "ratio": 0.3}, {"name": "hidden_dropout", "rate": 0.1}],
        "recording": {"train_sequences": 32, "validation_sequences": 16, "dtype": "float32", "training_pass": True},
        "training": {
            "num_train_epochs": 2 if where.tiny else 3,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 16,
            "full_determinism": True,
            **cpu,
        },
    }


def started(folder: Path, where: Where, command: Sequence[str], *, resume: bool = False) -> Attempt:
    """Start Python with a command that ends in that of `dynamics`."""
    train: Sequence[str] = ("train", str(folder.parent / "recipe.yaml"), "--output", str(folder))
    environment = {
        **os.environ,
        "DYNAMICS_CACHE": f"{folder}-cache",
        # On a CPU routes are chosen by timing, each cache for itself; and sums depend on the number of threads.
        "DYNAMICS_HEAD_ROUTE": "mm",
        "OMP_NUM_THREADS": "1",
    }
    # It is for the library to set, before its first product.
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if where.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    process = subprocess.Popen(
        [sys.executable, *command, *train, *(["--resume"] if resume else [])],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Attempt(folder, process, time.perf_counter())
