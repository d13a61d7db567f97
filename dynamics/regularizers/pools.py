"""Which tokens may be dropped: the lowest share by a signal, over the training set or within groups of tokens.

The rule is `lowest_share`, on numpy arrays and without torch, so that training and analysis have one. What a batch's
current values rank is chosen by the same rule on the device, `lowest_share_on_device`, which the host need not wait
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def lowest_share(
    values: NDArray[Any], predicted: NDArray[np.bool_], share: float, group: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """Return the predicted tokens with the lowest values, of all of them or of each group.

    Parameters
    ----------
    values : ndarray, any shape
        NaN counts as higher than every number.
    predicted : ndarray of bool, same shape
        Tokens that can be chosen.
    share : float
        In (0, 1].
    group : ndarray of integers, same shape, optional
        Tokens with the same number are ranked among themselves; without, all are.

    Returns
    -------
    ndarray of bool, same shape
        round(share n) of the n predicted tokens of each group (halves to even). Among equal values the earlier
        token comes first, so that the pool has exactly its size.
    """
    where = np.flatnonzero(predicted)
    found = np.asarray(values).reshape(-1)[where]
    chosen = np.zeros(predicted.size, dtype=np.bool_)
    if group is None:
        chosen[where[np.argsort(found, kind="stable")[: round(share * len(where))]]] = True
        return chosen.reshape(predicted.shape)
    of = np.asarray(group).reshape(-1)[where]
    # By group, then by value, then by place: lexsort is stable, and takes the last key first.
    order = np.lexsort((found, of))
    _, first, place, count = np.unique(of[order], return_index=True, return_inverse=True, return_counts=True)
    rank = np.arange(len(where)) - first[place]
    chosen[where[order[rank < np.round(share * count)[place]]]] = True
    return chosen.reshape(predicted.shape)


def lowest_share_on_device(
    values: torch.Tensor, predicted: torch.Tensor, share: float, group: torch.Tensor
) -> torch.Tensor:
    """Return what `lowest_share` does, for tensors on any device, in operations whose shapes are known beforehand.

    Parameters
    ----------
    values : Tensor, any shape
    predicted : Tensor of bool, same shape
    share : float
    group : Tensor of int64, same shape

    Returns
    -------
    Tensor of bool, same shape
    """
    import torch

    eligible = predicted.flatten()
    # One zero and one NaN: sorting by bits, as devices do, tells their signs apart.
    flat = (values.flatten() + 0.0).masked_fill(values.flatten().isnan(), torch.nan)
    # What cannot be chosen is a group of its own, the last.
    of = group.flatten().masked_fill(~eligible, torch.iinfo(torch.int64).max)
    order = torch.argsort(flat, stable=True)
    # Stable again, so that within a group the order by value stays.
    order = order[torch.argsort(of[order], stable=True)]
    of = of[order]
    index = torch.arange(len(of), device=of.device)
    begins = torch.ones_like(eligible)
    begins[1:] = of[1:] != of[:-1]
    rank = index - torch.where(begins, index, 0).cummax(0).values
    number = begins.cumsum(0) - 1
    count = torch.zeros_like(index).index_add_(0, number, torch.ones_like(index))
    size = torch.round(share * count.double()).long()
    inside = (rank < size[number]) & eligible[order]
    return torch.zeros_like(eligible).scatter_(0, order, inside).view(predicted.shape)


def edge_of_share(values: NDArray[Any], predicted: NDArray[np.bool_], share: float) -> float:
    """Return the highest value in the lowest share of the predicted tokens; -inf if the share holds none.

    Parameters
    ----------
    values : ndarray, any shape
        NaN is not known, and has no part in it.
    predicted : ndarray of bool, same shape
    share : float
    """
    known = np.asarray(values)[predicted]
    known = known[~np.isnan(known)]
    size = round(share * len(known))
    return float(np.partition(known, size - 1)[size - 1]) if size else -np.inf
