"""The clean pass: loss, entropy and correctness of every token, with nothing dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics, unshift
from dynamics.training.rng import isolated_rng


@dataclass(frozen=True, kw_only=True)
class TokenValues:
    """Clean values of every token of some sequences: arrays (or tensors) of shape (n_sequences, n_positions).

    `loss` and `entropy` are float32, in nats, NaN where there is no prediction; `correct` is bool, false there.
    """

    loss: Any
    entropy: Any
    correct: Any

    @property
    def mean_loss(self) -> float:
        """Mean loss over predicted tokens, in nats."""
        return float(np.nanmean(self.loss, dtype=np.float64))


def forward_context(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Return the autocast context of a forward pass in `dtype`; none for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; on leaving its mode and all global generators are as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with isolated_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def evaluate_tokens(
    model: torch.nn.Module,
    token_id: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    on_batch: Callable[[int], None] | None = None,
) -> TokenValues:
    """Run the model over sequences in evaluation mode and return the values of every token.

    Parameters
    ----------
    model : Module
        A causal language model; its mode and all global generators are as before on return.
    token_id : ndarray of int, shape (n_sequences, n_positions)
    labels : ndarray of int64, shape (n_sequences, n_positions)
        `token_id` where the token is predicted, -100 elsewhere.
    batch_size : int
        Sequences per forward pass. Sequences go in order, without a data loader.
    dtype : torch.dtype
        float32, or the autocast type of training. Statistics are float32 at least.
    on_batch : callable, optional
        Called with the number of sequences done in each batch.
    """
    device = next(model.parameters()).device
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    with evaluating(model), forward_context(device, dtype):
        for start in range(0, len(token_id), batch_size):
            inputs = torch.from_numpy(token_id[start : start + batch_size].astype(np.int64)).to(device)
            targets = torch.from_numpy(labels[start : start + batch_size]).to(device)
            assert (targets[:, 0] == IGNORE_INDEX).all(), "position 0 has no prediction"
            logits = model(input_ids=inputs, use_cache=False).logits
            values = token_statistics(*shift(logits, targets))
            n = len(inputs)
            parts.append(
                (
                    unshift(values.loss, n, torch.nan).float().cpu(),
                    unshift(values.entropy, n, torch.nan).float().cpu(),
                    unshift(values.correct, n, False).cpu(),
                )
            )
            if on_batch is not None:
                on_batch(n)
    loss, entropy, correct = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return TokenValues(loss=loss, entropy=entropy, correct=correct)
