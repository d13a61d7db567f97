"""The loss of one micro-batch under the regularisers, and the values of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics, unshift, weighted_loss
from dynamics.regularizers.base import Batch
from dynamics.training.environment.generators import evaluating
from dynamics.training.head.fused_head import HeadRequest, causal_model
from dynamics.training.head.head_answer import logits_of
from dynamics.training.head.own_loss import own_loss
from dynamics.training.loop.clean_pass import TokenValues, forward_context, forward_values
from dynamics.training.loop.training_loop import TrainingLoop


def batch_loss(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    labels: torch.Tensor,
    batch: Batch,
    *,
    loop: TrainingLoop,
    fused: bool,
    label_smoothing: float,
) -> tuple[Any, torch.Tensor, TokenValues | None]:
    """Return the model's output, the weighted sum of the losses, and each token's values if they come at no cost.

    Parameters
    ----------
    model : Module
        The model as the trainer runs it, with the methods activated.
    inputs : mapping
        The forward pass's arguments, without labels.
    labels : Tensor of int64, shape (B, T)
    batch : Batch
    loop : TrainingLoop
    fused : bool
        Whether the model answers a `HeadRequest`. If not, or if a method computes weights from logits, full logits are
        computed.
    label_smoothing : float
    """
    methods = loop.methods
    weight = methods.token_weight(batch)
    if fused and not methods.needs_logits:
        outputs = model(
            **inputs,
            head_request=HeadRequest(
                labels=labels, token_weight=_combined(weight, labels, loop), label_smoothing=label_smoothing
            ),
        )
        values = TokenValues(loss=outputs.token_loss, entropy=outputs.token_entropy, correct=outputs.token_correct)
        return outputs, outputs.total_loss, values
    outputs = model(**inputs)
    logits, targets = shift(logits_of(outputs), labels)
    found = None
    flat = None if weight is None else weight[:, 1:].flatten()
    if methods.adapting or loop.keeps_training_pass:
        found = token_statistics(logits.detach(), targets)
    if methods.adapting and found is not None:
        kept = targets != IGNORE_INDEX if flat is None else (targets != IGNORE_INDEX) & (flat != 0)
        adaptive = methods.adaptive_weight(found.loss, found.entropy, kept, logits.detach())
        flat = adaptive if flat is None else flat * adaptive
    total = weighted_loss(logits, targets, token_weight=flat, label_smoothing=label_smoothing)
    return outputs, total, None if found is None else _unshifted(found, len(labels))


def loss_by_function(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    labels: torch.Tensor,
    batch: Batch,
    *,
    loop: TrainingLoop,
    function: Callable[..., torch.Tensor],
    n_items: Any,
) -> tuple[Any, torch.Tensor, TokenValues | None]:
    """Return the model's output, the loss from a user's function, and each token's values if they are kept.

    The function gets the labels that the methods leave: -100 at tokens with weight 0.
    """
    weight = loop.methods.token_weight(batch)
    outputs = model(**inputs)
    left = labels if weight is None else labels.masked_fill(weight == 0, IGNORE_INDEX)
    loss = function(outputs, left, num_items_in_batch=n_items)
    if not loop.keeps_training_pass:
        return outputs, loss, None
    return outputs, loss, _unshifted(token_statistics(*shift(logits_of(outputs).detach(), labels)), len(labels))


def current_values(
    model: torch.nn.Module, inputs: Mapping[str, Any], *, dtype: torch.dtype, fused: bool
) -> TokenValues:
    """Return clean values of a batch under the current weights, in the precision of training.

    This takes one more forward pass, in evaluation mode. The global generators are restored.

    Returns
    -------
    TokenValues of tensors of shape (B, T)
        Of every token. The batch says which tokens are predicted.
    """
    left_out = ("labels", "sequence_id", "num_items_in_batch")
    forward = {key: value for key, value in inputs.items() if key not in left_out}
    ids = inputs["input_ids"]
    with torch.no_grad(), evaluating(model), forward_context(ids.device, dtype):
        return forward_values(model, forward, ids, fused=fused)


def _combined(weight: torch.Tensor | None, labels: torch.Tensor, loop: TrainingLoop) -> Any:
    """Return the token weights for the head: those known in advance, times those computed from predictions."""
    methods = loop.methods
    if not methods.adapting:
        return weight
    flat = None if weight is None else weight[:, 1:].flatten()
    targets = labels[:, 1:].flatten()

    def by_rows(loss: torch.Tensor, entropy: torch.Tensor, rows: Any) -> torch.Tensor:
        kept = targets[rows] != IGNORE_INDEX
        if flat is None:
            return methods.adaptive_weight(loss, entropy, kept, rows=rows)
        return flat[rows] * methods.adaptive_weight(loss, entropy, kept & (flat[rows] != 0), rows=rows)

    return by_rows


def _unshifted(found: Any, n_rows: int) -> TokenValues:
    return TokenValues(
        loss=unshift(found.loss, n_rows, torch.nan),
        entropy=unshift(found.entropy, n_rows, torch.nan),
        correct=unshift(found.correct, n_rows, False),
    )


def require_plain_loss(model: torch.nn.Module, inputs: dict[str, Any], *, dtype: torch.dtype) -> None:
    """Raise InputError if a model's own training loss on a row of a batch contains more than the token loss.

    Parameters
    ----------
    model : Module
        The model as the trainer runs it.
    inputs : mapping
        A batch with its labels.
    dtype : torch.dtype
        float32, or the autocast type of training.
    """
    found = own_loss(model, inputs, dtype=dtype)
    if found is not None and not found.is_cross_entropy:
        name = type(causal_model(model)).__name__
        raise InputError(
            f"{name}: its own training loss on a row is {found.own:.4f} nats, but the cross-entropy of the row's "
            f"tokens is {found.cross_entropy:.4f}; this trainer computes only the token loss and would drop the rest. "
            "Switch it off in the model's configuration (output_router_logits, z_loss_coefficient), or use attach on "
            "a Trainer, which keeps the model's loss"
        )
