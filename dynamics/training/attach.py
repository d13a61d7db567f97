"""Regularisers and recording for an existing Trainer: two of its methods are wrapped, no subclass is needed."""

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
    """Add recording and regularisers to a Trainer of any class, for every training from now on.

    The trainer still computes its own loss. Methods that act on the loss of single tokens set their labels to -100
    before `compute_loss` sees them. A sequence is identified by its tokens, and a token by its position in its
    sequence, so collators that pad or pack need not keep any extra column. The model has hooks only during `train()`.

    Parameters
    ----------
    trainer : transformers.Trainer
        Any subclass works too, for example TRL's SFTTrainer.
    *parts : TokenRecorder or Regularizer
        At most one recorder, and any number of regularisers.

    Returns
    -------
    LoopCallback
        The callback that was added.

    Raises
    ------
    InputError
        A part is neither a recorder nor a regulariser, there are two recorders, a method needs a loss of its own (use
        `DynamicsTrainer`), or the trainer already has parts attached.
    """
    recorders = [part for part in parts if isinstance(part, TokenRecorder)]
    methods = [part for part in parts if isinstance(part, Regularizer)]
    for part in parts:
        if not isinstance(part, TokenRecorder | Regularizer):
            raise InputError(f"attach: {part!r} is neither a TokenRecorder nor a regulariser; give an instance of one")
    if len(recorders) > 1:
        raise InputError(f"attach: {len(recorders)} recorders were given; give only one, it records everything")
    for method in methods:
        require_labels_suffice(method, where="attach", instead="DynamicsTrainer")
    if any(recorder.training_pass for recorder in recorders):
        raise InputError(
            "attach: training_pass=True records what the optimiser saw, but this trainer does not provide it; use "
            "DynamicsTrainer"
        )
    if hasattr(trainer, _ATTACHED) or hasattr(trainer, "loop_callback"):
        raise InputError(
            f"attach: this {type(trainer).__name__} already has regularisers or a recorder; give all parts in one call"
        )
    if trainer.args.n_gpu > 1:
        raise InputError(
            f"attach: this trainer splits each batch over the {trainer.args.n_gpu} GPUs of one process, after the "
            "regularisers have read it; start one process per GPU (torchrun), or set CUDA_VISIBLE_DEVICES to one GPU"
        )
    callback = loop_of(methods, recorders[0] if recorders else None, losses=False, fused=False)
    callback.bind(trainer)
    trainer.add_callback(callback)
    setattr(trainer, _ATTACHED, callback)
    _wrap_compute_loss(trainer, callback)
    _wrap_train(trainer, callback)
    return callback


def _wrap_compute_loss(trainer: Any, callback: LoopCallback) -> None:
    """Activate the methods while the trainer computes a training loss."""
    own, loop = trainer.compute_loss, callback.loop

    @functools.wraps(own)
    def compute_loss(model: torch.nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Evaluation and passes without gradients are not changed.
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
                # The trainer divides by the number of predicted tokens, which it counted before labels were removed.
                labels = inputs["labels"].masked_fill(weight == 0, IGNORE_INDEX)
                inputs = type(inputs)({**inputs, "labels": labels})
            # A trainer may remove the labels from the inputs that it is given.
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
    """Return the loss from the result of `compute_loss`, which may be a tuple with the outputs."""
    loss: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return loss


def _require_whole_divisor(trainer: Any, n_items: Any) -> None:
    """Raise InputError if the loss is a mean over the remaining labels only."""
    if trainer.compute_loss_func is None and (n_items is None or not trainer.model_accepts_loss_kwargs):
        raise InputError(
            f"attach: {type(trainer.model).__name__} averages its loss over the remaining tokens itself, so dropping "
            "tokens would give the others more weight; use DynamicsTrainer, or target: input"
        )


def _wrap_train(trainer: Any, callback: LoopCallback) -> None:
    """Remove all hooks from the model when training ends, also after an error."""
    own = trainer.train

    @functools.wraps(own)
    def train(resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        callback.resumes_from = checkpoint_folder(trainer, resume_from_checkpoint)
        try:
            return own(resume_from_checkpoint, *args, **kwargs)
        finally:
            callback.detach()

    trainer.train = train
