"""Comparing arms: differences, the probability that one beats the other, many comparisons.

Two questions can be asked of a difference between two arms. With the trained models held fixed: would it be there on
other documents? Then documents alone are resampled, paired, since both arms have values of the same tokens
(`dynamics.analysis.intervals.bootstrap.bootstrap_difference`). And of the method: would it be there with other seeds
too? Then seeds and documents are resampled (`dynamics.analysis.intervals.seeds_and_documents`).

Shape suffixes: R resamples, S seeds, E epochs, D documents, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.special import ndtr

from dynamics.analysis.comparisons.significance import benjamini_hochberg, bootstrap_p_value, holm, probability_lower
from dynamics.analysis.intervals.bootstrap import (
    document_weights,
    percentiles,
    resampler,
    warn_few,
)
from dynamics.analysis.intervals.cross_fitting import (
    N_SPLITS,
    cross_fitted_resamples,
    normal_interval,
    random_halves,
    standard_error,
)
from dynamics.analysis.intervals.seeds_and_documents import paired_seed_weights, require_comparable, seed_resampler
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, collect_arms
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.document_sums import DocumentSums, average_sums
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.errors import InputError, nearest

Quantity = Literal["final", "rebound"]
Over = Literal["documents", "seeds_and_documents"]


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
        For fewer than two arms, an unknown arm or quantity, a single seed where seeds are to be resampled, or arms with
        other epochs or an epoch that was cut after other passes: `at_common_epochs` leaves those out.

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
    require_comparable(first[0], second[0])
    n_documents = first[0].n_documents
    warn_few(n_documents)
    weights = document_weights(n_documents, n_resamples, seed)
    means = average_sums(first), average_sums(second)
    whole = resampler(means[0]), resampler(means[1])
    if over == "documents":
        resampled = whole
    else:
        same = _seeds_of(arm) == _seeds_of(other)
        drawn = paired_seed_weights(len(first), len(second), same, n_resamples, seed)
        resampled = seed_resampler(first, drawn[0]), seed_resampler(second, drawn[1])
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
