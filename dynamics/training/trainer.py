"""transformers' Trainer, with regularisers that act on training alone, and recording after every epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX, shift, weighted_loss
from dynamics.regularizers.base import Batch, Regularizer
from dynamics.training.dataset import KeyedOrder
from dynamics.training.step_metrics import StepMetrics


class DynamicsTrainer(Trainer):
    """A Trainer whose examples carry a `sequence_id`, with regularisers and per-epoch recording.

    The Trainer's own features (mixed precision, accumulation, gradient checkpointing, trackers) stay its own. This
    class computes the training loss, as the sum over predicted tokens divided by the predicted tokens of the
    whole accumulated batch, and keeps masks, order and metrics independent of how the batch is split.

    Parameters
    ----------
    *args, **kwargs
        As for transformers.Trainer. `remove_unused_columns` must be false. Labels are -100 where a token has
        no prediction, position 0 among them.
    regularizers : sequence of Regularizer
        Already prepared with the training set.
    metrics : StepMetrics, optional
        Receives a row per optimiser step.
    on_epoch : callable, optional
        Called as ``on_epoch(trainer, epoch, dropped, training_loss)`` before training (epoch 0, unless the run
        resumes later) and after each epoch. `dropped` is a bool array (n_sequences, n_positions), or None
        where no regulariser drops tokens; `training_loss` is the mean of the epoch's steps, in nats.
    on_batch : callable, optional
        Called with the number of sequences of each micro-batch, for progress bars.

    Raises
    ------
    InputError
        `remove_unused_columns` is true, so that `sequence_id` would be lost.
    """

    def __init__(
        self,
        *args: Any,
        regularizers: Sequence[Regularizer] = (),
        metrics: StepMetrics | None = None,
        on_epoch: Callable[[DynamicsTrainer, int, np.ndarray | None, float | None], None] | None = None,
        on_batch: Callable[[int], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.args.remove_unused_columns:
            raise InputError(
                "remove_unused_columns: true would drop sequence_id, by which tokens are known; set it to false"
            )
        # One process uses one device: DataParallel would split a batch behind the regularisers' back.
        self.args._n_gpu = min(self.args.n_gpu, 1)
        # The loss below is divided by the tokens of the whole accumulated batch, whatever the model accepts.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.regularizers = tuple(regularizers)
        self.step_metrics = metrics if metrics is not None else StepMetrics(None)
        self._on_epoch = on_epoch
        self._on_batch = on_batch
        self._dropped: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._handles: list[RemovableHandle] = []
        self.add_callback(_TrainingCallback(self))
        # The Trainer's own lines would stand between ours; trackers get the same values.
        self.remove_callback(PrinterCallback)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers.Trainer does; hooks are off the model afterwards, whatever happened."""
        try:
            return super().train(*args, **kwargs)
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the data."""
        batches = math.ceil(len(self.train_dataset) / self.args.train_batch_size)  # type: ignore[arg-type]
        return math.ceil(batches / self.args.gradient_accumulation_steps)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the regularised loss of one micro-batch: weighted sum over `num_items_in_batch`."""
        inputs = dict(inputs)
        sequence_id = inputs.pop("sequence_id")
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        batch = self._batch(sequence_id, labels)
        with self._armed(batch):
            outputs = model(**inputs)
        total = weighted_loss(
            *shift(outputs.logits, labels),
            token_weight=self._token_weight(batch),
            label_smoothing=self.args.label_smoothing_factor,
        )
        n_items = batch.predicted.sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / n_items
        dropped = self._note_dropped(batch)
        self.step_metrics.add_batch(loss_sum=loss, dropped=dropped, predicted=batch.predicted)
        if self._on_batch is not None:
            self._on_batch(len(sequence_id))
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Gradients are averaged over processes, and n_items counts the tokens of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _batch(self, sequence_id: torch.Tensor, labels: torch.Tensor) -> Batch:
        step = self.state.global_step
        return Batch(
            sequence_id=sequence_id,
            predicted=labels != IGNORE_INDEX,
            epoch=step // self.steps_per_epoch + 1,
            progress=step / self.state.max_steps,
        )

    @contextmanager
    def _armed(self, batch: Batch) -> Iterator[None]:
        for method in self.regularizers:
            method.begin_batch(batch)
        try:
            yield
        finally:
            for method in self.regularizers:
                method.end_batch()

    def _token_weight(self, batch: Batch) -> torch.Tensor | None:
        """Product of the methods' weights, for the targets that `shift` leaves: shape (B * (T - 1),)."""
        weights = [w for method in self.regularizers if (w := method.token_weight(batch)) is not None]
        return torch.stack(weights).prod(dim=0)[:, 1:].flatten() if weights else None

    def _note_dropped(self, batch: Batch) -> torch.Tensor | None:
        masks = [mask for method in self.regularizers if (mask := method.dropped(batch)) is not None]
        if not masks:
            return None
        dropped = torch.stack(masks).any(dim=0)
        self._dropped.append((batch.sequence_id, dropped))
        return dropped

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        n_predicted = super()._get_num_items_in_batch(batch_samples, device)
        if not any(method.normalizes_by_kept for method in self.regularizers):
            return n_predicted
        kept = torch.zeros((), device=device)
        for sample in batch_samples:
            labels = sample["labels"].to(device)
            weight = self._token_weight(self._batch(sample["sequence_id"].to(device), labels))
            predicted = (labels != IGNORE_INDEX)[:, 1:].flatten()
            kept += predicted.sum() if weight is None else (weight * predicted).sum()
        # A batch whose every token is dropped has a loss of 0, not 0 / 0.
        return kept.clamp_min(1.0)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return KeyedOrder(len(cast(Sized, dataset)), seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle of the arguments: nothing reads it here, and loading it would run code.
        pickled = os.path.join(output_dir or self.args.output_dir or "", TRAINING_ARGS_NAME)
        if os.path.exists(pickled):
            os.remove(pickled)

    def attach_regularizers(self) -> None:
        """Put every method's hooks on the model. NEFTune's are there already, so masks act after its noise."""
        model = self.accelerator.unwrap_model(self.model)
        for method in self.regularizers:
            self._handles.extend(method.attach(model))

    def end_epoch(self, epoch: int, training_loss: float | None) -> None:
        """Hand the epoch to `on_epoch`, with the tokens dropped in it."""
        dropped = None
        if any(method.ratio(0.0) is not None for method in self.regularizers):
            dataset: Any = self.train_dataset
            dropped = np.zeros((len(dataset), len(dataset[0]["labels"])), dtype=np.bool_)
            for sequence_id, mask in self._dropped:
                dropped[sequence_id.cpu().numpy()] = mask.cpu().numpy()
        self._dropped = []
        if self._on_epoch is not None:
            self._on_epoch(self, epoch, dropped, training_loss)
        self.step_metrics.restart_clock()


class _TrainingCallback(TrainerCallback):
    """Where the Trainer tells DynamicsTrainer how far it is."""

    def __init__(self, trainer: DynamicsTrainer) -> None:
        self._trainer = trainer
        self._learning_rate = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer.attach_regularizers()
        if state.global_step == 0:
            self._trainer.end_epoch(0, None)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Before the scheduler moves on: the rate that this step used.
        self._learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        progress = (state.global_step - 1) / state.max_steps
        ratios = [r for method in self._trainer.regularizers if (r := method.ratio(progress)) is not None]
        self._trainer.step_metrics.end_step(
            {
                "step": state.global_step,
                "epoch": state.epoch,
                "learning_rate": self._learning_rate,
                "ratio": 1.0 - float(np.prod([1.0 - ratio for ratio in ratios])) if ratios else None,
            }
        )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert state.epoch is not None
        self._trainer.end_epoch(round(state.epoch), self._trainer.step_metrics.end_epoch())
