"""Regularisers and recording on a Trainer that people already have: two of its methods wrapped, no subclass."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import Trainer

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.regularizers.base import Regularizer
from dynamics.training.driving.batch_loss import current_values
from dynamics.training.driving.trainer_callback import LoopCallback, checkpoint_folder
from dynamics.training.driving.trainer_start import loop_of
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.loop.methods import require_labels_suffice
from dynamics.training.loop.training_loop import with_values
from dynamics.training.recording.token_recorder import TokenRecorder

_ATTACHED = "_dynamics_callback"


def attach(trainer: Trainer, *parts: TokenRecorder | Regularizer) -> LoopCallback:
    """Put recording and regularisers on a Trainer of any class, for all trainings from now on.

    The trainer computes its loss as it always does; what acts on the loss of single tokens takes their labels away
    before `compute_loss` sees them. A token is known by its place in its sequence, and a sequence by its tokens, so
    that collators that pad or pack need not keep anything. The model has hooks during `train()` alone.

    Parameters
    ----------
    trainer : transformers.Trainer
        Or any subclass, TRL's SFTTrainer among them.
    *parts : TokenRecorder or Regularizer
        At most one recorder, and any number of regularisers.

    Returns
    -------
    LoopCallback
        The callback that was added.

    Raises
    ------
    InputError
        A part is neither, there are two recorders, a method needs a loss of its own (use `DynamicsTrainer`), or
        something is attached already.
    """
    recorders = [part for part in parts if isinstance(part, TokenRecorder)]
    methods = [part for part in parts if isinstance(part, Regularizer)]
    for part in parts:
        if not isinstance(part, TokenRecorder | Regularizer):
            raise InputError(f"attach: {part!r} is neither a TokenRecorder nor a regulariser; give an instance of one")
    if len(recorders) > 1:
        raise InputError(f"attach: {len(recorders)} recorders were given; one records everything")
    for method in methods:
        require_labels_suffice(method, where="attach", instead="DynamicsTrainer")
    if any(recorder.training_pass for recorder in recorders):
        raise InputError(
            "attach: training_pass=True records what the optimiser saw, which this trainer does not tell; use "
            "DynamicsTrainer"
        )
    if hasattr(trainer, _ATTACHED) or hasattr(trainer, "loop_callback"):
        raise InputError(
            f"attach: this {type(trainer).__name__} has regularisers or a recorder already; give all parts at once"
        )
    if trainer.args.n_gpu > 1:
        raise InputError(
            f"attach: this trainer splits each batch over {trainer.args.n_gpu} GPUs of one process, behind the "
            "regularisers' back; start a process for each GPU (torchrun), or set CUDA_VISIBLE_DEVICES to one"
        )
    callback = loop_of(methods, recorders[0] if recorders else None, losses=False, fused=False)
    callback.bind(trainer)
    trainer.add_callback(callback)
    setattr(trainer, _ATTACHED, callback)
    _wrap_compute_loss(trainer, callback)
    _wrap_train(trainer, callback)
    return callback


def _wrap_compute_loss(trainer: Any, callback: LoopCallback) -> None:
    """Arm the methods around the trainer's own computation of a training loss."""
    own, loop = trainer.compute_loss, callback.loop

    @functools.wraps(own)
    def compute_loss(model: torch.nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Evaluation, and passes that only measure, are left alone.
        if not (model.training and torch.is_grad_enabled()):
            return own(model, inputs, *args, **kwargs)
        batch = loop.read(inputs)
        if loop.methods.needs_current_values:
            dtype = forward_dtype(trainer.args)
            batch = with_values(batch, current_values(model, inputs, dtype=dtype, fused=False))
        with loop.armed(batch):
            weight = loop.methods.token_weight(batch)
            if weight is not None:
                _require_whole_divisor(trainer, kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None))
                # The trainer divides by the tokens that it counted beforehand: all predicted ones.
                labels = inputs["labels"].masked_fill(weight == 0, IGNORE_INDEX)
                inputs = type(inputs)({**inputs, "labels": labels})
            # A trainer may take labels out of what it is given.
            kept = {**inputs}
            found = own(model, inputs, *args, **kwargs)
            auxiliary = loop.methods.auxiliary_loss(
                batch, lambda: _loss_of(own(model, type(inputs)({**kept}), *args, **kwargs))
            )
            loop.end_batch(batch, None)
        if auxiliary is None:
            return found
        return (found[0] + auxiliary, *found[1:]) if isinstance(found, tuple) else found + auxiliary

    trainer.compute_loss = compute_loss


def _loss_of(found: Any) -> torch.Tensor:
    """Return the loss, of what `compute_loss` returns with the outputs or without."""
    loss: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return loss


def _require_whole_divisor(trainer: Any, n_items: Any) -> None:
    """Raise InputError where the loss is a mean over the labels that are left, whatever was left out."""
    if trainer.compute_loss_func is None and (n_items is None or not trainer.model_accepts_loss_kwargs):
        raise InputError(
            f"attach: {type(trainer.model).__name__} takes the mean of its loss itself, over the tokens that are left, "
            "so that leaving some out makes the others count for more; use DynamicsTrainer, or target: input"
        )


def _wrap_train(trainer: Any, callback: LoopCallback) -> None:
    """Take every hook off the model when training is done, whatever happened."""
    own = trainer.train

    @functools.wraps(own)
    def train(resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        callback.resumes_from = checkpoint_folder(trainer, resume_from_checkpoint)
        try:
            return own(resume_from_checkpoint, *args, **kwargs)
        finally:
            callback.detach()

    trainer.train = train
