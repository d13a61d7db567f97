from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student
from support.synthetic import make_study

from dynamics.analysis.comparisons.power import (
    Design,
    design_of,
    detectable_difference,
    documents_needed,
    pilot_design,
    power,
    seeds_needed,
)
from dynamics.analysis.estimands.quantities import arm_quantity
from dynamics.analysis.intervals.contributions import contributions_of
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.records.reader import open_study

PILOT = Design(seeds=4e-4, documents=1e-4, together=1e-4, n_seeds=3, n_documents=70, degrees=69.0)


def test_components_are_those_of_a_two_way_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0, 1, (4, 10)) + 2 * rng.normal(0, 1, (4, 1)) + 3 * rng.normal(0, 1, 10)
    counts = np.full((1, 10, 1), 5.0)
    found = design_of(contributions_of(y[:, None, :, None] * 5.0, counts).over_epochs(np.ones(1)))
    grand, by_seed, by_document = y.mean(), y.mean(axis=1), y.mean(axis=0)
    error = ((y - by_seed[:, None] - by_document + grand) ** 2).sum() / 27
    seeds = 10 * ((by_seed - grand) ** 2).sum() / 3
    documents = 4 * ((by_document - grand) ** 2).sum() / 9
    # Method of moments; those of documents are of a mean of ten.
    assert found.seeds == pytest.approx((seeds - error) / 10)
    assert found.documents == pytest.approx((documents - error) / 4 / 10)
    assert found.together == pytest.approx(error / 10)
    assert (found.n_seeds, found.n_documents, round(found.degrees, 9)) == (4, 10, 9.0)
    error = np.sqrt(found.seeds / 4 + found.documents + found.together / 4)
    assert found.standard_error == pytest.approx(error)


def test_seeds_alone_have_the_power_of_a_t_test() -> None:
    # Documents make nothing of it: a noncentral t with two degrees of freedom.
    design = Design(seeds=1e-2, documents=0.0, together=0.0, n_seeds=3, n_documents=70, degrees=69.0)
    for difference in (0.0, 0.1, 0.3, 0.6):
        critical = student.isf(0.025, 2)
        shift = difference / design.standard_error
        expected = nct.sf(critical, 2, shift) + nct.cdf(-critical, 2, shift)
        assert power(design, difference) == pytest.approx(expected, abs=0.01)


def test_a_detectable_difference_has_its_power_and_grows_with_what_is_asked() -> None:
    size = detectable_difference(PILOT)
    assert power(PILOT, size) == pytest.approx(0.8, abs=1e-4)
    assert power(PILOT, -size) == pytest.approx(0.8, abs=0.01)
    assert detectable_difference(PILOT, power=0.9) > size > detectable_difference(PILOT, level=0.9)
    assert detectable_difference(PILOT.resized(n_seeds=5)) < 0.75 * size
    assert power(PILOT, 0.0) <= 0.055


def test_what_a_difference_needs_is_the_fewest() -> None:
    for needed, what in ((seeds_needed(PILOT, 0.04), "n_seeds"), (documents_needed(PILOT, 0.08), "n_documents")):
        assert needed is not None and needed > 2
        size = 0.04 if what == "n_seeds" else 0.08
        assert power(PILOT.resized(**{what: needed}), size) >= 0.8 > power(PILOT.resized(**{what: needed - 1}), size)
    # No number of seeds takes away what documents make, nor the other way round.
    assert seeds_needed(PILOT, 0.01) is None
    assert documents_needed(PILOT, 0.01) is None
    assert seeds_needed(PILOT, 10.0) == 2


def test_resizing_divides_what_it_should() -> None:
    more = PILOT.resized(6, 140)
    assert (more.seeds, more.documents, more.together) == (4e-4, 5e-5, 5e-5)
    assert (more.n_seeds, more.n_documents, more.degrees) == (6, 140, 138.0)
    assert more.standard_error == pytest.approx(np.sqrt(4e-4 / 6 + 5e-5 + 5e-5 / 6))


def test_what_is_no_design_and_no_question() -> None:
    with pytest.raises(InputError, match="1 seeds and 70 documents are no design"):
        PILOT.resized(n_seeds=1)
    for bad in (0.05, 1.0, 80.0):
        with pytest.raises(InputError, match="is not a chance"):
            detectable_difference(PILOT, power=bad)
    with pytest.raises(InputError, match="level"):
        power(PILOT, 0.1, level=95)
    with pytest.raises(InputError, match="difference of 0"):
        seeds_needed(PILOT, 0.0)


def test_a_pilot_study(tmp_path) -> None:
    study = open_study(make_study(tmp_path / "pilot", n_documents=60, epochs=2, seeds=(0, 1, 2)))
    arms = {arm.name: arm for arm in collect_arms(study)}
    found = pilot_design(study, "entrodrop", "baseline", quantity="area")
    sides = [arm_quantity(arms[name], "area") for name in ("entrodrop", "baseline")]
    assert found == design_of(sides[0].minus(sides[1]))
    with pytest.raises(InputError, match="did you mean 'baseline'"):
        pilot_design(study, "entrodrop", "baselin")
    turned = Arm("other", arms["baseline"].runs[::-1])
    assert pilot_design([arms["entrodrop"], turned], "entrodrop", "other", quantity="area") == found
    other = Arm("other", arms["baseline"].runs[:2])
    with pytest.raises(InputError, match="different seeds"):
        pilot_design([arms["entrodrop"], other], "entrodrop", "other")
    single = [Arm(name, arm.runs[:1]) for name, arm in arms.items()]
    with pytest.raises(InputError, match="1 seed says nothing"):
        pilot_design(single, "entrodrop", "baseline")


def test_a_design_in_which_nothing_varies_finds_every_difference() -> None:
    nothing = Design(seeds=0.0, documents=0.0, together=0.0, n_seeds=2, n_documents=2, degrees=1.0)
    assert (detectable_difference(nothing), power(nothing, 1e-9), power(nothing, 0.0)) == (0.0, 1.0, 0.0)
    assert (seeds_needed(nothing, -0.1), documents_needed(nothing, 0.1)) == (2, 2)


def test_what_is_no_pilot_is_refused() -> None:
    one_document = contributions_of(np.ones((3, 1, 1, 1)), np.ones((1, 1, 1))).over_epochs(np.ones(1))
    with pytest.raises(InputError, match="3 seeds and 1 documents are no design"):
        design_of(one_document)
    diverged = contributions_of(np.full((3, 1, 4, 1), np.nan), np.ones((1, 4, 1))).over_epochs(np.ones(1))
    with pytest.raises(InputError, match="a pilot needs losses without NaN"):
        design_of(diverged)
    with pytest.raises(InputError, match="0 seeds and 70 documents are no design"):
        PILOT.resized(n_seeds=0)
    with pytest.raises(InputError, match="a difference of nan is found by no design"):
        seeds_needed(PILOT, float("nan"))
