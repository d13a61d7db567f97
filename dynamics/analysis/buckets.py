"""Buckets of tokens by quantiles of a value, with edges that are frozen once.

The edges come from the training set alone, so that "a low-entropy token" means the same in the
training set, in the validation set, and in every arm and seed of a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.curves import TokenRecords
from dynamics.errors import InputError


@dataclass(frozen=True, slots=True)
class Buckets:
    """Frozen edges between buckets of tokens.

    Attributes
    ----------
    edges : ndarray of float64, shape (n - 1,)
        Interior edges, ascending; in nats for buckets of entropy. A value equal to an edge belongs
        above it.
    labels : tuple of str, length n
        From the lowest bucket to the highest: ``low`` and ``high`` for two, ``1`` to ``n`` for
        more.
    """

    edges: NDArray[np.float64]
    labels: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of buckets."""
        return len(self.labels)

    def assign(self, values: NDArray[Any]) -> NDArray[np.int16]:
        """Return the bucket of every value; see `assign_buckets`."""
        return assign_buckets(values, self.edges)


def quantile_edges(values: NDArray[Any], n: int) -> NDArray[np.float64]:
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
    if n < 1:
        raise InputError(f"{n} buckets asked for; ask for 1 or more")
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        raise InputError("no finite value to take quantiles of; the reference values hold no predicted token")
    return np.quantile(finite, np.arange(1, n) / n)


def assign_buckets(values: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.int16]:
    """Return the index of the bucket of every value.

    Parameters
    ----------
    values : ndarray
        Any shape; NaN where there is no value.
    edges : ndarray of float64, shape (n - 1,)
        Interior edges, ascending.

    Returns
    -------
    ndarray of int16, the shape of `values`
        From 0 to n - 1, and -1 for NaN. A value equal to an edge goes to the upper bucket.
    """
    values = np.asarray(values)
    # In float64, since rounding the edges to the values' float32 would move values that equal an
    # edge.
    index = np.digitize(values.astype(np.float64), edges, right=False).astype(np.int16)
    index[np.isnan(values)] = -1
    return index


def entropy_buckets(train: TokenRecords, n: int = 2) -> Buckets:
    """Return `n` buckets of equal size by the reference entropy of the recorded training tokens.

    Parameters
    ----------
    train : Records
        The training split's records. Only predicted tokens count.
    n : int
        2 for the low and the high half, 10 for deciles.

    Raises
    ------
    InputError
        If `n` is below 1, or no predicted training token was recorded.
    """
    edges = quantile_edges(np.asarray(train.reference_entropy)[np.asarray(train.predicted)], n)
    return Buckets(edges=edges, labels=bucket_labels(n))


def bucket_labels(n: int) -> tuple[str, ...]:
    """Return the names of `n` buckets, from the lowest to the highest."""
    names: dict[int, Sequence[str]] = {1: ("all",), 2: ("low", "high")}
    return tuple(names.get(n, [str(i + 1) for i in range(n)]))
