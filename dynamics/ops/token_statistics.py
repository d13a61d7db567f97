"""Loss, entropy and correctness of every token, from logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

IGNORE_INDEX = -100

# Rows of logits converted to float32 at a time: 64 Mi elements are 256 MiB, much less than the logits themselves.
_CHUNK_ELEMENTS = 1 << 26


class TokenStatistics(NamedTuple):
    """Per-token values, each of shape (N,): NaN and False at ignored targets."""

    loss: torch.Tensor
    entropy: torch.Tensor
    correct: torch.Tensor


@torch.no_grad()
def token_statistics(logits: torch.Tensor, targets: torch.Tensor) -> TokenStatistics:
    """Return the loss, the Shannon entropy and the argmax correctness of every prediction.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
        Any floating-point dtype. The arithmetic is float32 (float64 for float64 logits).
    targets : Tensor of int64, shape (N,)
        The token that each row predicts, or -100 if it predicts none.

    Returns
    -------
    TokenStatistics
        ``loss`` = lse(z) - z_y and ``entropy`` = lse(z) - E_p[z], both in nats. ``correct`` is whether y is the argmax
        (the first one, if several logits are equal).
    """
    n_rows, n_vocab = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    loss = torch.full((n_rows,), torch.nan, dtype=dtype, device=logits.device)
    entropy = torch.full_like(loss, torch.nan)
    correct = torch.zeros(n_rows, dtype=torch.bool, device=logits.device)
    rows = max(1, _CHUNK_ELEMENTS // n_vocab)
    for start in range(0, n_rows, rows):
        part = slice(start, start + rows)
        z = logits[part].to(dtype)
        y = targets[part]
        kept = y != IGNORE_INDEX
        log_p = torch.log_softmax(z, dim=-1)
        chosen = log_p.gather(1, y.clamp_min(0)[:, None])[:, 0]
        p = log_p.exp()
        # 0 log 0 = 0: a logit of -inf (a masked vocabulary entry) contributes nothing to the entropy.
        plog = torch.where(p > 0, p * log_p, 0.0)
        loss[part] = torch.where(kept, -chosen, torch.nan)
        entropy[part] = torch.where(kept, -plog.sum(-1), torch.nan)
        correct[part] = kept & (z.argmax(-1) == y)
    # For a certain token, rounding gives -0.0 or slightly less. Adding 0 turns -0.0 into 0.0.
    return TokenStatistics(loss.clamp_min_(0.0).add_(0.0), entropy.clamp_min_(0.0).add_(0.0), correct)


def weighted_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    token_weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the sum over predicted tokens of weight times (smoothed) cross-entropy.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
    targets : Tensor of int64, shape (N,)
        -100 where nothing is predicted.
    token_weight : Tensor, shape (N,), optional
        A weight per token. By default each token counts once.
    label_smoothing : float
        The share of the target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016, eq. 3).

    Returns
    -------
    Tensor, scalar
        In nats, differentiable. Divide it by the number of predicted tokens in all micro-batches of the step.
    """
    z = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if token_weight is None:
        return F.cross_entropy(z, targets, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing)
    loss = F.cross_entropy(z, targets, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=label_smoothing)
    return (loss * token_weight.to(loss.dtype)).sum()


def shift(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair each prediction with the token that it predicts. This is the only place where the shift happens.

    Parameters
    ----------
    logits : Tensor, shape (B, T, V)
        ``logits[b, p]`` is the prediction after reading positions 0 to p.
    labels : Tensor of int64, shape (B, T)
        The token at each position, or -100 if it is not predicted. Position 0 never is.

    Returns
    -------
    logits : Tensor, shape (B * (T - 1), V)
    targets : Tensor, shape (B * (T - 1),)
        Row r = b (T - 1) + p - 1 is the prediction of the token at (b, p), for p from 1.
    """
    return logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()


def unshift(values: torch.Tensor, n_sequences: int, fill: float | bool) -> torch.Tensor:
    """Move values of predictions back to the predicted tokens: the inverse of `shift`.

    Parameters
    ----------
    values : Tensor, shape (B * (T - 1),)
    n_sequences : int
        B, the number of batch rows.
    fill : float or bool
        The value at position 0.

    Returns
    -------
    Tensor, shape (B, T)
    """
    values = values.view(n_sequences, -1)
    return torch.cat([values.new_full((n_sequences, 1), fill), values], dim=1)
