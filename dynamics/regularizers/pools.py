"""Which tokens may be dropped: the lowest share by a signal, over the training set or within groups of tokens."""

from __future__ import annotations

import torch


def lowest_share(
    values: torch.Tensor, predicted: torch.Tensor, share: float, group: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the predicted tokens with the lowest values, of all of them or of each group.

    Parameters
    ----------
    values : Tensor, any shape
        NaN counts as higher than every number.
    predicted : Tensor of bool, same shape
        Tokens that can be chosen.
    share : float
        In (0, 1].
    group : Tensor of int64, same shape, optional
        Tokens with the same number are ranked among themselves; without, all are.

    Returns
    -------
    Tensor of bool, same shape
        round(share n) of the n predicted tokens of each group (halves to even). Among equal values the earlier
        token comes first, so that the pool has exactly its size.
    """
    where = predicted.flatten().nonzero()[:, 0]
    of = torch.zeros_like(where) if group is None else group.flatten()[where]
    order = torch.argsort(values.flatten()[where], stable=True)
    # Stable again, so that within a group the order by value stays.
    order = order[torch.argsort(of[order], stable=True)]
    _, place, count = torch.unique_consecutive(of[order], return_inverse=True, return_counts=True)
    first = count.cumsum(0) - count
    rank = torch.arange(len(where), device=where.device) - first[place]
    size = torch.round(share * count.double()).long()
    chosen = torch.zeros(predicted.numel(), dtype=torch.bool, device=predicted.device)
    chosen[where[order[rank < size[place]]]] = True
    return chosen.view(predicted.shape)


def edge_of_share(values: torch.Tensor, predicted: torch.Tensor, share: float) -> float:
    """Return the highest value in the lowest share of the predicted tokens; -inf if the share holds none."""
    known = values[predicted & ~values.isnan()].flatten()
    size = round(share * known.numel())
    return float(torch.kthvalue(known, size).values) if size else -torch.inf
