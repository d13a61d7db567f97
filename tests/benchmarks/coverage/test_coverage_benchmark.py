"""The benchmark's own parts: what it simulates has the moments that it says, and what it writes is read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage import crossed, page, rivals
from benchmarks.coverage.__main__ import written
from benchmarks.coverage.designs import LENGTHS, SEED_VARIANCES, VALUES, Crossed, Documents, crossed_arm, draw, tokens
from benchmarks.coverage.kinds import done, kinds

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "coverage.json"


@pytest.mark.parametrize("values", ["normal", "exponential", "lognormal"])
def test_values_have_mean_zero_and_variance_one(values: str) -> None:
    drawn = draw(values, np.random.default_rng(0), (2_000_000,))
    assert abs(drawn.mean()) < 0.005 and drawn.var() == pytest.approx(1.0, rel=0.05)


def test_a_simulated_mean_varies_as_it_is_said_to() -> None:
    rng = np.random.default_rng(1)
    for variance in SEED_VARIANCES:
        cell = Crossed(3, 15, variance, "normal", "unequal", True)
        counts = tokens("unequal", rng, (15, 4000))
        sums, expected = crossed_arm(cell, rng, counts, share=0.5)
        means = sums.sum(axis=(0, 1)) / (3 * counts.sum(axis=0))
        assert (means / np.sqrt(expected)).std() == pytest.approx(1.0, abs=0.03)
        assert (np.ptp(sums, axis=0).max() == 0) == (variance == "alike")


def test_every_condition_is_simulated() -> None:
    cells = crossed.crossed_cells()
    assert len(set(cells)) == len(cells) == 3 * 5 * len(SEED_VARIANCES) * len(VALUES) * len(LENGTHS) * 2
    assert {cell.documents for cell in cells} == {8, 15, 30, 70, 200}
    assert [crossed.bound(Documents(n, "t3", "equal")) for n in (8, 15)] == [0.0, 0.93]
    assert [crossed.bound(Crossed(n, 8, "0", "t3", "equal", True)) for n in (2, 3)] == [0.91, 0.93]


def test_rivals_by_hand() -> None:
    # Two seeds, two documents of one token: means 0 and 2.
    sums, counts = np.array([[[-1.0], [1.0]], [[1.0], [3.0]]]), np.ones((2, 1))
    low, high = rivals.over_seeds(sums, counts, 0.95)
    assert (high[0] + low[0]) / 2 == 1.0 and (high[0] - low[0]) / 2 == pytest.approx(12.7062, abs=1e-4)
    low, high = rivals.over_documents(sums, counts, 0.95)
    assert (high[0] - low[0]) / 2 == pytest.approx(12.7062, abs=1e-4)
    resampled = rivals.resampled_documents(sums, counts, np.random.default_rng(0))
    assert set(np.unique(resampled)) == {0.0, 1.0, 2.0}
    # One of two seeds is drawn.
    assert set(np.unique(rivals.pigeonhole(sums, counts, np.random.default_rng(0)))) == {-1.0, 0.0, 1.0, 2.0, 3.0}


def test_a_kind_below_its_bound_is_simulated_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossed, "bound", lambda cell: 1.1)
    cell = Documents(8, "normal", "equal")
    part, found = done(next(kind for kind in kinds(30) if kind[2] == (cell, 30)))
    assert part == "documents" and found["anew"]["studies"] == 600
    assert found["methods"][crossed.OURS]["standard error 0.95"] < 0.1


def test_results_are_written_as_json(tmp_path: Path) -> None:
    results = {"studies": 3, "crossed": [{"a": 1}, {"a": 2}], "empty": []}
    written(results, tmp_path / "new" / "coverage.json")
    assert json.loads((tmp_path / "new" / "coverage.json").read_text()) == results


def test_what_is_promised_was_measured() -> None:
    """The results that the documents quote: every kind at its bound, false findings, bias and power."""
    result = json.loads(RESULTS.read_text())
    assert result["studies"] >= 1000
    for cell in [*result["crossed"], *result["documents"]]:
        held = cell.get("anew", cell["methods"][crossed.OURS])
        assert held["coverage 0.95"] + 2 * held["standard error 0.95"] >= cell["bound"], cell
    for arms in result["identical arms"]:
        assert max(rate["0.05"] for rate in arms["rates"].values()) <= 0.065, arms
        assert max(rate["0.005"] for rate in arms["rates"].values()) <= 0.01, arms
    for flat in result["flat curves"]:
        if flat["seeds"] > 1:
            assert abs(flat["bias"]) <= 0.005 and flat["coverage 0.95"] >= 0.9, flat
    for design in result["power"]:
        assert 0.78 <= design["found"] <= 0.82, design
    assert all(len(make(result)) > 200 for make in page.PARTS.values())
