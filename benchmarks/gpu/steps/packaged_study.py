"""The packaged study's baseline arm, trained here in bfloat16, against the same training in float32 on the CPU.

That a loss falls says little. Here a training is held against another one, token by token and epoch by epoch: on the
tokens of the example's baseline arm, seed 0, in its order and with its settings but for the rate of learning, for three
epochs. The example ships no weights. So both begin with a small model that the CPU has trained on these tokens, and the
CPU's records are made here.

The limits come from bfloat16 autocast on a CPU against float32 there: before training losses were 0.002 nats apart
(root mean square); means of the losses up to 0.0003; Spearman's correlation between tokens was at least 0.9999 of
losses and 0.937 of entropies. In the order of another seed it was 0.989 to 0.996, and 0.30 to 0.78: another order of
the data, or a mask a place too far, would not pass.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.stats import spearmanr
from transformers import PrinterCallback

from benchmarks.gpu.protocol import Check, Found, Where, at_most, holds
from benchmarks.trainings import qwen3
from dynamics import DynamicsTrainer, TokenRecorder, load_example, open_run
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.predicted import predicted_mask
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.records.reader import Run
from dynamics.training.batches.sequence_dataset import SequenceDataset
from dynamics.training.environment.arguments import training_arguments

START_NATS, MEAN_NATS = 0.02, 0.02
LEAST_CORRELATION = {"loss": 0.999, "entropy": 0.9}
EPOCHS, START_EPOCHS = 3, 6
# Of a small model that begins at random; the example's is pretrained.
LEARNING_RATE = 1e-3
_TINY_VALIDATION = 40
SPLITS = ("validation", "train")
# Of a CPU that runs other steps meanwhile: small products that wait for sixteen threads wait for the slowest.
_MOST_THREADS = 4


def run(where: Where) -> Found:
    """Train the arm twice; where tiny, one epoch of it, and with some of the validation sequences."""
    torch.set_num_threads(min(_MOST_THREADS, torch.get_num_threads()))
    shipped = load_example().run("baseline", 0)
    with tempfile.TemporaryDirectory() as temporary:
        start = starting_model(shipped, Path(temporary), tiny=where.tiny)
        again = copy.deepcopy(start)
        reference = trained(start, shipped, Path(temporary) / "cpu", device="cpu", bf16=False, tiny=where.tiny)
        mine = trained(again, shipped, Path(temporary) / "device", device=where.device, bf16=True, tiny=where.tiny)
        checks = [
            holds(f"packaged study: {split} tokens are the example's", same_tokens(shipped, mine, split))
            for split in SPLITS
        ]
        # Near its random start a model is as unsure of one token as of another.
        limits = {name: limit for name, limit in LEAST_CORRELATION.items() if not (where.tiny and name == "entropy")}
        measured, compared = held_against(reference, mine, limits)
        report = check_run(mine.path)
        said = "; ".join(map(str, report.problems)) or "nothing"
        checks += [*compared, holds("packaged study: what dynamics check finds", said, report.ok)]
    if where.tiny:
        measured["not shown where tiny"] = (
            "more than one epoch from a model past its first steps, and whether entropies agree"
        )
    return Found(measured, checks)


def starting_model(shipped: Run, folder: Path, *, tiny: bool) -> Any:
    """Return a model past its first steps, in which rounding soon decides where a model goes."""
    model = qwen3("nano", shipped.manifest["tokenizer"]["vocab_size"])
    if not tiny:
        start = folder / "start"
        trainer_of(model, shipped, start, device="cpu", bf16=False, epochs=START_EPOCHS).train()
    return model


def trained(model: Any, shipped: Run, folder: Path, *, device: str, bf16: bool, tiny: bool) -> Run:
    """Train a model on a run's own tokens, and open what was recorded."""
    recorder = TokenRecorder(folder / "run", train_sequences=len(shipped.records("train").sequence_id))
    how: dict[str, Any] = {"epochs": 1 if tiny else EPOCHS, "validation": _TINY_VALIDATION if tiny else None}
    trainer_of(model, shipped, folder, device=device, bf16=bf16, recorder=recorder, **how).train()
    return open_run(folder / "run")


