"""Coverage over seeds and documents, and over documents alone: kinds of studies, and how often each interval holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks.coverage import rivals
from benchmarks.coverage.designs import (
    LENGTHS,
    SEED_VARIANCES,
    VALUES,
    Crossed,
    Documents,
    crossed_arm,
    draw,
    generator,
    tokens,
)
from dynamics.analysis.intervals.contributions import Contributions, contributions_of
from dynamics.analysis.intervals.over_documents import over_documents
from dynamics.analysis.intervals.over_seeds_and_documents import (
    over_other_seeds_and_documents,
    over_seeds_and_documents,
)
from dynamics.analysis.intervals.uncertainty import Uncertainty
from dynamics.analysis.tokens.token_records import Floats

LEVELS = (0.95, 0.995)
OURS = "ours"

# Of a level: the ends of K intervals.
Method = Callable[[float], rivals.Ends]


def crossed_cells(
    *, seeds: tuple[int, ...] = (2, 3, 5), documents: tuple[int, ...] = (8, 15, 30, 70, 200)
) -> list[Crossed]:
    """Return every kind of study of seeds and documents."""
    return [Crossed(*each) for each in product(seeds, documents, SEED_VARIANCES, VALUES, LENGTHS, (True, False))]


def document_cells(documents: tuple[int, ...] = (8, 15, 30, 70, 200)) -> list[Documents]:
    """Return every kind of study over documents alone."""
    return [Documents(*each) for each in product(documents, VALUES, LENGTHS)]


def bound(cell: Crossed | Documents) -> float:
    """Return the coverage at 95 % below which a kind of study is not to fall; 0 where nothing is promised."""
    if isinstance(cell, Documents):
        return 0.93 if cell.documents >= 15 else 0.0
    return 0.93 if cell.seeds >= 3 else 0.91


def crossed_coverage(cell: Crossed, n_studies: int, *, again: int = 0, others: bool = True) -> dict[str, Any]:
    """Return how often the intervals of simulated studies hold the truth, and how wide they are.

    Parameters
    ----------
    cell : Crossed
    n_studies : int
    again : int
        Another number gives other studies of the same kind.
    others : bool
        Whether to look at other intervals too, where arms have the same seeds.
    """
    rng = generator(cell, again)
    counts = tokens(cell.lengths, rng, (cell.documents, n_studies))
    if cell.paired:
        sums, variance = crossed_arm(cell, rng, counts)
        methods: dict[str, Method] = {OURS: _of(over_seeds_and_documents(_contributions(sums, counts)))}
        if others:
            methods |= _paired_rivals(sums, counts, rng)
    else:
        # Half of the variance in each arm. What documents have in both arms cancels, and is left out.
        sides = [crossed_arm(cell, rng, counts, share=0.5) for _ in range(2)]
        variance = sides[0][1] + sides[1][1]
        methods = {OURS: _of(over_other_seeds_and_documents(*(_contributions(sums, counts) for sums, _ in sides)))}
    return {**asdict(cell), "studies": n_studies, "methods": _held(methods, np.sqrt(variance))}


def document_coverage(cell: Documents, n_studies: int, *, again: int = 0, others: bool = True) -> dict[str, Any]:
    """Return the same over documents alone."""
    rng = generator(cell, again)
    counts = tokens(cell.lengths, rng, (cell.documents, n_studies))
    sums = counts * draw(cell.values, rng, counts.shape)
    error = np.sqrt(((counts / counts.sum(axis=0)) ** 2).sum(axis=0))
    methods: dict[str, Method] = {OURS: _of(over_documents(_contributions(sums[None], counts)))}
    if others:
        resampled = rivals.resampled_documents(sums[None], counts, rng)
        methods["percentiles over documents"] = lambda level: rivals.percentiles(resampled, level)
        methods["t over documents"] = lambda level: rivals.over_documents(sums[None], counts, level)
    return {**asdict(cell), "studies": n_studies, "methods": _held(methods, error)}


def _contributions(sums: Floats, counts: Floats) -> Contributions:
    return contributions_of(sums[:, None], counts[None]).over_epochs(np.ones(1))


def _of(uncertainty: Uncertainty) -> Method:
    def ends(level: float) -> rivals.Ends:
        interval = uncertainty.interval(level)
        return interval.low, interval.high

    return ends


def _paired_rivals(sums: Floats, counts: Floats, rng: np.random.Generator) -> dict[str, Method]:
    over_documents = rivals.resampled_documents(sums, counts, rng)
    over_both = rivals.pigeonhole(sums, counts, rng)
    return {
        "percentiles over documents": lambda level: rivals.percentiles(over_documents, level),
        "pigeonhole percentiles": lambda level: rivals.percentiles(over_both, level),
        "Satterthwaite's t": lambda level: rivals.satterthwaite(sums, counts, level),
        "t over seeds": lambda level: rivals.over_seeds(sums, counts, level),
    }


def _held(methods: dict[str, Method], error: Floats) -> dict[str, dict[str, float]]:
    """Return coverage of 0, and the median width over that of a normal interval with known variances."""
    found: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        found[name] = {}
        for level in LEVELS:
            low, high = method(level)
            held = (low <= 0.0) & (high >= 0.0)
            known = 2.0 * norm.isf((1.0 - level) / 2.0) * error
            found[name] |= {
                f"coverage {level:g}": float(held.mean()),
                f"standard error {level:g}": round(float(held.std() / np.sqrt(len(held))), 5),
                f"width {level:g}": round(float(np.median((high - low) / known)), 4),
            }
    return found
