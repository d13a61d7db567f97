"""Whether what a model predicts depends on dropped tokens: an entrance that a mask does not cover shows here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LENGTH = 12
#: Places in the probe's text that are dropped: neighbours, a single one, and the last.
DROPPED = (2, 3, 6, 11)
KEPT = tuple(place for place in range(_LENGTH) if place not in DROPPED)
# A model whose sums have no fixed order differs from itself by chance; more than this many times as much is no chance.
_NOISE = 4.0


def dependence_on_dropped(
    model_forward: Callable[[torch.Tensor], torch.Tensor],
    n_vocab: int,
    arm: Callable[[torch.Tensor], AbstractContextManager[None]],
    device: torch.device | str = "cpu",
) -> float:
    """Return by how much two texts differ in their logits that differ in dropped tokens alone.

    Parameters
    ----------
    model_forward : callable
        From ids, int64 of shape (1, T), to logits, shape (1, T, V), in evaluation mode.
    n_vocab : int
        Ids below this are known to the model; at least 8.
    arm : callable
        From a mask, bool of shape (1, T), to a context in which the tokens under it are dropped, such as
        `TokenDropout.armed_with`.
    device : device
        Where the model is.

    Returns
    -------
    float
        The largest absolute difference at any position; 0 where dropped tokens enter nowhere, which is where two
        texts differ no more than one differs from itself, run twice. Infinite where one text's logits are NaN and
        the other's are not.
    """
    import torch

    # From the middle of the vocabulary: at its ends are tokens that stand for images and the like.
    low, size = n_vocab // 4, max(2, n_vocab // 4)
    first = low + torch.arange(_LENGTH, device=device)[None] * 7 % size
    mask = torch.zeros_like(first, dtype=torch.bool)
    mask[:, list(DROPPED)] = True
    # A shift by less than the range's size leaves none of them as it was.
    second = torch.where(mask, low + (first - low + (size + 1) // 2) % size, first)
    logits = []
    for ids in (first, first, second):
        with torch.no_grad(), arm(mask):
            logits.append(model_forward(ids).double())
    one, again, other = logits
    found = _difference(one, other)
    return found if found > _NOISE * _difference(one, again) else 0.0


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    import torch

    same = (one == other) | (one.isnan() & other.isnan())
    return float(torch.where(same, 0.0, (one - other).abs()).nan_to_num(nan=torch.inf).max())
