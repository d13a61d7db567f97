"""A transformers Trainer with regularisers that act during training only, and recording after every epoch.

This class overrides these private methods of transformers.Trainer. They were read in transformers 5.17 and 5.23. Each
is listed with its callers:

- ``_get_train_sampler``: called by ``get_train_dataloader`` (through ``_get_dataloader``), for training only.
- ``_set_signature_columns_if_needed``: called before columns are removed, for every data set.
- ``_save_checkpoint`` and ``_get_output_dir``: called when a checkpoint is due. ``_finalize_training`` also calls
  ``_get_output_dir``.
- ``_save``: called by ``save_model``, for checkpoints and by users.

``_get_num_items_in_batch`` is not overridden, because evaluation calls it too. ``get_batch_samples`` is called in
training only.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, cast

import datasets
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.regularizers.base import Batch, Regularizer
from dynamics.training.batches.filling import FilledDataset, FilledOrder, FillingCollator
from dynamics.training.batches.sequence_dataset import KeyedOrder
from dynamics.training.driving.batch_loss import batch_loss, current_values, loss_by_function, require_plain_loss
from dynamics.training.driving.trainer_callback import LoopCallback, checkpoint_folder
from dynamics.training.driving.trainer_start import loop_of
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.environment.processes import highest_of_ranks, sum_over_ranks, world_size
from dynamics.training.loop.clean_pass import TokenValues
from dynamics.training.loop.training_loop import with_values
from dynamics.training.recording.token_recorder import TokenRecorder
from dynamics.training.resuming.checkpoints import Checkpoints
from dynamics.training.resuming.loop_state import write_loop_state

log = logging.getLogger(__name__)

# Key under which a batch carries what the loader's side found out about it, for `compute_loss`.
_BATCH = "_dynamics_batch"


class DynamicsTrainer(Trainer):
    """A replacement for transformers.Trainer with regularisers and per-epoch recording.

    The Trainer's other features (mixed precision, gradient accumulation, gradient checkpointing, evaluation, trackers)
    work as before. This class computes the training loss itself: the sum over predicted tokens, divided by the number
    of predicted tokens in all micro-batches of the step. Masks, order and metrics do not depend on how a batch is split
    into micro-batches.

    A sequence is identified by its `sequence_id` if the examples have one and the collator keeps it, otherwise by its
    tokens.

    Parameters
    ----------
    model, args, **kwargs
        As for transformers.Trainer. Labels are -100 where a token is not predicted. A `compute_loss_func` is called in
        training, with the labels that the regularisers keep; it needs the logits of the whole batch.
    regularizers : sequence of Regularizer
        They are given the training set, and the model's loss and entropy on it, when training begins.
    recorder : TokenRecorder, optional
        Records the training set, and `eval_dataset` as validation.
    fused : bool
        Compute losses directly from hidden states if the model's head allows it (`fused_head`), without storing the
        logits of a whole batch. Methods that compute token weights from logits still need the logits.
    callback : LoopCallback, optional
        Replaces `regularizers` and `recorder`: the callback of a loop that is already open.
    checkpoints : Checkpoints, optional
        Writes checkpoints atomically. By default the Trainer writes them in its own way.

    Raises
    ------
    InputError
        A regulariser and `args` set the same field to different values; a method needs its own loss and
        `compute_loss_func` is set; or, when training begins, the model's own loss contains more than the token loss.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        regularizers: Sequence[Regularizer] = (),
        recorder: TokenRecorder | None = None,
        fused: bool = True,
        callback: LoopCallback | None = None,
        checkpoints: Checkpoints | None = None,
        **kwargs: Any,
    ) -> None:
        if callback is None:
            args = _with_fields(args, regularizers)
            callback = loop_of(regularizers, recorder, losses=True, fused=fused)
        super().__init__(model, args, *positional, **kwargs)
        if self.compute_loss_func is not None:
            _require_no_own_loss(callback.loop.methods.all)
        if self.args.n_gpu > 1:
            # DataParallel would split each batch after the regularisers have read it.
            log.warning(
                "one process uses one device, but %d are visible; to use all, start one process per device (torchrun)",
                self.args.n_gpu,
            )
            self.args._n_gpu = 1
            self._train_batch_size = self.args.train_batch_size
        self.checkpoints = checkpoints
        self._staging: str | None = None
        self._loss_is_known = False
        self.loop_callback = callback
        self.loop = callback.loop
        callback.saves = checkpoints is None
        callback.bind(self)
        self.add_callback(callback)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers.Trainer does. The hooks are removed from the model afterwards, also after an error."""
        self.loop_callback.resumes_from = checkpoint_folder(self, resume_from_checkpoint)
        self._loss_is_known = False
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.loop_callback.detach()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the data."""
        batches = math.ceil(len(cast(Sized, self.train_dataset)) / (self.args.train_batch_size * world_size()))
        return math.ceil(batches / self.args.gradient_accumulation_steps)

    # From the data loader to the loss. -----------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the micro-batches of a step, and the number of predicted tokens or the sum of their weights.

        Each micro-batch is read here, once. The result is passed on to `compute_loss` inside the micro-batch.
        """
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not samples:
            return samples, None
        total = torch.zeros((), device=device)
        for sample in samples:
            batch = self.loop.read(self._prepare_inputs(sample))
            weight = self.loop.methods.token_weight(batch) if self.loop.methods.normalizes_by_kept else None
            total += batch.predicted.sum() if weight is None else (weight * batch.predicted).sum()
            sample[_BATCH] = batch
        if self.args.average_tokens_across_devices:
            total = sum_over_ranks(total)
        # If every token of the batch is dropped, the loss is 0 instead of 0 / 0.
        return samples, total.clamp_min(1.0)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Use the loss unchanged: it is already divided by the tokens of the whole step, for every model."""
        accepts, self.model_accepts_loss_kwargs = self.model_accepts_loss_kwargs, True
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self.model_accepts_loss_kwargs = accepts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the regularised loss of one micro-batch: the weighted sum divided by `num_items_in_batch`.

        Losses of second forward passes that methods ask for are added. In evaluation, return the Trainer's own loss.
        """
        inputs = dict(inputs)
        batch: Batch | None = inputs.pop(_BATCH, None)
        if not (model.training and torch.is_grad_enabled()):
            inputs.pop("sequence_id", None)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if batch is None:  # the caller's own training step did not use get_batch_samples
            batch = self.loop.read(inputs)
        inputs.pop("sequence_id", None)
        # The first token of a sequence is not predicted: no token of the same sequence precedes it.
        labels = inputs.pop("labels").masked_fill(~batch.predicted, IGNORE_INDEX)
        dtype = forward_dtype(self.args)
        if not self._loss_is_known and self.compute_loss_func is None:
            # A batch without predicted tokens cannot be checked, so the next one is. All ranks check the same step.
            silent = int(not bool((labels != IGNORE_INDEX).any()))
            if highest_of_ranks(silent) == 0:
                require_plain_loss(model, {**inputs, "labels": labels}, dtype=dtype)
                self._loss_is_known = True
        if self.loop.methods.needs_current_values:
            batch = with_values(batch, current_values(model, inputs, dtype=dtype, fused=self.loop_callback.fused))
        n_items = batch.predicted.sum().clamp_min(1) if num_items_in_batch is None else num_items_in_batch

        def one_pass() -> tuple[Any, torch.Tensor, Any]:
            return self._one_pass(model, inputs, labels, batch, n_items)

        # Gradients are averaged over ranks, and n_items may count the tokens of all ranks.
        of_all = self.args.average_tokens_across_devices and num_items_in_batch is not None
        n_processes = self.accelerator.num_processes
        # The metrics add up what each rank reports.
        noted = 1 if of_all else n_processes
        with self.loop.armed(batch):
            outputs, loss, values = one_pass()
            auxiliary = self.loop.methods.auxiliary_loss(batch, lambda: one_pass()[1])
            shown = None if auxiliary is None else auxiliary / noted
            self.loop.end_batch(batch, loss / noted, values, auxiliary=shown)
        if auxiliary is not None:
            loss = loss + auxiliary
        if of_all:
            loss = loss * n_processes
        return (loss, outputs) if return_outputs else loss

    def _one_pass(
        self, model: torch.nn.Module, inputs: dict[str, Any], labels: torch.Tensor, batch: Batch, n_items: Any
    ) -> tuple[Any, torch.Tensor, TokenValues | None]:
        """Run one forward pass; return the output, the regularised loss and the values of the tokens."""
        if self.compute_loss_func is not None:
            return loss_by_function(
                model, inputs, labels, batch, loop=self.loop, function=self.compute_loss_func, n_items=n_items
            )
        outputs, total, values = batch_loss(
            model,
            inputs,
            labels,
            batch,
            loop=self.loop,
            fused=self.loop_callback.fused,
            label_smoothing=self.args.label_smoothing_factor,
        )
        return outputs, total / n_items, values

    # Data. ---------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Return the loader. With several ranks, no sequence counts twice when the last batch is filled up."""
        if world_size() == 1 or self.args.dataloader_drop_last or not hasattr(self.train_dataset, "__len__"):
            return super().get_train_dataloader()
        dataset, collator = self.train_dataset, self.data_collator
        rows = dataset
        if isinstance(dataset, datasets.Dataset):
            rows = cast(Any, self)._remove_unused_columns(dataset, description="training")
        self.train_dataset = cast(Any, FilledDataset(rows))
        self.data_collator = cast(Any, FillingCollator(cast(Any, collator), rows))
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy == "random":
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            order: Any = KeyedOrder(len(cast(Sized, dataset)), seed)
        else:
            order = super()._get_train_sampler(dataset)
        if isinstance(dataset, FilledDataset):
            order = FilledOrder(order, len(dataset), world_size() * self.args.train_batch_size)
        self.loop_callback.order = order if hasattr(order, "set_epoch") else None
        return order

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # Without this, remove_unused_columns (true by default) would drop a column that the model does not take.
        columns = cast(list[str], self._signature_columns)
        if "sequence_id" not in columns:
            columns.append("sequence_id")

    # Checkpoints. --------------------------------------------------------------------------------

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.checkpoints is None:
            super()._save_checkpoint(*args, **kwargs)
            return
        with self.checkpoints.writing(
            epoch=self.loop.epoch,
            step=self.state.global_step,
            main_process=self.args.should_save,
            wait=self.accelerator.wait_for_everyone,
        ) as staging:
            self._staging = str(staging)
            try:
                super()._save_checkpoint(*args, **kwargs)
                write_loop_state(self.loop, staging / f"checkpoint-{self.state.global_step}")
            finally:
                self._staging = None

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # The arguments are pickled here. Nothing in this library reads the file, and loading it could run code.
        pickled = os.path.join(output_dir or self.args.output_dir or "", TRAINING_ARGS_NAME)
        if os.path.exists(pickled):
            os.remove(pickled)


def _require_no_own_loss(regularizers: Sequence[Regularizer]) -> None:
    for method in regularizers:
        if method.adapts or method.normalizes_by_kept:
            raise InputError(
                f"compute_loss_func computes the loss, but {type(method).__name__} needs to weight or count tokens in "
                "a loss of its own; remove one of them"
            )


def _with_fields(args: TrainingArguments | None, regularizers: Sequence[Regularizer]) -> TrainingArguments | None:
    """Return a copy of `args` with the fields that the regularisers set."""
    fields: Mapping[str, Any] = {k: v for method in regularizers for k, v in method.training_arguments().items()}
    if not fields:
        return args
    if args is None:
        args = TrainingArguments()
    defaults = TrainingArguments.__dataclass_fields__
    changed = copy.copy(args)
    for key, value in fields.items():
        if getattr(args, key) not in (defaults[key].default, value):
            raise InputError(f"args.{key} is {getattr(args, key)!r}, but a regulariser sets it to {value!r}; keep one")
        setattr(changed, key, value)
    return changed
