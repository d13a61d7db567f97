"""Balanced designs, whose intervals have closed forms: every document has as many tokens as any other.

Deviations come in pairs of opposite sign, so that no distribution over documents is skewed, and the degrees of freedom
are one less than there are documents. What is left is the textbook's two-way layout without replication.

Shape suffixes: S seeds, E epochs, D documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t as student

from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.records.reader import Run
from support.hand_made import sums_of

Array = np.ndarray[Any, Any]
#: Tokens of every document.
TOKENS = 7.0


class HandArm(Arm):
    """An arm of real runs, whose sums are given: by split, and by value where it isn't the loss."""

    def __init__(self, name: str, runs: Sequence[Run], given: Mapping[str, Array]) -> None:
        super().__init__(name, runs)
        self._given = {key: parts_of(values) for key, values in given.items()}

    def seed_sums(self, split: str, **how: Any) -> list[DocumentSums]:
        value = how.get("value", "loss")
        return self._given[split if value == "loss" else f"{split} {value}"]


def parts_of(values: Array) -> list[DocumentSums]:
    """Return sums of one bucket by seed, from values of shape (S, E, D)."""
    counts = np.full((values.shape[2], 1), TOKENS)
    return [replace(sums_of(TOKENS * each[:, :, None], counts), labels=("all",)) for each in values]


def spread_out(rng: np.random.Generator, shape: tuple[int, ...], *, scale: float) -> Array:
    """Return normal deviations with as many below 0, along the last axis: x and -x."""
    half = scale * rng.standard_normal((*shape[:-1], shape[-1] // 2))
    return np.concatenate([half, -half], axis=-1)


def two_ways(
    rng: np.random.Generator, curve: Sequence[float], n_seeds: int, n_documents: int, *, scale: float = 0.05
) -> Array:
    """Return values (S, E, D) about a curve: documents, seeds and what both make together, anew at every epoch."""
    shape = (n_seeds, len(curve), n_documents)
    seeds = 0.3 * scale * rng.standard_normal((n_seeds, len(curve), 1))
    documents = spread_out(rng, shape[1:], scale=scale)
    return np.array(curve)[:, None] + seeds + documents + spread_out(rng, shape, scale=scale)


@dataclass(frozen=True)
class Squares:
    """Mean squares of the mean of values (S, D): what seeds, documents and both together make of its variance."""

    seeds: float
    documents: float
    together: float


def squares_by_hand(values: Array) -> Squares:
    """Return the mean squares, over the number of values: those of seeds and documents hold the third one."""
    n_seeds, n_documents = values.shape
    by_document = values.mean(axis=0) - values.mean()
    by_seed = values.mean(axis=1) - values.mean()
    rest = values - values.mean() - by_seed[:, None] - by_document
    degrees = max(1, n_seeds - 1)
    return Squares(
        float((by_seed**2).sum() / (n_seeds * degrees)),
        # Leaving a document out moves the mean by its deviation over D - 1.
        float((by_document**2).sum() / (n_documents - 1) ** 2),
        float((rest**2).sum() / (degrees * (n_documents - 1)) / values.size),
    )


def parts_by_hand(values: Array) -> list[tuple[float, float]]:
    """Return the parts of the variance of the mean of values (S, D), each with its degrees of freedom.

    One seed has that of documents alone.
    """
    n_seeds, n_documents = values.shape
    found = squares_by_hand(values)
    if n_seeds == 1:
        return [(found.documents, n_documents - 1)]
    return [
        (max(found.seeds, found.together) - found.together / 2, n_seeds - 1),
        (max(found.documents, found.together) - found.together / 2, n_documents - 1),
    ]


def interval_by_hand(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the interval of the mean of values (S, D)."""
    return _ends(float(values.mean()), parts_by_hand(values), level)


def gap_by_hand(first: Array, second: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the interval of one mean minus another, of the same seeds and other documents."""
    estimate = float(first.mean() - second.mean())
    sides = [squares_by_hand(values) for values in (first, second)]
    n_seeds = len(first)
    if n_seeds == 1:
        return _ends(estimate, [*parts_by_hand(first), *parts_by_hand(second)], level)
    # Seeds are paired: what they make of the difference is the variance of their differences.
    own = first.mean(axis=1) - second.mean(axis=1)
    seeds, together = float(own.var(ddof=1)) / n_seeds, sum(each.together for each in sides)
    parts = [(max(seeds, together) - together / 2, n_seeds - 1.0)]
    for values, each in zip((first, second), sides, strict=True):
        parts.append((max(each.documents, each.together) - each.together / 2, values.shape[1] - 1.0))
    return _ends(estimate, parts, level)


def p_by_hand(values: Array) -> float:
    """Return the two-sided p-value of "the mean of values (S, D) is 0"."""
    parts = parts_by_hand(values)
    statistic = abs(values.mean()) / np.sqrt(sum(variance for variance, _ in parts))
    return float(
        2 * np.exp(brentq(lambda tail: _critical(parts, np.exp(tail)) - statistic, -200, np.log(0.5), xtol=1e-13))
    )


def _ends(estimate: float, parts: Sequence[tuple[float, float]], level: float) -> tuple[float, float]:
    half = float(np.sqrt(sum(variance for variance, _ in parts))) * _critical(parts, (1 - level) / 2)
    return estimate - half, estimate + half


def _critical(parts: Sequence[tuple[float, float]], tail: float) -> float:
    """Return the critical values of the parts, weighted by their shares of the variance (Cochran 1964)."""
    return float(np.average([student.isf(tail, df) for _, df in parts], weights=[variance for variance, _ in parts]))
