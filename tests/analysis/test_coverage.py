"""The short form of `python -m benchmarks.coverage`: a few kinds of simulated studies whose truth is known.

The generators are seeded, so that each share below is one number; bounds leave it its simulation error.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.coverage import choices
from benchmarks.coverage.crossed import OURS, crossed_coverage, document_coverage
from benchmarks.coverage.designs import Crossed, Documents
from dynamics.analysis.comparisons.power import Design

N_STUDIES = 1_000


@pytest.mark.parametrize(
    "cell",
    [
        Crossed(2, 70, "unit", "normal", "equal", True),
        Crossed(3, 70, "4", "normal", "equal", True),
        Crossed(3, 15, "1", "t3", "unequal", True),
        Crossed(3, 30, "alike", "exponential", "equal", True),
        Crossed(5, 30, "alike", "lognormal", "equal", True),
        Crossed(5, 70, "0", "exponential", "equal", True),
        Crossed(3, 30, "4", "exponential", "equal", False),
        Crossed(5, 70, "1/4", "normal", "unequal", False),
    ],
    ids=str,
)
def test_intervals_over_seeds_and_documents_cover(cell: Crossed) -> None:
    found = crossed_coverage(cell, N_STUDIES, others=False)["methods"][OURS]
    least = 0.91 if cell.seeds == 2 else 0.93
    assert least <= found["coverage 0.95"], found
    assert found["coverage 0.995"] >= 0.98, found


def test_with_five_seeds_they_are_hardly_wider_than_with_known_variances() -> None:
    found = crossed_coverage(Crossed(5, 70, "0", "normal", "equal", True), N_STUDIES, others=False)["methods"][OURS]
    assert found["width 0.95"] < 1.25, found
    assert found["coverage 0.95"] < 0.985, found


@pytest.mark.parametrize(
    "cell", [Documents(15, "lognormal", "equal"), Documents(15, "normal", "unequal"), Documents(70, "t3", "unequal")]
)
def test_intervals_over_documents_cover(cell: Documents) -> None:
    found = document_coverage(cell, 4 * N_STUDIES, others=False)["methods"][OURS]
    assert 0.93 <= found["coverage 0.95"], found


def test_others_do_not() -> None:
    """Percentiles of documents forget seeds, t over seeds forgets documents, percentiles of few documents are short."""
    seeds = crossed_coverage(Crossed(3, 15, "4", "normal", "equal", True), N_STUDIES)["methods"]
    assert seeds["percentiles over documents"]["coverage 0.95"] < 0.75
    assert seeds["pigeonhole percentiles"]["coverage 0.95"] < 0.90
    assert seeds["Satterthwaite's t"]["coverage 0.95"] > 0.92
    few = crossed_coverage(Crossed(5, 15, "0", "normal", "equal", True), N_STUDIES)["methods"]
    assert few["t over seeds"]["coverage 0.95"] < 0.75
    documents = document_coverage(Documents(8, "lognormal", "unequal"), N_STUDIES)["methods"]
    assert documents["percentiles over documents"]["coverage 0.95"] < 0.80


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("paired", [True, False])
def test_identical_arms_differ_seldom(n_seeds: int, paired: bool) -> None:
    found = choices.false_findings(n_seeds, N_STUDIES, n_documents=15, paired=paired, quantities=("final", "area"))[
        "rates"
    ]
    for name in ("final", "area", "contrast of area", "interaction of final"):
        assert found[name]["0.05"] <= 0.065, (name, found[name])
        assert found[name]["0.005"] <= 0.01, (name, found[name])
    # And no test that never finds anything.
    assert found["contrast of final"]["0.05"] > 0.01, found


def test_identical_arms_differ_seldom_at_best_epochs() -> None:
    found = choices.false_findings(5, 60, n_documents=15)["rates"]
    assert max(rate["0.05"] for name, rate in found.items() if "best" in name or "rebound" in name) <= 0.1, found
    assert found["final against early stopping"]["0.05"] <= 0.1, found


def test_a_flat_curve_does_not_rebound_though_models_fluctuate() -> None:
    found = choices.flat_curves(3, 0.03, 100)
    assert abs(found["bias"]) <= 0.005 + 2 * found["bias, standard error"], found
    assert found["coverage 0.95"] >= 0.90, found
    one = choices.flat_curves(1, 0.03, 50)
    # A single seed cannot tell: `about_one_seed` says so.
    assert one["bias"] > 0.02, one


@pytest.mark.parametrize(
    "design", [choices.DESIGNS[0], choices.DESIGNS[4], Design(1e-5, 1e-4, 5e-5, 3, 15, 14.0)], ids=lambda d: repr(d)
)
def test_differences_of_the_promised_size_are_found_as_often_as_promised(design: Design) -> None:
    found = choices.found_at_promised_size(design, 4 * N_STUDIES)
    assert 0.78 <= found["found"] <= 0.82, found
    assert found["promised"] == 0.8
    assert np.isfinite(found["difference"])
