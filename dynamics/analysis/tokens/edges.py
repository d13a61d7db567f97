"""Edges between buckets of values: where they lie, and which bucket a value is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.errors import InputError

Edges = NDArray[np.float64]


def quantile_edges(values: NDArray[Any], n: int) -> Edges:
    """Return the interior edges that split `values` into `n` buckets of equal size.

    Parameters
    ----------
    values : ndarray
        Any shape. Values that are not finite are left out.
    n : int
        Number of buckets, at least 1.

    Returns
    -------
    ndarray of float64, shape (n - 1,)
        Linearly interpolated quantiles. Many equal values make equal edges, and so empty buckets.

    Raises
    ------
    InputError
        If `n` is below 1, or `values` has no finite value.
    """
    at_least_one(n)
    finite = np.asarray(values)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        raise InputError("no finite value to take quantiles of; the reference values hold no predicted token")
    # numpy's sort of float32 is ten times faster than its quantiles of float64; only what lies at the edges is cast.
    ordered = np.sort(finite.astype(np.float32) if finite.dtype == np.float16 else finite)
    place = np.arange(1, n) / n * (len(ordered) - 1)
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, len(ordered) - 1)
    low, high = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    edges: Edges = low + (high - low) * (place - below)
    return edges


def assign_buckets(values: NDArray[Any], edges: Edges) -> NDArray[np.int16]:
    """Return the index of the bucket of every value.

    Parameters
    ----------
    values : ndarray of any shape, NaN where there is no value
    edges : ndarray of float64, shape (n - 1,), ascending

    Returns
    -------
    ndarray of int16, the shape of `values`
        From 0 to n - 1, and -1 for NaN. A value equal to an edge goes to the upper bucket.
    """
    values = np.asarray(values)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    # An edge is compared in the values' own type, rounded up: value >= edge is the same then, and casting every value
    # instead would take longer than all the comparisons.
    limits = np.asarray(edges, dtype=np.float64).astype(values.dtype)
    limits = np.where(limits < edges, np.nextafter(limits, np.array(np.inf, dtype=values.dtype)), limits)
    if len(limits) > 32:
        index = np.searchsorted(limits, values, side="right").astype(np.int16)
    else:
        index = np.zeros(values.shape, dtype=np.int16)
        for limit in limits:
            index += values >= limit
    index[np.isnan(values)] = -1
    return index


def bucket_labels(n: int) -> tuple[str, ...]:
    """Return the names of `n` buckets, from the lowest to the highest."""
    return ("all",) if n == 1 else ("low", "high") if n == 2 else tuple(str(i + 1) for i in range(n))


def at_least_one(n: int) -> int:
    """Return the number of buckets; InputError below 1."""
    if n < 1:
        raise InputError(f"{n} buckets asked for; ask for 1 or more")
    return n


def rising(edges: Sequence[float] | None) -> Edges:
    """Return interior edges as an array; InputError unless they rise."""
    cut = np.asarray(edges, dtype=np.float64)
    if cut.ndim != 1 or np.isnan(cut).any() or (np.diff(cut) <= 0).any():
        raise InputError(f"edges {cut.tolist()} do not rise; give interior edges in rising order")
    return cut
