"""Comparing arms: hierarchical intervals, the probability that one beats the other, many comparisons.

Two questions can be asked of a difference between two arms. With the trained models held fixed: would it be there on
other documents? Then documents alone are resampled, paired, since both arms have values of the same tokens
(`dynamics.analysis.bootstrap.bootstrap_difference`). And of the method: would it be there with other seeds too? Then
seeds and documents are resampled.

Every seed is measured on the same documents, so the two are crossed, not nested: both are drawn independently and a
value counts by the product of its seed's and its document's weight (the pigeonhole bootstrap: Owen 2007, The pigeonhole
bootstrap, Annals of Applied Statistics 1(2), which is never too narrow but for few units). Of S seeds, S - 1 are drawn:
drawing S of S would understate the variance between seeds by the factor (S - 1) / S, a third for three seeds, and
drawing S - 1 is right for a mean (Rao and Wu 1988, Resampling inference with complex survey data, JASA 83).

Shape suffixes: R resamples, S seeds, E epochs, D documents, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from dynamics.analysis.arms import Arm, Source, as_buckets, collect_arms
from dynamics.analysis.bootstrap import (
    N_SPLITS,
    Interval,
    Resampler,
    cross_fitted_resamples,
    document_weights,
    normal_interval,
    percentiles,
    random_halves,
    require_same_documents,
    resampler,
    standard_error,
    warn_few,
)
from dynamics.analysis.buckets import Bucketing
from dynamics.analysis.curves import DocumentSums, Floats, average_sums, mean_curve, require_same_cells
from dynamics.analysis.significance import benjamini_hochberg, bootstrap_p_value, holm, probability_lower
from dynamics.errors import InputError, nearest

Quantity = Literal["final", "rebound"]
Over = Literal["documents", "seeds_and_documents"]

_SEED_STREAM = 2**33  # Added to a seed: another stream than those of the documents.


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against another in one bucket.

    Attributes
    ----------
    arm, other, bucket : str
    quantity : {"final", "rebound"}
        Last validation loss, or cross-fitted rebound; nats per token.
    estimate, low, high : float
        `arm` minus `other`: negative where `arm` has the lower loss.
    probability : float
        Probability that `arm` is lower (see `compare_arms`).
    p_value, p_holm, p_bh : float
        Two-sided; and adjusted for all comparisons of the same call, after Holm (1979; the chance of any false
        finding) and after Benjamini and Hochberg (1995; the expected share of false findings).
    n_documents : int
    n_seeds : tuple of int
        Of both arms.
    """

    arm: str
    other: str
    bucket: str
    quantity: Quantity
    estimate: float
    low: float
    high: float
    probability: float
    p_value: float
    p_holm: float
    p_bh: float
    n_documents: int
    n_seeds: tuple[int, int]


def compare_arms(
    data: Source | Iterable[Source],
    *,
    quantity: Quantity = "final",
    baseline: str | None = None,
    split: str = "validation",
    buckets: Bucketing | int = 1,
    over: Over = "documents",
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Comparison]:
    """Compare arms pair by pair on the same tokens, with adjusted p-values.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    quantity : {"final", "rebound"}
        The rebound is cross-fitted: the best epoch of either arm is chosen on other documents than those it is
        measured on.
    baseline : str, optional
        Compare every other arm with this one. Default: every arm with every later one.
    split : str
    buckets : Bucketing or int
        One comparison for each bucket; an int asks for that many by reference entropy.
    over : {"documents", "seeds_and_documents"}
        What might have been drawn otherwise. The second needs at least two seeds in each arm. Where both arms have
        the same seeds, these are resampled in pairs.
    n_resamples, level, seed
        As for `bootstrap_curve`; the least p-value is 2 / (n_resamples + 1).

    Returns
    -------
    list of Comparison
        `final` has a percentile interval; its probability is the share of resamples in which the arm is lower (ties
        count half), and its p-value twice the smaller tail, (1 + resamples beyond 0) / (1 + n_resamples). `rebound`
        has a normal interval about the cross-fitted estimate, and probability and p-value from the same normal
        distribution. NaN, and p-values of 1, where a curve is NaN.

    Raises
    ------
    InputError
        For fewer than two arms, an unknown arm or quantity, arms with other epochs, or a single seed where seeds are
        to be resampled.

    Warns
    -----
    UserWarning
        With fewer than 50 documents.
    """
    if quantity not in ("final", "rebound"):
        raise InputError(f"arms cannot be compared by {quantity!r}; use final or rebound")
    if over not in ("documents", "seeds_and_documents"):
        raise InputError(f"over={over!r} is not known; use documents or seeds_and_documents")
    arms = collect_arms(data)
    pairs = _pairs(arms, baseline)
    how = as_buckets(arms, buckets)
    rows: list[Comparison] = []
    for arm, other in pairs:
        parts = [each.seed_sums(split, buckets=how) for each in (arm, other)]
        rows += _compare(arm, other, parts[0], parts[1], quantity, over, n_resamples, level, seed)
    if not rows:
        return []
    adjusted = [holm([row.p_value for row in rows]), benjamini_hochberg([row.p_value for row in rows])]
    return [
        replace(row, p_holm=float(p_holm), p_bh=float(p_bh)) for row, p_holm, p_bh in zip(rows, *adjusted, strict=True)
    ]


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
    curves = _seed_resampler(parts, seed_weights(len(parts), n_resamples, seed))
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
    _require_comparable(minuend[0], subtrahend[0])
    weights = document_weights(minuend[0].n_documents, n_resamples, seed)
    first, second = _paired_seed_weights(len(minuend), len(subtrahend), same_seeds, n_resamples, seed)
    difference = _seed_resampler(minuend, first)(weights) - _seed_resampler(subtrahend, second)(weights)
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


