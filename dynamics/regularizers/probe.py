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
        The largest absolute difference at any position: 0, or what rounding makes of it, where dropped tokens enter
        nowhere; infinite where one text's logits are NaN and the other's are not.
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
    for ids in (first, second):
        with torch.no_grad(), arm(mask):
            logits.append(model_forward(ids).double())
    one, other = logits
    same = (one == other) | (one.isnan() & other.isnan())
    difference = torch.where(same, 0.0, (one - other).abs()).nan_to_num(nan=torch.inf)
    return float(difference.max())
