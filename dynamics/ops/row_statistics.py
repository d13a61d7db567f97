"""Statistics of rows of logits and their gradient, in plain torch.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from dynamics.ops import placement

# Columns reduced at a time in the search for the maximum.
_BLOCK = 64

# exp(-1e4) is 0, also in float64: a logit this far below the largest contributes nothing to any sum.
_NO_SHARE = -1e4


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The steps between a head's product u and its loss.

    z = logit_scale u (Cohere; for Granite, which divides, the inverse), then z = softcap tanh(z / softcap) (Gemma 2,
    section 2), then cross-entropy with a share `label_smoothing` of the target spread over the vocabulary.
    """

    softcap: float | None = None
    logit_scale: float = 1.0
    label_smoothing: float = 0.0
    statistics: bool = True  # False computes only the loss, to measure the cost of the rest


class RowValues(NamedTuple):
    """Per-row values of shape (N,), in float32 (float64 for float64 logits); `correct` is bool.

    ``training_loss`` includes label smoothing. The other values are of the plain distribution.
    """

    training_loss: torch.Tensor
    loss: torch.Tensor
    entropy: torch.Tensor
    correct: torch.Tensor
    logsumexp: torch.Tensor


def first_argmax(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest value of each row and the first column that has it.

    On CPUs torch finds a maximum ten times as fast as its index. Therefore the maxima of blocks are found first, and
    then the index in one block.

    Parameters
    ----------
    z : Tensor, shape (N, V)

    Returns
    -------
    value, index : Tensor, shape (N,)
    """
    n_rows, n_vocab = z.shape
    n_blocks = n_vocab // _BLOCK
    if not placement.host_computes(z.device) or n_blocks < 2:
        value, index = z.max(-1)
        return value, index
    blocks = z[:, : n_blocks * _BLOCK].view(n_rows, n_blocks, _BLOCK)
    value, block = blocks.amax(-1).max(-1)
    chosen = blocks[torch.arange(n_rows), block]
    index = block * _BLOCK + (chosen == value[:, None]).to(torch.uint8).argmax(-1)
    if n_blocks * _BLOCK < n_vocab:
        tail_value, tail_index = z[:, n_blocks * _BLOCK :].max(-1)
        later = tail_value > value
        value = torch.where(later, tail_value, value)
        index = torch.where(later, tail_index + n_blocks * _BLOCK, index)
    return value, index


def gather(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return z[i, y[i]] for each row i."""
    return z.gather(1, y[:, None])[:, 0]


def not_negative_(x: torch.Tensor) -> torch.Tensor:
    """Set negative rounding errors to 0, in place. Adding 0 turns -0.0 into 0.0."""
    return x.clamp_min_(0.0).add_(0.0)


def smoothed(loss: torch.Tensor, mean_loss: torch.Tensor | None, label_smoothing: float) -> torch.Tensor:
    """Return (1 - e) L_y + e mean_k L_k, with L_k = lse - z_k (Szegedy et al. 2016, eq. 3)."""
    if mean_loss is None:
        return loss
    return (1 - label_smoothing) * loss + label_smoothing * mean_loss


def subtract_target_(p: torch.Tensor, y: torch.Tensor, label_smoothing: float) -> None:
    """Turn probabilities into the gradient of the (smoothed) loss for the logits, in place."""
    p.scatter_add_(1, y[:, None], p.new_full((1, 1), label_smoothing - 1.0).expand(len(y), 1))
    if label_smoothing:
        p.sub_(label_smoothing / p.shape[1])


def direct_rows(
    u: torch.Tensor, y: torch.Tensor, options: HeadOptions, *, gradient: bool
) -> tuple[RowValues, torch.Tensor]:
    """Return the statistics of rows, with E_p[z] summed directly, and the gradient for `u` divided by logit_scale.

    Entropy is log s - E_p[z - max], where s is the sum of exp(z - max). Both terms have one sign, so nothing cancels.

    Parameters
    ----------
    u : Tensor, shape (N, V)
        The product, before logit_scale and softcap. Used as scratch space.
    y : Tensor of int64, shape (N,)
        Targets; each must be a column.
    options : HeadOptions
    gradient : bool
        Whether the second result is needed. If not, it is undefined.

    Returns
    -------
    RowValues
    Tensor, shape (N, V)
        d training_loss / d z times d z / d (logit_scale u), in the dtype of the arithmetic.
    """
    smoothing = options.label_smoothing
    z = u if u.dtype == torch.float64 else u.float()
    if options.logit_scale != 1.0:
        z.mul_(options.logit_scale)
    if options.softcap is not None:
        z.mul_(1.0 / options.softcap).tanh_().mul_(options.softcap)
    z_y = gather(z, y)
    mean_z = z.mean(-1) if smoothing else None
    top, best = first_argmax(z)
    z.sub_(top[:, None])
    p = torch.softmax(z, -1)
    mass = p.sum(-1)
    log_s = _log_of_sum(p, best, mass)
    mean_loss = None if mean_z is None else log_s + (top - mean_z)
    loss = not_negative_(log_s + (top - z_y))
    if not options.statistics:
        entropy = torch.full_like(loss, torch.nan)
    elif options.softcap is None:
        # A logit of -inf would give 0 times -inf, which is NaN.
        entropy = not_negative_(log_s - z.clamp_(min=_NO_SHARE).mul_(p).sum(-1) / mass)
    else:  # capped logits are finite, and are needed again below
        entropy = not_negative_(log_s - (z * p).sum(-1) / mass)
    if gradient:
        subtract_target_(p, y, smoothing)
        if options.softcap is not None:
            z.add_(top[:, None]).mul_(1.0 / options.softcap).square_()
            p.addcmul_(p, z, value=-1.0)
    correct = (best == y) & (z_y == top)  # the second condition excludes rows with NaN
    return RowValues(smoothed(loss, mean_loss, smoothing), loss, entropy, correct, top + log_s), p


def _log_of_sum(p: torch.Tensor, best: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Return log s, where s is the sum of exp(z - max), from p = exp(z - max) / s~.

    The largest probability is 1/s~, which never underflows. torch's softmax sums s~ sequentially and loses small terms
    next to large ones, so the sum of p (its mass) is not exactly 1. torch's sum is pairwise, so s = s~ mass.
    """
    return mass.log() - gather(p, best).log()


class NormalisedRows(NamedTuple):
    """Statistics without the entropy, and the terms from which it is computed once the gradient's product is known."""

    values: RowValues
    mass: torch.Tensor


def normalised_rows_(z: torch.Tensor, y: torch.Tensor, options: HeadOptions, bound: float) -> NormalisedRows | None:
    """Turn logits into the gradient of their loss, in place, and return all statistics except the entropy.

    Parameters
    ----------
    z : Tensor of float32 or float64, shape (N, V)
        Logits on entry; p - q on return, where q is the target distribution.
    y : Tensor of int64, shape (N,)
    options : HeadOptions
        Its logit_scale is not applied.
    bound : float
        If the logits that matter exceed it, nothing is changed.

    Returns
    -------
    NormalisedRows or None
        None if a row's largest logit, its target's logit or, under label smoothing, its mean logit exceeds `bound`.
        ``entropy`` has no meaning. Logits far below the largest do not matter, because they contribute nothing.
    """
    smoothing = options.label_smoothing
    z_y = gather(z, y)
    mean_z = z.mean(-1) if smoothing else None
    if options.statistics:
        top, best = first_argmax(z)
        correct = (best == y) & (z_y == top)
        largest = torch.maximum(top.abs().amax(), z_y.abs().amax())
        if mean_z is not None:
            largest = torch.maximum(largest, mean_z.abs().amax())
        if not largest.item() <= bound:
            return None
        torch.softmax(z, -1, out=z)
        mass = z.sum(-1)
        log_s = _log_of_sum(z, best, mass)
    else:
        top = z.amax(-1)
        correct = torch.zeros_like(top, dtype=torch.bool)
        torch.softmax(z, -1, out=z)
        mass = torch.ones_like(top)
        log_s = -z.amax(-1).log()
    mean_loss = None if mean_z is None else log_s + (top - mean_z)
    loss = not_negative_(log_s + (top - z_y))
    subtract_target_(z, y, smoothing)
    values = RowValues(smoothed(loss, mean_loss, smoothing), loss, torch.empty_like(loss), correct, top + log_s)
    return NormalisedRows(values, mass)


def identity_entropy(rows: NormalisedRows, product: torch.Tensor) -> torch.Tensor:
    """Return the entropy of rows from the gradient of their loss, without another pass over the vocabulary.

    For a head without bias and softcap, z = W h. Let L be the loss and q the target distribution, with label smoothing.
    Then H = L - <h, dL/dh>, because <h, dL/dh> = E_p[z] - E_q[z] and L = lse - E_q[z]. The gradient is computed anyway.
    This holds if p sums to 1. Rounding makes its sum `mass` = 1 + d, which would add an error of d z to the difference.
    Therefore E_p[z] is divided by it.

    Parameters
    ----------
    rows : NormalisedRows
    product : Tensor, shape (N,)
        <h, W^T (p - q)>.

    Returns
    -------
    Tensor, shape (N,)
    """
    values, mass = rows
    target_z = values.logsumexp - values.training_loss
    return not_negative_(values.training_loss - (product + target_z * (1 - mass)) / mass)
