"""The clean pass: loss, entropy and correctness of every token, with nothing dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics, unshift
from dynamics.training.environment.generators import evaluating
from dynamics.training.head.fused_head import causal_model, fused_head, takes
from dynamics.training.head.head_answer import HeadRequest, last_positions, logits_of
from dynamics.training.loop.landing import Landing, sent


@dataclass(frozen=True, kw_only=True)
class TokenValues:
    """Clean values of every token of some sequences: arrays (or tensors) of shape (S, P).

    `loss` and `entropy` are float32, in nats, and NaN where nothing is predicted. `correct` is bool, and false there.
    """

    loss: Any
    entropy: Any
    correct: Any

    @property
    def mean_loss(self) -> float:
        """Mean loss over predicted tokens, in nats."""
        return float(np.nanmean(self.loss, dtype=np.float64))


def forward_context(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Return the autocast context for a forward pass in `dtype`; a null context for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


@torch.no_grad()
def evaluate_tokens(
    model: torch.nn.Module,
    token_id: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    n_batches: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> TokenValues:
    """Run the model over sequences in evaluation mode and return the values of every token.

    Parameters
    ----------
    model : Module
        A causal language model. Its mode and all global generators are restored on return.
    token_id : ndarray of int, shape (S, P)
    labels : ndarray of int64, shape (S, P)
        `token_id` where the token is predicted, -100 elsewhere.
    batch_size : int
        Sequences per forward pass. Sequences are processed in order, without a data loader.
    dtype : torch.dtype
        float32, or the autocast type of training. Statistics are at least float32.
    n_batches : int
        Minimum number of forward passes. With a sharded model, every rank must make the same number.
    on_batch : callable, optional
        Called with the number of sequences of each finished batch.
    """
    assert (labels[:, 0] == IGNORE_INDEX).all(), "position 0 has no prediction"
    device = next(model.parameters()).device
    loss, entropy = (np.full(token_id.shape, np.nan, dtype=np.float32) for _ in range(2))
    correct = np.zeros(token_id.shape, dtype=np.bool_)
    landing: Landing[slice] = Landing()

    def keep(landed: list[tuple[slice, np.ndarray]]) -> None:
        for rows, found in landed:
            loss[rows], entropy[rows], correct[rows] = found

    starts = range(0, len(token_id), batch_size)
    nothing = torch.zeros(1, token_id.shape[1], dtype=torch.int64, device=device)
    with evaluating(model), forward_context(device, dtype), fused_head(model, dtype=dtype) as fused:
        for start in starts:
            rows = slice(start, start + batch_size)
            inputs = sent(token_id[rows].astype(np.int64), device)
            values = forward_values(model, {"input_ids": inputs}, sent(labels[rows], device), fused=fused)
            landing.send(rows, torch.stack([one.float() for one in (values.loss, values.entropy, values.correct)]))
            keep(landing.arrived())
            if on_batch is not None:
                on_batch(len(inputs))
        for _ in range(len(starts), n_batches):
            forward_values(model, {"input_ids": nothing}, torch.full_like(nothing, IGNORE_INDEX), fused=fused)
        keep(landing.all())
    return TokenValues(loss=loss, entropy=entropy, correct=correct)


def forward_values(
    model: torch.nn.Module, inputs: Mapping[str, Any], labels: torch.Tensor, *, fused: bool
) -> TokenValues:
    """Run the model on one batch and return the values of its tokens, as tensors of shape (B, T).

    Parameters
    ----------
    model : Module
    inputs : mapping
        The forward pass's arguments, without labels.
    labels : Tensor of int64, shape (B, T)
    fused : bool
        Whether the model answers a `HeadRequest`.
    """
    if fused:
        found = model(**inputs, use_cache=False, head_request=HeadRequest(labels=labels))
        return TokenValues(loss=found.token_loss, entropy=found.token_entropy, correct=found.token_correct)
    cache = {"use_cache": False} if takes(causal_model(model).forward, "use_cache") else {}
    logits = logits_of(model(**inputs, **cache))
    values = token_statistics(*shift(last_positions(logits, labels), labels))
    loss, entropy = (unshift(value, len(labels), torch.nan) for value in (values.loss, values.entropy))
    return TokenValues(loss=loss, entropy=entropy, correct=unshift(values.correct, len(labels), False))
