"""The cross-fitted rebound: the best epoch chosen on other documents than it is measured on, and its interval.

The interval is the estimate plus and minus normal quantiles times the bootstrap's standard error, no percentiles: the
curve of a resample is the measured one, noise included, plus new noise, so that its epochs differ more than those of
the truth. The resamples' rebounds lie too high for that reason, while their spread is right.

Shape suffixes: R resamples, E epochs, D documents, K buckets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from dynamics.analysis.intervals.bootstrap import (
    Interval,
    Resampler,
    document_weights,
    require_share,
    resampler,
    warn_few,
)
from dynamics.analysis.sums.curves import ratio
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats

#: Random halves for a cross-fitted rebound: the same everywhere, or a figure and a table would differ in a digit.
N_SPLITS = 10


def cross_fitted_rebound(ds: DocumentSums, *, n_splits: int = N_SPLITS, seed: int = 0) -> Floats:
    """Estimate the rebound, choosing the best epoch on other documents than it is measured on.

    The plain rebound picks the lowest epoch by the very noise that it then reports, and so is
    biased upward. Here the documents are split at random into two halves; the best epoch of one
    half is measured on the other, both ways, and this is averaged over many splits. On a curve that
    is flat in truth the mean is 0 (single values may be below 0). On a curve with a minimum that is
    hard to find the estimate leans downward instead: it is the rebound from the epoch one would
    have stopped at.

    What all documents share is not removed: fluctuations of the model itself from epoch to epoch
    are part of the curve here, and only more seeds average them out.

    Parameters
    ----------
    ds : DocumentSums
    n_splits : int
        Number of random splits, each used both ways.
    seed : int

    Returns
    -------
    ndarray of float64, shape (K,)
        In the unit of the curve; NaN with fewer than two documents in a bucket, or NaN in its
        curve.
    """
    halves = random_halves(ds.n_documents, n_splits, seed)
    whole = np.ones((1, ds.n_documents), dtype=np.float32)
    rebounds: Floats = cross_fitted_resamples(resampler(ds), halves, whole)[0]
    return rebounds


def cross_fitted_rebound_interval(
    ds: DocumentSums,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    n_splits: int = N_SPLITS,
) -> Interval:
    """Return the cross-fitted rebound with an interval: estimate plus and minus z standard errors.

    Documents are split into halves first and resampled then, so that no document is ever on both sides. Why the
    interval is not that of the percentiles stands at the top of this module; how often it covers the truth is
    measured in the acceptance tests (docs/analysis.md has the numbers).

    Parameters
    ----------
    ds : DocumentSums
    n_resamples, level, seed
        As for `bootstrap_curve`.
    n_splits : int
        Random splits, each used both ways, the same in every resample.

    Returns
    -------
    Interval of arrays of shape (K,)
        In the unit of the curve. A curve whose lowest value is its last has estimate 0 and a width of 0 if that is
        so in every resample too.

    Warns
    -----
    UserWarning
        With fewer than 50 documents.
    """
    warn_few(ds.n_documents)
    weights = document_weights(ds.n_documents, n_resamples, seed)
    halves = random_halves(ds.n_documents, n_splits, seed)
    curves_of = resampler(ds)
    estimate = cross_fitted_resamples(curves_of, halves, np.ones((1, ds.n_documents), dtype=np.float32))[0]
    return normal_interval(estimate, cross_fitted_resamples(curves_of, halves, weights), level)


def random_halves(n_documents: int, n_splits: int, seed: int) -> NDArray[np.float32]:
    """Return which documents are in the first half of each random split: shape (n_splits, D), 0 or 1."""
    rng = np.random.default_rng(seed)
    half = np.zeros((n_splits, n_documents), dtype=np.float32)
    for row in half:
        row[rng.permutation(n_documents)[: n_documents // 2]] = 1.0
    return half


def cross_fitted_resamples(curves_of: Resampler, halves: NDArray[np.float32], weights: NDArray[np.floating]) -> Floats:
    """Return the cross-fitted rebound of every resample, shape (R, K).

    Parameters
    ----------
    curves_of : callable
        From weights to curves, as `resampler` gives it.
    halves : ndarray, shape (n_splits, D)
        From `random_halves`.
    weights : ndarray, shape (R, D)
    """
    total: Floats = np.zeros(())
    n_usable: Floats = np.zeros(())
    for half in halves:
        sides = curves_of(weights * half), curves_of(weights * (1.0 - half))
        for chosen_on, measured_on in (sides, sides[::-1]):
            usable = ~(np.isnan(chosen_on).any(axis=1) | np.isnan(measured_on).any(axis=1))
            best = np.argmin(chosen_on, axis=1)  # (R, K)
            at_best = np.take_along_axis(measured_on, best[:, None, :], axis=1)[:, 0]
            total = total + np.where(usable, measured_on[:, -1] - at_best, 0.0)
            n_usable = n_usable + usable
    return ratio(total, n_usable)


def normal_interval(estimate: Floats, resampled: Floats, level: float) -> Interval:
    """Return estimate plus and minus z standard errors, those of the resamples, which are (R, ...)."""
    require_share(level)
    half_width = ndtri((1.0 + level) / 2.0) * standard_error(resampled)
    return Interval(estimate - half_width, estimate + half_width, estimate)


def standard_error(resampled: Floats) -> Floats:
    """Return the standard deviation of (R, ...) resamples, NaN left out; NaN where all are."""
    known = ~np.isnan(resampled)
    n_known = known.sum(axis=0).astype(np.float64)
    mean = ratio(np.where(known, resampled, 0.0).sum(axis=0), n_known)
    variance = ratio((np.where(known, resampled - mean, 0.0) ** 2).sum(axis=0), n_known)
    error: Floats = np.sqrt(variance)
    return error
