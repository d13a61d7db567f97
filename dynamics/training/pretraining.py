"""Pretraining of a recipe's starting model: an ordinary training without records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from dynamics.corpus.packing import PackedSplit
from dynamics.recipe.settings import Recipe
from dynamics.reporting import Reporter
from dynamics.training.batches.batch_reader import BatchReader
from dynamics.training.batches.sequence_dataset import SequenceDataset
from dynamics.training.driving.trainer_callback import LoopCallback
from dynamics.training.environment.arguments import training_arguments
from dynamics.training.environment.hardware import leaving_the_device_free
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.loop.training_pass import Moment, TrainingPass
from dynamics.training.preparation.prepare import Prepared, prepare
from dynamics.training.trainer import DynamicsTrainer


def prepare_recipe(recipe: Recipe, reporter: Reporter, *, precision: str | None = None) -> Prepared:
    """Return the starting point of a run of `recipe`, computed or found in the cache; see `prepare`."""
    return prepare(recipe, reporter, pretrain=pretrain, precision=precision)


def reference(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """Run only the reference pass; return its ``path``, whether it was ``cached``, and its means."""
    with leaving_the_device_free():
        prepared = prepare_recipe(recipe, reporter)
    return {
        "path": prepared.reference_path,
        "cached": prepared.reference_cached,
        **{
            split: {
                "n_tokens": prepared.splits[split].n_predicted,
                "loss": values.mean_loss,
                "entropy": float(np.nanmean(values.entropy, dtype=np.float64)),
            }
            for split, values in prepared.reference.items()
        },
    }


def pretrain(
    model: PreTrainedModel, packed: PackedSplit, training: dict[str, Any], seed: int, path: Path, reporter: Reporter
) -> float:
    """Train `model` in place; return its mean training loss over the last epoch, in nats."""
    with leaving_the_device_free():
        return _pretrain(model, packed, training, seed, path, reporter)


def _pretrain(
    model: PreTrainedModel, packed: PackedSplit, training: dict[str, Any], seed: int, path: Path, reporter: Reporter
) -> float:
    args = training_arguments(training, output_dir=path, seed=seed, where="base.training")
    losses = _Losses()
    n_sequences, n_positions = packed.token_id.shape
    with reporter.progress(n_sequences * int(training["num_train_epochs"]), "pretraining the base") as progress:
        loop = TrainingLoop(recording=losses, on_batch=progress.update)
        loop.open(BatchReader(torch.arange(n_sequences, device="cpu"), n_positions), total_steps=1)
        trainer = DynamicsTrainer(
            model=model,
            args=args,
            train_dataset=SequenceDataset(packed.token_id, packed.labels()),
            callback=LoopCallback(loop, fused=True),
        )
        trainer.train()
    model.to("cpu")  # type: ignore[arg-type]
    return losses.last


class _Losses:
    """A `Recording` that keeps only the training loss of the last pass."""

    last = float("nan")

    def epoch(self, model: torch.nn.Module, moment: Moment, seen: TrainingPass) -> None:
        if seen.mean_loss is not None:
            self.last = seen.mean_loss

    def recorded(self, epoch: int) -> None:
        return None

    def finish(self) -> None:
        return None
