"""The packaged study's baseline arm, trained here in bfloat16, against the CPU's float32 records that ship with it.

That a loss falls says little. Here a training is held against one that everybody has: the example's baseline arm, seed
0, on the same tokens in the same order from the same starting model (`benchmarks.gpu.example_start`), token by token
and epoch by epoch, until it overfits.

The limits come from trainings on a CPU, held against the same records: means of the validation loss in nats,
differences of single losses as root mean squares, and Spearman's correlations between tokens, at the worst of the seven
epochs.

- float32, from the starting model in float16: means within 0.0001, losses 0.012, correlations 1.0000.
- bfloat16 autocast: means within 0.0005, losses 0.045, correlations 0.9999 of losses and 0.9997 of entropies.
- the example's seeds among themselves, epochs 1, 3 and 7: means up to 0.017 apart, losses 0.85 to 1.2, correlations
  0.93 to 0.96 of losses and 0.81 to 0.87 of entropies.

So a mean may be 0.02 off, for logits that a device rounds to bfloat16 move means; and a correlation must be 0.99, which
another order of the data, or a mask a place too far, does not reach.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy.stats import spearmanr
from transformers import PrinterCallback, TrainerCallback

from benchmarks.gpu.example_start import starting_model
from benchmarks.gpu.protocol import Check, Found, Where, at_most, holds
from dynamics import DynamicsTrainer, TokenRecorder, load_example, open_run
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.predicted import predicted_mask
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.records.reader import Run
from dynamics.training.batches.sequence_dataset import SequenceDataset
from dynamics.training.environment.arguments import training_arguments

MEAN_NATS, LEAST_CORRELATION = 0.02, 0.99
_TINY_VALIDATION = 40


def run(where: Where) -> Found:
    """Train the arm; where tiny, one epoch of it, and with some of the validation sequences."""
    shipped = load_example().run("baseline", 0)
    with tempfile.TemporaryDirectory() as temporary:
        mine = trained(shipped, where, Path(temporary))
        measured, checks = held_against(shipped, mine)
        report = check_run(mine.path)
        said = "; ".join(map(str, report.problems)) or "nothing"
        checks.append(holds("packaged study: what dynamics check finds", said, report.ok))
    if where.tiny:
        measured["epochs 2 to 7"] = "not shown where tiny: they take a CPU too long"
    return Found(measured, checks)


class StopsAfterFirst(TrainerCallback):
    """Ends training with its first epoch, on the schedule of the whole."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


def trained(shipped: Run, where: Where, folder: Path) -> Run:
    """Train on a run's own tokens with its own settings, and open what was recorded."""
    most = {"train": None, "validation": _TINY_VALIDATION if where.tiny else None}
    data = {split: SequenceDataset(*(part[:n] for part in _arrays(shipped, split))) for split, n in most.items()}
    precision: dict[str, Any] = {"bf16": True, "use_cpu": where.device == "cpu"}
    seed = shipped.manifest["seeds"]["seed"]
    trainer = DynamicsTrainer(
        starting_model(),
        training_arguments({**shipped.config["training"], **precision}, output_dir=folder / "out", seed=seed),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        recorder=TokenRecorder(folder / "run", train_sequences=len(shipped.records("train").sequence_id)),
        callbacks=[StopsAfterFirst()] if where.tiny else [],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return open_run(folder / "run")


def held_against(shipped: Run, mine: Run) -> tuple[dict[str, Any], list[Check]]:
    """Compare two trainings of one arm, over the epochs and the sequences that the second has."""
    measured: dict[str, Any] = {"reference": f"baseline, seed 0, on {shipped.manifest['hardware']['processor']}"}
    checks: list[Check] = []
    for split in ("validation", "train"):
        same = _same_tokens(shipped, mine, split)
        checks.append(holds(f"packaged study: {split} tokens are the example's", same))
        if not same:
            continue
        epochs = [_compared(shipped, mine, split, epoch) for epoch in mine.epochs]
        measured[split] = {key: [one[key] for one in epochs] for key in epochs[0]}
        apart = max(abs(one["mean loss, nats"] - one["mean loss of the example, nats"]) for one in epochs)
        checks.append(at_most(f"packaged study: {split} means, nats from the CPU's", apart, MEAN_NATS))
        for name in ("loss", "entropy"):
            least = min(one[f"correlation of {name}"] for one in epochs)
            what = f"packaged study: {split}, correlation of {name} with the CPU's, least of the epochs"
            checks.append(holds(what, f"{least:.5f}", least >= LEAST_CORRELATION))
    if mine.epochs == shipped.epochs and "validation" in measured:
        rebound = {
            whose: curve[-1] - min(curve)
            for whose, curve in (
                ("here", measured["validation"]["mean loss, nats"]),
                ("example", measured["validation"]["mean loss of the example, nats"]),
            )
        }
        measured["rebound of the validation loss, nats"] = rebound
        apart = abs(rebound["here"] - rebound["example"])
        checks.append(at_most("packaged study: rebound, nats from the CPU's", apart, MEAN_NATS))
    return measured, checks


def _same_tokens(shipped: Run, mine: Run, split: str) -> bool:
    """Whether the second run recorded the first one's tokens, in the same places; padding is nobody's."""
    theirs, ours = shipped.records(split), mine.records(split)
    n = len(ours.sequence_id)
    real = theirs.document_id[:n] >= 0
    return (
        np.array_equal(theirs.sequence_id[:n], ours.sequence_id)
        and np.array_equal(theirs.token_id[:n][real], ours.token_id[real])
        and np.array_equal(np.isnan(theirs.loss(0)[:n]), np.isnan(ours.loss(0)))
    )


def _compared(shipped: Run, mine: Run, split: str, epoch: int) -> dict[str, float]:
    ours = mine.records(split)
    found: dict[str, float] = {}
    for name in ("loss", "entropy"):
        here = np.asarray(getattr(ours, name)(epoch), dtype=np.float64)
        there = np.asarray(getattr(shipped.records(split), name)(epoch), dtype=np.float64)[: len(here)]
        known = ~np.isnan(there)
        here, there = here[known], there[known]
        found[f"correlation of {name}"] = float(spearmanr(here, there).statistic)
        if name == "loss":
            found["mean loss, nats"], found["mean loss of the example, nats"] = float(here.mean()), float(there.mean())
            found["losses apart, root mean square, nats"] = float(np.sqrt(np.mean((here - there) ** 2)))
    return found


def _arrays(shipped: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and labels of every sequence of a split, recorded or not."""
    tokens: Mapping[str, np.ndarray] = load_file(shipped.path / schema.tokens_file(split))
    predicted = predicted_mask(tokens["document_id"])
    return tokens["token_id"], np.where(predicted, tokens["token_id"], IGNORE_INDEX).astype(np.int64)
