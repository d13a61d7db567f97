"""From what is known of a token to the probability with which it is dropped: one function a reading.

In each of them the mean over the pool is `chance`, so that a method drops the share of tokens that its `ratio` says,
whichever reading it follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def uniform(inside: torch.Tensor, chance: float) -> torch.Tensor:
    """Return the same probability for every token of the pool.

    Parameters
    ----------
    inside : Tensor of bool, any shape
        The tokens of the pool.
    chance : float
        In [0, 1].

    Returns
    -------
    Tensor of float64, same shape
    """
    return inside.double() * chance


def falling(place: torch.Tensor, chance: float) -> torch.Tensor:
    """Return probabilities that fall linearly with the rank within the pool.

    Parameters
    ----------
    place : Tensor of float, any shape
        (rank + 1/2) / size of the pool, rank from 0 for the lowest; NaN outside of it.
    chance : float
        Their mean, in [0, 1].

    Returns
    -------
    Tensor of float64, same shape
        From 2 `chance` for the lowest token to 0 for the highest; where that would be above 1, from 1 to
        2 `chance` - 1. The mean over a pool is `chance` exactly, since places lie symmetrically about 1/2.
    """
    spread = min(chance, 1.0 - chance)
    return (chance + spread * (1.0 - 2.0 * place.double())).nan_to_num(nan=0.0)


def by_distance(distance: torch.Tensor, chance: float, *, mean: float, highest: float) -> torch.Tensor:
    """Return probabilities that rise linearly with the distance from a threshold.

    Parameters
    ----------
    distance : Tensor of float, any shape
        From the token's value up to the threshold, in nats; NaN outside the pool.
    chance : float
        Their mean, in [0, 1].
    mean, highest : float
        Of the distances in the pool.

    Returns
    -------
    Tensor of float64, same shape
        Proportional to the distance; where the highest would be above 1, as steep as lets it be 1. A value that lies
        farther from the threshold than `highest` gets 1 at most.
    """
    slopes = [chance / mean] if mean > 0.0 else []
    slopes += [(1.0 - chance) / (highest - mean)] if highest > mean else []
    # Where all distances are equal, so are the probabilities.
    slope = min(slopes) if highest > mean else 0.0
    return (chance + slope * (distance.double() - mean)).clamp(0.0, 1.0).nan_to_num(nan=0.0)


def lowest(place: torch.Tensor, share: float) -> torch.Tensor:
    """Return 1 for the lowest share of a group, and 0 for the rest: nothing is left to a draw.

    Parameters
    ----------
    place : Tensor of float64, any shape
        (rank + 1/2) / size of the group, rank from 0 for the lowest.
    share : float
        In [0, 1]. Of n tokens the share n lowest are dropped, to the nearest whole number (halves up).

    Returns
    -------
    Tensor of float64, same shape
    """
    return (place <= share).double()