def trainer_of(
    model: Any,
    shipped: Run,
    folder: Path,
    *,
    device: str,
    bf16: bool,
    epochs: int,
    validation: int | None = None,
    **more: Any,
) -> Any:
    """Return a trainer on a run's own tokens, with its settings but for epochs and the rate of learning."""
    most = {"train": None, "validation": validation}
    data = {split: SequenceDataset(*(part[:n] for part in _arrays(shipped, split))) for split, n in most.items()}
    settings = {**shipped.config["training"], "num_train_epochs": epochs, "learning_rate": LEARNING_RATE}
    settings |= {"bf16": bf16, "use_cpu": device == "cpu"}
    trainer = DynamicsTrainer(
        model,
        training_arguments(settings, output_dir=folder / "out", seed=shipped.manifest["seeds"]["seed"]),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def held_against(reference: Run, mine: Run, limits: Mapping[str, float]) -> tuple[dict[str, Any], list[Check]]:
    """Compare two trainings of one arm, epoch by epoch; `limits` are the least correlations."""
    measured: dict[str, Any] = {}
    checks: list[Check] = []
    for split in SPLITS:
        epochs = [_compared(reference, mine, split, epoch) for epoch in mine.epochs]
        measured[split] = {key: [one[key] for one in epochs] for key in epochs[0]}
        apart = max(abs(one["mean loss, nats"] - one["mean loss of the CPU, nats"]) for one in epochs)
        checks.append(at_most(f"packaged study: {split} means, nats from the CPU's", apart, MEAN_NATS))
        before = epochs[0]["losses apart, root mean square, nats"]
        checks.append(at_most(f"packaged study: {split}, losses before training, nats apart", before, START_NATS))
        for name, limit in limits.items():
            least = min(one[f"correlation of {name}"] for one in epochs)
            what = f"packaged study: {split}, correlation of {name} with the CPU's, least of the epochs"
            checks.append(holds(what, f"{least:.5f}", least >= limit))
    return measured, checks


def same_tokens(shipped: Run, mine: Run, split: str) -> bool:
    """Whether the second run recorded the first one's tokens, in the same places; padding is nobody's."""
    theirs, ours = shipped.records(split), mine.records(split)
    n = len(ours.sequence_id)
    real = theirs.document_id[:n] >= 0
    return (
        np.array_equal(theirs.sequence_id[:n], ours.sequence_id)
        and np.array_equal(theirs.token_id[:n][real], ours.token_id[real])
        and np.array_equal(np.isnan(theirs.loss(0)[:n]), np.isnan(ours.loss(0)))
    )


def _compared(reference: Run, mine: Run, split: str, epoch: int) -> dict[str, float]:
    ours = mine.records(split)
    found: dict[str, float] = {}
    for name in ("loss", "entropy"):
        here = np.asarray(getattr(ours, name)(epoch), dtype=np.float64)
        there = np.asarray(getattr(reference.records(split), name)(epoch), dtype=np.float64)
        known = ~np.isnan(there)
        here, there = here[known], there[known]
        found[f"correlation of {name}"] = float(spearmanr(here, there).statistic)
        if name == "loss":
            found["mean loss, nats"], found["mean loss of the CPU, nats"] = float(here.mean()), float(there.mean())
            found["losses apart, root mean square, nats"] = float(np.sqrt(np.mean((here - there) ** 2)))
    return found


def _arrays(shipped: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and labels of every sequence of a split, recorded or not."""
    tokens: Mapping[str, np.ndarray] = load_file(shipped.path / schema.tokens_file(split))
    predicted = predicted_mask(tokens["document_id"])
    return tokens["token_id"], np.where(predicted, tokens["token_id"], IGNORE_INDEX).astype(np.int64)