def _pairs(arms: Sequence[Arm], baseline: str | None) -> list[tuple[Arm, Arm]]:
    by_name = {arm.name: arm for arm in arms}
    if len(arms) < 2:
        raise InputError(f"{', '.join(by_name)} is alone; comparing needs two arms or runs")
    if baseline is None:
        return list(combinations(arms, 2))
    if baseline not in by_name:
        raise InputError(f"no arm {baseline!r}; there are {', '.join(by_name)}{nearest(baseline, by_name)}")
    return [(arm, by_name[baseline]) for arm in arms if arm.name != baseline]


def _compare(
    arm: Arm,
    other: Arm,
    first: list[DocumentSums],
    second: list[DocumentSums],
    quantity: Quantity,
    over: Over,
    n_resamples: int,
    level: float,
    seed: int,
) -> list[Comparison]:
    _require_comparable(first[0], second[0])
    n_documents = first[0].n_documents
    warn_few(n_documents)
    weights = document_weights(n_documents, n_resamples, seed)
    means = average_sums(first), average_sums(second)
    whole = resampler(means[0]), resampler(means[1])
    if over == "documents":
        resampled = whole
    else:
        same = _seeds_of(arm) == _seeds_of(other)
        drawn = _paired_seed_weights(len(first), len(second), same, n_resamples, seed)
        resampled = _seed_resampler(first, drawn[0]), _seed_resampler(second, drawn[1])
    if quantity == "final":
        differences = resampled[0](weights)[:, -1] - resampled[1](weights)[:, -1]
        estimate = mean_curve(means[0])[-1] - mean_curve(means[1])[-1]
        low, high = percentiles(differences, level)
        probability, p = probability_lower(differences), bootstrap_p_value(differences)
    else:
        halves = random_halves(n_documents, N_SPLITS, seed)
        once = np.ones((1, n_documents), dtype=np.float32)
        a, b = (cross_fitted_resamples(curves, halves, weights) for curves in resampled)
        estimate = np.subtract(*(cross_fitted_resamples(curves, halves, once)[0] for curves in whole))
        interval = normal_interval(estimate, a - b, level)
        low, high = interval.low, interval.high
        error = standard_error(a - b)
        # Where no resample differs from another, the sign alone decides.
        z = np.where(estimate == 0, 0.0, np.copysign(np.inf, estimate))
        z[np.isnan(estimate)] = np.nan
        np.divide(estimate, error, out=z, where=error > 0)
        probability, p = ndtr(-z), np.where(np.isnan(z), 1.0, 2.0 * ndtr(-np.abs(z)))
    return [
        Comparison(
            arm=arm.name,
            other=other.name,
            bucket=label,
            quantity=quantity,
            estimate=float(estimate[k]),
            low=float(low[k]),
            high=float(high[k]),
            probability=float(probability[k]),
            p_value=float(p[k]),
            p_holm=float("nan"),
            p_bh=float("nan"),
            n_documents=n_documents,
            n_seeds=(len(first), len(second)),
        )
        for k, label in enumerate(means[0].labels)
    ]


def _seeds_of(arm: Arm) -> list[object]:
    return [run.manifest.get("seeds", {}).get("seed") for run in arm.runs]


def _require_comparable(first: DocumentSums, second: DocumentSums) -> None:
    if first.labels != second.labels or not np.array_equal(first.epochs, second.epochs):
        raise InputError("only curves with the same epochs and buckets can be compared; cut both to common epochs")
    require_same_documents(first, second)


def _paired_seed_weights(
    n_first: int, n_second: int, same_seeds: bool, n_resamples: int, seed: int
) -> tuple[Floats, Floats]:
    if same_seeds and n_first != n_second:
        raise InputError(f"{n_first} and {n_second} seeds cannot be resampled in pairs; use same_seeds=False")
    first = seed_weights(n_first, n_resamples, seed)
    return first, first if same_seeds else seed_weights(n_second, n_resamples, seed + 1)


def _seed_resampler(parts: Sequence[DocumentSums], by_seed: Floats) -> Resampler:
    """Return the function from document weights (R, D) to curves, the seeds of resample r weighted by ``by_seed[r]``.

    Seeds of one arm have the same tokens, so that the mean over their curves is the curve of their mean.
    """
    require_same_cells(parts)
    if parts[0].counts.ndim == 3:
        raise InputError("in moving buckets seeds have different tokens; resample seeds with frozen buckets")
    curves_of = [resampler(part) for part in parts]

    def curves(weights: NDArray[np.floating]) -> Floats:
        total: Floats = np.zeros(())
        for s, one in enumerate(curves_of):
            total = total + by_seed[:, s, None, None] * one(weights)
        return total

    return curves
