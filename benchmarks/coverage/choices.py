"""Identical arms, flat curves and planted differences: false findings of every estimand, and power.

Shape suffixes: S seeds, E epochs, D documents, K studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.coverage.designs import curves, generator
from dynamics.analysis.comparisons.power import Design, detectable_difference
from dynamics.analysis.estimands.quantities import mean_until, value_at
from dynamics.analysis.intervals.contributions import Contributions, curve_contributions
from dynamics.analysis.intervals.over_documents import over_documents
from dynamics.analysis.intervals.over_seeds_and_documents import (
    over_other_seeds_and_documents,
    over_seeds_and_documents,
)
from dynamics.analysis.intervals.selection import best_contributions
from dynamics.analysis.intervals.uncertainty import Uncertainty
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats

#: What a validation loss does: falls and rebounds, or only falls.
REBOUNDING = np.array([0.6, 0.1, 0.0, 0.03, 0.08, 0.14, 0.2])
FALLING = np.array([0.6, 0.4, 0.3, 0.22, 0.15, 0.09, 0.0])
FLAT = np.zeros(7)
JITTERS = (0.0, 0.01, 0.03)
SIGNIFICANCE = (0.05, 0.005)
QUANTITIES = ("final", "best", "rebound", "area")


def false_findings(
    n_seeds: int,
    n_studies: int,
    *,
    n_documents: int = 30,
    paired: bool = True,
    quantities: Sequence[str] = QUANTITIES,
) -> dict[str, Any]:
    """Return how often a difference is found between arms that are alike, or a contrast where there is none.

    Two arms with the same true curve and two halves of each document's tokens with the same true curve. Early stopping
    is a baseline whose best epoch is no better than where the arm ends: one that falls to its end.
    """
    rng = generator(f"identical arms, {n_seeds} seeds, paired {paired}")
    counts = rng.integers(20, 100, (2, n_documents, n_studies)).astype(np.float64)
    asked = [
        [_quantities(rng, REBOUNDING, half, n_seeds, quantities) for half in counts] for _ in ("an arm", "the baseline")
    ]
    found: dict[str, Uncertainty] = {}
    for quantity in quantities:
        (arm, arm_low), (other, other_low) = ([half[quantity] for half in side] for side in asked)
        found[quantity] = _between(arm, other, paired)
        contrasts = arm.minus(arm_low), other.minus(other_low)
        found[f"contrast of {quantity}"] = over_seeds_and_documents(contrasts[0])
        found[f"interaction of {quantity}"] = _between(*contrasts, paired)
    falling = [_quantities(rng, FALLING, counts[0], n_seeds, (quantity,))[quantity] for quantity in ("final", "best")]
    found["final against early stopping"] = _between(*falling, paired)
    rates = {
        name: {f"{level:g}": float((known.p_value() < level).mean()) for level in SIGNIFICANCE}
        for name, known in found.items()
    }
    return {"seeds": n_seeds, "documents": n_documents, "paired": paired, "studies": n_studies, "rates": rates}


def flat_curves(n_seeds: int, jitter: float, n_studies: int, *, n_documents: int = 72) -> dict[str, Any]:
    """Return the bias and the coverage of the rebound of a curve that is flat in truth."""
    rng = generator(f"flat curves, {n_seeds} seeds, jitter {jitter:g}")
    counts = rng.integers(40, 200, (n_documents, n_studies)).astype(np.float64)
    rebound = _quantities(rng, FLAT, counts, n_seeds, ("rebound",), jitter=jitter)["rebound"]
    known = over_seeds_and_documents(rebound) if n_seeds > 1 else over_documents(rebound)
    held = {level: known.interval(level) for level in (0.95, 0.995)}
    estimate = rebound.estimate
    return {
        "seeds": n_seeds,
        "documents": n_documents,
        "jitter": jitter,
        "studies": n_studies,
        "bias": float(estimate.mean()),
        "bias, standard error": float(estimate.std(ddof=1) / np.sqrt(n_studies)),
        "half width": float(np.median(held[0.95].high - held[0.95].low) / 2.0),
        **{f"coverage {level:g}": float(((i.low <= 0) & (i.high >= 0)).mean()) for level, i in held.items()},
    }


#: Designs whose power is simulated: what varies with seeds and with documents, and how much of either there is.
DESIGNS = tuple(
    Design(seeds, documents, 0.5 * documents, n_seeds, n_documents, n_documents - 1.0)
    for n_seeds, n_documents in ((3, 70), (5, 30), (5, 200), (10, 70))
    for seeds, documents in ((1e-6, 1e-4), (1e-4, 1e-4), (1e-3, 1e-4))
)


def found_at_promised_size(design: Design, n_studies: int, *, power: float = 0.8) -> dict[str, Any]:
    """Return how often studies find a difference of the size that a design promises to detect so often."""
    rng = generator(repr(design))
    size = detectable_difference(design, power=power)
    n_seeds, n_documents = design.n_seeds, design.n_documents
    counts = np.full((n_documents, n_studies), 100.0)
    values = (
        size
        + np.sqrt(design.seeds) * rng.standard_normal((n_seeds, 1, n_studies))
        + np.sqrt(design.documents * n_documents) * rng.standard_normal((n_documents, n_studies))
        + np.sqrt(design.together * n_documents) * rng.standard_normal((n_seeds, n_documents, n_studies))
    )
    difference = curve_contributions(_parts((counts * values)[:, None], counts)).over_epochs(np.ones(1))
    rejected = over_seeds_and_documents(difference).p_value() < 0.05
    return {
        "seeds": n_seeds,
        "documents": n_documents,
        "variance of seeds over that of documents": design.seeds / n_seeds / design.documents,
        "studies": n_studies,
        "promised": power,
        "difference": size,
        "difference over its standard error": size / design.standard_error,
        "found": float(rejected.mean()),
    }


def _quantities(
    rng: np.random.Generator,
    curve: Floats,
    counts: Floats,
    n_seeds: int,
    wanted: Sequence[str],
    *,
    jitter: float = 0.01,
) -> dict[str, Contributions]:
    """Return what `arm_quantity` does of simulated arms, Q = (K,)."""
    parts = _parts(curves(rng, curve, counts, n_seeds, jitter=jitter), counts)
    at = np.arange(len(curve), dtype=np.float64)
    last = value_at(at, at[-1])
    whole = curve_contributions(parts)
    found = {"final": whole.over_epochs(last), "area": whole.over_epochs(mean_until(at, at[-1], last))}
    if {"best", "rebound"} & set(wanted):
        found["best"] = best_contributions(parts)
        found["rebound"] = found["final"].minus(found["best"])
    return {quantity: found[quantity] for quantity in wanted}


def _parts(sums: Floats, counts: Floats) -> list[DocumentSums]:
    """Return sums (S, E, D, K) as the library has them of seeds, studies in place of buckets."""
    labels = tuple(map(str, range(counts.shape[1])))
    documents = np.arange(len(counts))
    return [DocumentSums(one, counts, np.arange(sums.shape[1]), labels, documents) for one in sums]


def _between(first: Contributions, second: Contributions, paired: bool) -> Uncertainty:
    if paired:
        return over_seeds_and_documents(first.minus(second))
    return over_other_seeds_and_documents(first, second)
