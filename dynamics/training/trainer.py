"""transformers' Trainer, with regularisers that act on training alone, and recording after every epoch."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import get_last_checkpoint

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics, unshift, weighted_loss
from dynamics.regularizers.base import Regularizer
from dynamics.training.attach import open_session
from dynamics.training.batches.dataset import KeyedOrder
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.environment.processes import sum_of, world_size
from dynamics.training.loop.clean_pass import TokenValues, forward_context
from dynamics.training.loop.fused_head import HeadRequest
from dynamics.training.loop.session import Session
from dynamics.training.recording.token_recorder import TokenRecorder
from dynamics.training.resuming.checkpoints import Checkpoints

#: What regularisers have learned while training went on, in a checkpoint's folder.
REGULARIZERS_FILE = "regularizers.json"


class DynamicsTrainer(Trainer):
    """A Trainer with regularisers and per-epoch recording, in place of transformers.Trainer.

    The Trainer's own features (mixed precision, accumulation, gradient checkpointing, trackers) stay its own. This
    class computes the training loss, as the sum over predicted tokens divided by the predicted tokens of the
    whole accumulated batch, and keeps masks, order and metrics independent of how the batch is split.

    A sequence is known by its `sequence_id`, where the examples have one and the collator keeps it, else by its tokens.

    Parameters
    ----------
    model, args, **kwargs
        As for transformers.Trainer. Labels are -100 where a token has no prediction.
    regularizers : sequence of Regularizer
        They see the training set, and its values under the model as it is, when training begins.
    recorder : TokenRecorder, optional
        Records the training set, and `eval_dataset` as validation.
    session : Session, optional
        In place of both, with all that it needs to know already.
    fused : bool
        Compute losses straight from hidden states where the model's head allows it (`fused_head`), never holding
        the logits of a whole batch. Methods that weigh tokens by their own predictions need the logits.
    checkpoints : Checkpoints, optional
        Where checkpoints go that must be whole; otherwise the Trainer writes them as it does.

    Raises
    ------
    InputError
        A regulariser and `args` set the same field to different values, or the model adds a loss of its own.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        regularizers: Sequence[Regularizer] = (),
        recorder: TokenRecorder | None = None,
        session: Session | None = None,
        fused: bool = True,
        checkpoints: Checkpoints | None = None,
        **kwargs: Any,
    ) -> None:
        if session is None:
            args = _with_fields(args, regularizers)
            session = open_session(regularizers, recorder, losses=True)
        super().__init__(model, args, *positional, **kwargs)
        if getattr(getattr(self.model, "config", None), "output_router_logits", False):
            raise InputError(
                "output_router_logits: this trainer computes the loss of tokens alone, and the model's configuration "
                "asks for a router's loss beside it; set it to false"
            )
        # One process uses one device: DataParallel would split a batch behind the regularisers' back.
        self.args._n_gpu = min(self.args.n_gpu, 1)
        # The loss below is divided by the tokens of the whole accumulated batch, whatever the model accepts.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.checkpoints = checkpoints
        self._staging: str | None = None
        self.session = session
        session.wants_fused = fused
        session.bind(self)
        self.add_callback(session)
        # The Trainer's own lines would stand between ours; trackers get the same values.
        self.remove_callback(PrinterCallback)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers.Trainer does; hooks are off the model afterwards, whatever happened."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = cast(Any, get_last_checkpoint)(self.args.output_dir)
        if folder:
            file = Path(str(folder)) / REGULARIZERS_FILE
            self.session.resumed_state = json.loads(file.read_text()) if file.is_file() else {}
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.session.detach()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the data."""
        batches = math.ceil(len(cast(Sized, self.train_dataset)) / (self.args.train_batch_size * world_size()))
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
        if not model.training:
            inputs.pop("sequence_id", None)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = self.session.batch(inputs, self.session.current_values(model, inputs))
        inputs.pop("sequence_id", None)
        # A label at the start of a sequence is no prediction: nothing of its own comes before it.
        labels = inputs.pop("labels").masked_fill(~batch.predicted, IGNORE_INDEX)
        with self.session.armed(batch):
            weight = self.session.token_weight(batch)
            outputs, total, values = self._losses(model, inputs, labels, weight)
            n_items = batch.predicted.sum() if num_items_in_batch is None else num_items_in_batch
            loss = total / n_items
            self.session.end_batch(batch, loss, values)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Gradients are averaged over processes, and n_items counts the tokens of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _losses(
        self, model: torch.nn.Module, inputs: dict[str, Any], labels: torch.Tensor, weight: torch.Tensor | None
    ) -> tuple[Any, torch.Tensor, TokenValues | None]:
        """Return the model's output, the weighted sum of the losses, and each token's own values where they are free.

        From the fused head if the model answers requests, else from logits.
        """
        smoothing = self.args.label_smoothing_factor
        if self.session.fused and not any(method.adapts for method in self.session.regularizers):
            request = HeadRequest(labels=labels, token_weight=weight, label_smoothing=smoothing)
            # The Trainer's autocast lies around the forward that is patched away.
            with forward_context(labels.device, forward_dtype(self.args)):
                outputs = model(**inputs, head_request=request)
            values = TokenValues(loss=outputs.token_loss, entropy=outputs.token_entropy, correct=outputs.token_correct)
            return outputs, outputs.total_loss, values
        outputs = model(**inputs)
        logits, targets = shift(outputs.logits, labels)
        total = weighted_loss(
            logits, targets, token_weight=self._weights(logits, targets, weight), label_smoothing=smoothing
        )
        found = None
        if self.session.keeps_training_pass:
            by_row = token_statistics(logits.detach(), targets)
            found = TokenValues(
                loss=unshift(by_row.loss, len(labels), torch.nan),
                entropy=unshift(by_row.entropy, len(labels), torch.nan),
                correct=unshift(by_row.correct, len(labels), False),
            )
        return outputs, total, found

    def _weights(self, logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor | None:
        """Return the product of all weights of the targets that `shift` leaves: shape (B * (T - 1),)."""
        weight = None if weight is None else weight[:, 1:].flatten()
        adapting = [method for method in self.session.regularizers if method.adapts]
        if not adapting:
            return weight
        kept = targets != IGNORE_INDEX
        if weight is not None:
            kept &= weight != 0
        detached = logits.detach()
        values = token_statistics(detached, targets)
        adaptive = torch.ones_like(targets, dtype=torch.float32)
        for method in adapting:
            given = detached if method.needs_logits else None
            found = method.adaptive_weight(values.loss, values.entropy, kept, given).float()
            adaptive = adaptive * torch.where(kept, found, 1.0)
        return adaptive if weight is None else weight * adaptive

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Return the predicted tokens of an accumulated batch, or the sum of their weights; None without a batch."""
        if not batch_samples:
            return None
        by_kept = any(method.normalizes_by_kept for method in self.session.regularizers)
        total = torch.zeros((), device=device)
        for sample in batch_samples:
            batch = self.session.batch(self._prepare_inputs(sample))
            weight = self.session.token_weight(batch) if by_kept else None
            total += batch.predicted.sum() if weight is None else (weight * batch.predicted).sum()
        # A batch whose every token is dropped has a loss of 0, not 0 / 0.
        if self.args.average_tokens_across_devices:
            total = sum_of(total)
        return total.clamp_min(1.0)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        multiple = 1 if world_size() == 1 else world_size() * self.args.train_batch_size
        self.session.order = KeyedOrder(len(cast(Sized, dataset)), seed, multiple=multiple)
        return self.session.order

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # Otherwise remove_unused_columns, which is true by default, would drop what the model does not read.
        columns = cast(list[str], self._signature_columns)
        if "sequence_id" not in columns:
            columns.append("sequence_id")

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.checkpoints is None:
            self._write_checkpoint(*args, **kwargs)
            return
        with self.checkpoints.writing(
            epoch=self.session.epoch,
            step=self.state.global_step,
            main_process=self.args.should_save,
            wait=self.accelerator.wait_for_everyone,
        ) as staging:
            self._staging = str(staging)
            try:
                self._write_checkpoint(*args, **kwargs)
            finally:
                self._staging = None

    def _write_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=None)) / f"checkpoint-{self.state.global_step}"
            state = {type(method).__name__: method.state() for method in self.session.regularizers}
            (folder / REGULARIZERS_FILE).write_text(json.dumps(state))

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle of the arguments: nothing reads it here, and loading it would run code.
        pickled = os.path.join(output_dir or self.args.output_dir or "", TRAINING_ARGS_NAME)
        if os.path.exists(pickled):
            os.remove(pickled)


def _with_fields(args: TrainingArguments | None, regularizers: Sequence[Regularizer]) -> TrainingArguments | None:
    """Return a copy of `args` with what regularisers set."""
    fields: Mapping[str, Any] = {k: v for method in regularizers for k, v in method.training_arguments().items()}
    if not fields:
        return args
    if args is None:
        args = TrainingArguments()
    defaults = TrainingArguments.__dataclass_fields__
    changed = copy.copy(args)
    for key, value in fields.items():
        if getattr(args, key) not in (defaults[key].default, value):
            raise InputError(f"args.{key} is {getattr(args, key)!r}, and a regulariser sets it to {value!r}; keep one")
        setattr(changed, key, value)
    return changed
