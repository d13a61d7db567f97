"""Which tokens may be dropped: the lowest share by a signal, over the training set or within groups of tokens.

The rule is `lowest_share`, on numpy arrays and without torch, so that training and analysis have one. What a batch's
current values rank is chosen by the same rule on the device, `ranks_on_device`, which the host need not wait for.
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
    rank, count = ranks(values, predicted, group)
    return predicted & (rank < np.round(share * count))


def ranks(
    values: NDArray[Any], predicted: NDArray[np.bool_], group: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rank of each predicted token's value among those of its group, and how many these are.

    Parameters
    ----------
    values, predicted, group
        As for `lowest_share`.

    Returns
    -------
    rank, count : ndarray of int64, same shape
        The lowest has rank 0; among equal values the earlier token comes first. Both are 0 where not `predicted`.
    """
    where = np.flatnonzero(predicted)
    found = np.asarray(values).reshape(-1)[where]
    rank, count = np.zeros((2, predicted.size), dtype=np.int64)
    if group is None:
        rank[where[np.argsort(found, kind="stable")]] = np.arange(len(where))
        count[where] = len(where)
    else:
        of = np.asarray(group).reshape(-1)[where]
        # By group, then by value, then by place: lexsort is stable, and takes the last key first.
        order = np.lexsort((found, of))
        _, first, place, size = np.unique(of[order], return_index=True, return_inverse=True, return_counts=True)
        rank[where[order]] = np.arange(len(where)) - first[place]
        count[where[order]] = size[place]
    return rank.reshape(predicted.shape), count.reshape(predicted.shape)


def places(
    values: NDArray[Any], predicted: NDArray[np.bool_], group: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Return (rank + 1/2) / n of each of the n predicted tokens of a group; NaN where not `predicted`.

    The tokens whose place is at most a share are that share of the group, to the nearest whole number (halves up).
    """
    rank, count = ranks(values, predicted, group)
    found = np.full(count.shape, np.nan)
    np.divide(rank + 0.5, count, out=found, where=count > 0)
    return found


def ranks_on_device(
    values: torch.Tensor, predicted: torch.Tensor, group: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `ranks` does, for tensors on any device, in operations whose shapes are known beforehand.

    Parameters
    ----------
    values : Tensor, any shape
    predicted : Tensor of bool, same shape
    group : Tensor of int64, same shape

    Returns
    -------
    rank, count : Tensor of int64, same shape
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
    size = torch.zeros_like(index).index_add_(0, number, torch.ones_like(index))
    found = [torch.zeros_like(index).scatter_(0, order, one) for one in (rank, size[number])]
    rank, count = (torch.where(eligible, one, 0).view(predicted.shape) for one in found)
    return rank, count


def in_order(values: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values of the known tokens, ascending, shape (n_known,).

    Parameters
    ----------
    values : ndarray, any shape
        NaN counts as higher than every number: infinity stands for it.
    known : ndarray of bool, same shape
        The tokens of which a model's values are known, whether or not there is one to rank them by.
    """
    found = np.asarray(values)[known]
    return np.sort(np.where(np.isnan(found), np.inf, found).astype(found.dtype))


def of_next(values: Any, predicted: Any) -> Any:
    """Return at each token the value of the token after it in its sequence: what the model puts out *at* the token.

    The distribution that a model puts out at position p predicts token p + 1, and its entropy and loss are those of
    that token, which is where they are recorded.

    Parameters
    ----------
    values : ndarray or Tensor of float, shape (B, T)
    predicted : ndarray or Tensor of bool, shape (B, T)
        A predicted token has a token of its own sequence in the column before it.

    Returns
    -------
    ndarray or Tensor of float, shape (B, T)
        NaN where the token after it is not predicted, or there is none: nothing is known of the model there.
    """
    if isinstance(values, np.ndarray):
        found = np.full_like(values, np.nan)
        found[:, :-1] = np.where(predicted[:, 1:], values[:, 1:], np.nan)
        return found
    import torch

    after = torch.where(predicted[:, 1:], values[:, 1:], torch.nan)
    return torch.nn.functional.pad(after, (0, 1), value=torch.nan)
