"""Intervals from resampling seeds and documents together: would it be there with other seeds too?

Every seed is measured on the same documents, so the two are crossed, not nested: both are drawn independently and a
value counts by the product of its seed's and its document's weight (the pigeonhole bootstrap: Owen 2007, The pigeonhole
bootstrap, Annals of Applied Statistics 1(2), which is never too narrow but for few units). Of S seeds, S - 1 are drawn:
drawing S of S would understate the variance between seeds by the factor (S - 1) / S, a third for three seeds, and
drawing S - 1 is right for a mean (Rao and Wu 1988, Resampling inference with complex survey data, JASA 83).

Shape suffixes: R resamples, S seeds, E epochs, D documents, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bootstrap import (
    Interval,
    Resampler,
    document_weights,
    percentiles,
    require_same_documents,
    resampler,
    warn_few,
)
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.document_sums import DocumentSums, average_sums, require_like_sums, require_same_passes
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError

_SEED_STREAM = 2**33  # Added to a seed: another stream than those of the documents.


def hierarchical_curve(
    parts: Sequence[DocumentSums], *, n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean curve of an arm with an interval over its seeds and documents.

    Parameters
    ----------
    parts : sequence of DocumentSums
        One a seed, at least two: ``arm.seed_sums(split)``.
    n_resamples, level, seed
        As for `bootstrap_curve`.

    Returns
    -------
    Interval of arrays of shape (E, K)
        With three seeds it is a rough one: a variance from three values is.

    Raises
    ------
    InputError
        For a single seed, or seeds with different tokens.

    Warns
    -----
    UserWarning
        With fewer than 50 documents.
    """
    warn_few(parts[0].n_documents)
    curves = seed_resampler(parts, seed_weights(len(parts), n_resamples, seed))
    low, high = percentiles(curves(document_weights(parts[0].n_documents, n_resamples, seed)), level)
    return Interval(low, high, mean_curve(average_sums(parts)))


def hierarchical_difference(
    minuend: Sequence[DocumentSums],
    subtrahend: Sequence[DocumentSums],
    *,
    same_seeds: bool,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return minuend minus subtrahend, paired by document, with an interval over seeds and documents.

    Parameters
    ----------
    minuend, subtrahend : sequence of DocumentSums
        One a seed, at least two each, all on the same tokens.
    same_seeds : bool
        True: the i-th seed of both arms is the same and is resampled in pairs.
    n_resamples, level, seed
        As for `bootstrap_curve`.

    Returns
    -------
    Interval of arrays of shape (E, K)

    Raises
    ------
    InputError
        For a single seed, other tokens, or ``same_seeds=True`` with unequal numbers of seeds.

    Warns
    -----
    UserWarning
        With fewer than 50 documents.
    """
    warn_few(minuend[0].n_documents)
    require_comparable(minuend[0], subtrahend[0])
    weights = document_weights(minuend[0].n_documents, n_resamples, seed)
    first, second = paired_seed_weights(len(minuend), len(subtrahend), same_seeds, n_resamples, seed)
    difference = seed_resampler(minuend, first)(weights) - seed_resampler(subtrahend, second)(weights)
    low, high = percentiles(difference, level)
    return Interval(low, high, mean_curve(average_sums(minuend)) - mean_curve(average_sums(subtrahend)))


def seed_weights(n_seeds: int, n_resamples: int, seed: int) -> Floats:
    """Return the share of each seed in each resample, shape (R, S): S - 1 draws with replacement, over S - 1.

    Raises
    ------
    InputError
        For fewer than two seeds: nothing is known of their variance.
    """
    if n_seeds < 2:
        raise InputError(f"{n_seeds} seed says nothing of the variance between seeds; run 2 or more, 5 if you can")
    rng = np.random.default_rng(seed + _SEED_STREAM)
    return rng.multinomial(n_seeds - 1, np.full(n_seeds, 1.0 / n_seeds), size=n_resamples) / (n_seeds - 1)


def require_comparable(first: DocumentSums, second: DocumentSums) -> None:
    if first.labels != second.labels or not np.array_equal(first.epochs, second.epochs):
        raise InputError(
            "only curves with the same epochs and buckets can be compared; cut both to common epochs "
            "(dynamics.analysis.sums.arms.at_common_epochs)"
        )
    require_same_passes(first, second)
    require_same_documents(first, second)


def paired_seed_weights(
    n_first: int, n_second: int, same_seeds: bool, n_resamples: int, seed: int
) -> tuple[Floats, Floats]:
    if same_seeds and n_first != n_second:
        raise InputError(f"{n_first} and {n_second} seeds cannot be resampled in pairs; use same_seeds=False")
    first = seed_weights(n_first, n_resamples, seed)
    return first, first if same_seeds else seed_weights(n_second, n_resamples, seed + 1)


def seed_resampler(parts: Sequence[DocumentSums], by_seed: Floats) -> Resampler:
    """Return the function from document weights (R, D) to curves, the seeds of resample r weighted by ``by_seed[r]``.

    Seeds of one arm have the same tokens, so that the mean over their curves is the curve of their mean.
    """
    require_like_sums(parts)
    if parts[0].counts.ndim == 3:
        raise InputError("in moving buckets seeds have different tokens; resample seeds with frozen buckets")
    curves_of = [resampler(part) for part in parts]

    def curves(weights: NDArray[np.floating]) -> Floats:
        total: Floats = np.zeros(())
        for s, one in enumerate(curves_of):
            total = total + by_seed[:, s, None, None] * one(weights)
        return total

    return curves
