"""A request to a head, and its answer, computed from hidden states by the fused operator or from full logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.generic import ModelOutput

from dynamics.ops.linear_statistics import linear_token_statistics
from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics, unshift, weighted_loss
from dynamics.training.head.head_check import HeadForm

TokenWeight = torch.Tensor | Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class HeadRequest:
    """What a forward pass should return instead of logits.

    Attributes
    ----------
    labels : Tensor of int64, shape (B, T)
        -100 where nothing is predicted.
    token_weight : Tensor of shape (B, T), callable or None
        As for `linear_token_statistics`. None gives each token a weight of 1: the sum of losses, not their mean.
    label_smoothing : float
    """

    labels: torch.Tensor
    token_weight: TokenWeight | None = None
    label_smoothing: float = 0.0


@dataclass
class HeadOutput(ModelOutput):
    """The answer to a `HeadRequest`: the loss as a scalar, and values of shape (B, T) without gradients."""

    total_loss: torch.Tensor | None = None
    token_loss: torch.Tensor | None = None
    token_entropy: torch.Tensor | None = None
    token_correct: torch.Tensor | None = None


def logits_of(output: Any) -> torch.Tensor:
    """Return the logits from a model's output without labels: a ModelOutput, or a tuple with the logits first."""
    logits: torch.Tensor = output[0] if isinstance(output, tuple) else output.logits
    return logits


def last_positions(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the values at the tokens, without those at virtual tokens before them (prompt tuning).

    Parameters
    ----------
    values : Tensor, shape (B, n_virtual + T, ...)
    labels : Tensor, shape (B, T)

    Returns
    -------
    Tensor, shape (B, T, ...)
    """
    n_virtual = values.shape[1] - labels.shape[1]
    assert n_virtual >= 0, "a model returns a position for each token"
    return values[:, n_virtual:] if n_virtual else values


def answer_from_hidden(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, form: HeadForm, request: HeadRequest
) -> HeadOutput:
    rows, targets = shift(hidden, request.labels.to(hidden.device))
    token_weight: Any = request.token_weight
    if token_weight is None:
        token_weight = torch.ones(len(targets), device=hidden.device)
    elif isinstance(token_weight, torch.Tensor):
        token_weight = token_weight[:, 1:].flatten()
    found = linear_token_statistics(
        rows,
        weight,
        targets,
        token_weight=token_weight,
        bias=bias,
        softcap=form.softcap,
        logit_scale=form.scale,
        label_smoothing=request.label_smoothing,
    )
    return _output(found.total_loss, found, len(hidden))


def answer_from_logits(logits: torch.Tensor, request: HeadRequest) -> HeadOutput:
    rows, targets = shift(logits, request.labels.to(logits.device))
    values = token_statistics(rows.detach(), targets)
    weight: Any = request.token_weight
    if callable(weight):
        kept = targets != IGNORE_INDEX
        weight = weight(values.loss.where(kept, 0.0), values.entropy.where(kept, 0.0)).where(kept, 0.0)
    elif weight is not None:
        weight = weight[:, 1:].flatten()
    total = weighted_loss(rows, targets, token_weight=weight, label_smoothing=request.label_smoothing)
    return _output(total, values, len(logits))


def _output(total: torch.Tensor, values: Any, n_rows: int) -> HeadOutput:
    return HeadOutput(
        total_loss=total,
        token_loss=unshift(values.loss.detach(), n_rows, torch.nan),
        token_entropy=unshift(values.entropy.detach(), n_rows, torch.nan),
        token_correct=unshift(values.correct, n_rows, False),
    )
