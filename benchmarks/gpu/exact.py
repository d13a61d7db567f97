"""What a head's values and gradients are in float64, and how far from them others may be.

Written from the definitions, and apart from `dynamics.ops`, which is held against it. Shapes: N rows, H hidden size,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from dynamics.ops.row_statistics import HeadOptions

IGNORE_INDEX = -100

# A token's weight in the total from its loss and entropy, both of shape (n,), and its rows.
Weights = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]


class Rows(NamedTuple):
    """Values of rows in float64, each of shape (N,); NaN in all of them where a logit is NaN.

    `best` is the first column with the largest logit (V where a logit is NaN), `margin` by how much it exceeds the
    largest of those that are smaller, `largest` the largest finite absolute value of a logit. `gradient`, of shape
    (N, V), is that of the training loss for u over logit_scale, and `share` the sum of the probabilities that it is
    the difference of.
    """

    training_loss: torch.Tensor
    loss: torch.Tensor
    entropy: torch.Tensor
    logsumexp: torch.Tensor
    best: torch.Tensor
    margin: torch.Tensor
    largest: torch.Tensor
    gradient: torch.Tensor
    share: torch.Tensor


def rows(u: torch.Tensor, y: torch.Tensor, options: HeadOptions) -> Rows:
    """Return the exact values of rows of products u, shape (N, V), with targets y, shape (N,)."""
    n_vocab, smoothing = u.shape[1], options.label_smoothing
    z = u.double() * options.logit_scale
    slope: torch.Tensor | float = 1.0
    if options.softcap is not None:
        capped = torch.tanh(z / options.softcap)
        z, slope = options.softcap * capped, 1 - capped**2
    logsumexp = z.logsumexp(-1)
    p = (z - logsumexp[:, None]).exp()
    loss = logsumexp - z.gather(1, y[:, None])[:, 0]
    training_loss = loss
    if smoothing:
        training_loss = (1 - smoothing) * loss + smoothing * (logsumexp - z.mean(-1))
    q = torch.full_like(p, smoothing / n_vocab).scatter_add(1, y[:, None], p.new_full((len(y), 1), 1 - smoothing))
    top = z.amax(-1, keepdim=True)
    column = torch.arange(n_vocab, device=z.device)
    return Rows(
        training_loss,
        loss,
        torch.special.entr(p).sum(-1),
        logsumexp,
        column.where(z == top, n_vocab).amin(-1),
        (top - z.where(z < top, -math.inf).amax(-1, keepdim=True))[:, 0],
        z.where(z.isfinite(), 0.0).abs().amax(-1),
        (p - q) * slope,
        p + q,
    )


class Head(NamedTuple):
    """A head's values in float64: per token, of shape (N,), NaN where ignored; the gradients of the total loss."""

    total_loss: torch.Tensor
    loss: torch.Tensor
    entropy: torch.Tensor
    logsumexp: torch.Tensor
    best: torch.Tensor
    margin: torch.Tensor
    largest: torch.Tensor
    grad_hidden: torch.Tensor
    grad_weight: torch.Tensor
    grad_bias: torch.Tensor


@torch.no_grad()
def head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    token_weight: torch.Tensor | Weights | None = None,
    options: HeadOptions | None = None,
    chunk_rows: int = 512,
) -> Head:
    """Return what `dynamics.ops.linear_token_statistics` should, some rows of float64 logits at a time."""
    options = options or HeadOptions()
    weight = weight.double()
    kept = targets != IGNORE_INDEX
    found: list[Rows] = []
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    grad_hidden = torch.zeros(hidden.shape, dtype=torch.float64, device=hidden.device)
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
    for start in range(0, len(hidden), chunk_rows):
        part = slice(start, start + chunk_rows)
        h = hidden[part].double()
        u = h @ weight.T if bias is None else torch.addmm(bias.double(), h, weight.T)
        row = rows(u, targets[part].where(kept[part], 0), options)
        if token_weight is None:
            c = kept[part].double() / kept.sum()
        else:
            given = token_weight(row.loss, row.entropy, part) if callable(token_weight) else token_weight[part]
            c = given.double().where(kept[part], 0.0)
        total += (c * row.training_loss).where(kept[part], 0.0).sum()
        grad = row.gradient * (c * options.logit_scale)[:, None]
        # A column that a bias masks has a gradient of 0 and a weight like any other.
        grad_hidden[part] = grad @ weight
        grad_weight.addmm_(grad.T, h)
        grad_bias += grad.sum(0)
        found.append(row._replace(gradient=grad.new_empty(0), share=grad.new_empty(0)))  # the large ones go

    def joined(name: str, blank: bool = True) -> torch.Tensor:
        values = torch.cat([getattr(row, name) for row in found])
        return values.where(kept, torch.nan) if blank else values

    return Head(
        total,
        *(joined(name) for name in ("loss", "entropy", "logsumexp")),
        *(joined(name, blank=False) for name in ("best", "margin", "largest")),
        grad_hidden,
        grad_weight,
        grad_bias,
    )


def excess(found: torch.Tensor, exact: torch.Tensor, allowed: torch.Tensor | float) -> float:
    """Return the largest error over what is allowed: at most 1 where all is right.

    NaN is right where NaN is due, and an infinity where that one is; where they are not, the result is infinite.
    """
    found = found.double()
    right = (found == exact) | (found.isnan() & exact.isnan())
    error = ((found - exact).abs() / allowed).where(~right, 0.0)
    return error.nan_to_num(nan=math.inf, posinf=math.inf).amax().item() if error.numel() else 0.0


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the error of a gradient relative to its size, by the Frobenius norm."""
    return ((found.double() - exact).norm() / exact.norm()).item()
