"""Curves over epochs, and what is read off them: ratios of sums over documents.

Shape suffixes: E epochs, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats


def mean_curve(ds: DocumentSums) -> Floats:
    """Return the mean value per token, a ratio of sums, shape (E, K); NaN for an empty bucket.

    Parameters
    ----------
    ds : DocumentSums
        Sums (E, D, K) and tokens of each document and bucket.
    """
    return ratio(ds.sums.sum(axis=1), ds.counts.sum(axis=-2))


def ratio(sums: Floats, counts: Floats) -> Floats:
    """Return sums / counts, NaN where the count is 0."""
    counts = np.broadcast_to(counts, sums.shape)
    quotient: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return quotient


def rebound(curve: Floats, axis: int = 0) -> Floats:
    """Return the last value of a curve minus its lowest, along `axis`; NaN where any value is NaN.

    With a curve measured on a sample of documents this is biased upward: even on a curve that is
    flat in truth, the lowest of several noisy values lies below the last. `dynamics.analysis.intervals.selection`
    does not have that bias.

    Parameters
    ----------
    curve : ndarray of float64
        Values over epochs along `axis`.
    axis : int, default 0
        The axis of epochs.
    """
    curve = np.asarray(curve, dtype=np.float64)
    last: Floats = np.take(curve, -1, axis=axis)
    lowest: Floats = np.min(curve, axis=axis)
    return last - lowest


def best_epoch(curve: Floats, epochs: NDArray[np.int64] | Sequence[int]) -> int:
    """Return the epoch of the lowest value of a curve (E,); the first of equals, -1 if all NaN.

    Parameters
    ----------
    curve : ndarray of float64, shape (E,)
    epochs : sequence of int, length E
        The epoch of each value.
    """
    curve = np.asarray(curve, dtype=np.float64)
    assert curve.shape == (len(epochs),), (curve.shape, len(epochs))
    return -1 if np.isnan(curve).all() else int(np.asarray(epochs)[np.nanargmin(curve)])


def epochs_to_reach(curve: Floats, epochs: NDArray[Any] | Sequence[float], level: float, axis: int = 0) -> Floats:
    """Return after how many epochs a curve first comes down to `level`, along `axis`.

    Between two recorded epochs the curve is taken to be straight, so that the answer is not a whole number. 0 where
    the first recorded value is at the level already (if that is epoch 0), infinity where no recorded value reaches it,
    NaN where any value is NaN.

    Parameters
    ----------
    curve : ndarray
        Values over epochs, along `axis`.
    epochs : sequence of float
        The epochs of the values, rising; of one that was cut, its passes.
    level : float
        In the unit of the curve.
    axis : int, default 0
        The axis of epochs.
    """
    values = np.moveaxis(np.asarray(curve, dtype=np.float64), axis, 0)
    at = np.asarray(epochs, dtype=np.float64)
    assert len(values) == len(at), (values.shape, at.shape)
    reached = values <= level
    first = np.argmax(reached, axis=0)
    before = np.maximum(first - 1, 0)
    high = np.take_along_axis(values, before[None], axis=0)[0]
    low = np.take_along_axis(values, first[None], axis=0)[0]
    # Where the first value is there already, `before` is `first` and nothing is left to interpolate.
    fall = high - low
    share = np.divide(high - level, fall, out=np.zeros_like(fall), where=(first > 0) & (fall > 0))
    result = np.where(reached.any(axis=0), at[before] + share * (at[first] - at[before]), np.inf)
    return np.where(np.isnan(values).any(axis=0), np.nan, result)


def gap(train: Floats, validation: Floats) -> Floats:
    """Return the generalisation gap, validation minus training, elementwise."""
    return np.asarray(validation) - np.asarray(train)
