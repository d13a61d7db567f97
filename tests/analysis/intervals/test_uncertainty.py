from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from dynamics.analysis.intervals.uncertainty import Uncertainty, VariancePart, skewed, unskewed
from dynamics.errors import InputError


def known(
    estimate: float, variances: tuple[float, ...], degrees: tuple[float, ...], skewness: float = 0.0
) -> Uncertainty:
    parts = [VariancePart(np.array([v]), np.array([d])) for v, d in zip(variances, degrees, strict=True)]
    return Uncertainty(np.array([estimate]), parts, np.array([skewness]))


def test_one_part_is_students_t() -> None:
    one = known(1.0, (0.25,), (7.0,))
    half = 0.5 * student.isf(0.025, 7)
    interval = one.interval(0.95)
    assert (interval.low[0], interval.high[0]) == pytest.approx((1 - half, 1 + half))
    assert one.p_value()[0] == pytest.approx(2 * student.sf(2.0, 7), rel=1e-12)
    assert one.p_above(0.4)[0] == pytest.approx(student.sf(1.2, 7), rel=1e-12)
    assert one.p_below(0.4)[0] == pytest.approx(student.cdf(1.2, 7), rel=1e-12)
    assert one.standard_error[0] == 0.5


def test_the_critical_value_of_two_parts_by_hand() -> None:
    # Three quarters of the variance are known with 2 degrees of freedom, a quarter with 20.
    two = known(0.0, (0.75, 0.25), (2.0, 20.0))
    assert two.critical(0.025)[0] == pytest.approx(0.75 * 4.302653 + 0.25 * 2.085963, abs=1e-5)
    # In between, and above Satterthwaite's, which makes 3.5 degrees of freedom of these.
    assert student.isf(0.025, 20) < two.critical(0.025)[0] < student.isf(0.025, 2)


def test_p_values_solve_for_the_critical_value() -> None:
    for estimate in (0.01, 0.4, 3.0, 40.0, 4000.0):
        two = known(estimate, (0.75, 0.25), (2.0, 69.0))
        log = brentq(
            lambda x, at=estimate: 0.75 * student.isf(np.exp(x), 2) + 0.25 * student.isf(np.exp(x), 69) - at,
            -100,
            np.log(0.5),
            xtol=1e-13,
        )
        assert two.p_value()[0] == pytest.approx(2 * np.exp(log), rel=1e-9)
    # No floor of resampling.
    assert 0 < known(4000.0, (0.75, 0.25), (20.0, 69.0)).p_value()[0] < 1e-30


@pytest.mark.parametrize("skewness", [-0.8, -0.1, 0.0, 1e-9, 0.1, 0.8, 2.0])
def test_halls_transformation_and_back(skewness: float) -> None:
    g = np.array(skewness)
    for x in (-6.0, -1.0, 0.0, 0.5, 8.0):
        solved = brentq(
            lambda t, to=x: t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6 - to, -500, 500
        )
        assert float(unskewed(np.array(x), g)) == pytest.approx(solved, abs=1e-9)
        assert float(unskewed(skewed(np.array(x), g), g)) == pytest.approx(x, abs=1e-9)
    assert skewed(np.array(np.inf), g) == np.inf


def test_the_interval_is_the_union_with_halls() -> None:
    straight, turned = known(0.0, (1.0,), (9.0,)).interval(0.95), known(0.0, (1.0,), (9.0,), 0.6).interval(0.95)
    far = student.isf(0.025, 9)
    # A long right tail: where the sample has few of its large values the truth lies far above.
    assert turned.low[0] == pytest.approx(straight.low[0])
    assert turned.high[0] == pytest.approx(-float(unskewed(np.array(-far), np.array(0.6))))
    assert turned.high[0] > 1.5 * far
    mirrored = known(0.0, (1.0,), (9.0,), -0.6).interval(0.95)
    assert (mirrored.low[0], mirrored.high[0]) == pytest.approx((-turned.high[0], -turned.low[0]))


@pytest.mark.parametrize("skewness", [0.0, 0.5, -0.9, 3.0])
@pytest.mark.parametrize("estimate", [0.05, -0.7, 2.5])
def test_a_p_value_is_one_minus_the_level_of_the_interval_that_just_reaches_zero(
    estimate: float, skewness: float
) -> None:
    for one in (
        known(estimate, (0.3, 0.05), (2.0, 30.0), skewness),
        known(estimate, (0.1,), (5.0,), skewness),
        known(estimate, (0.1, 0.02, 0.3), (1.0, 4.0, 29.0), skewness),
    ):
        p = one.p_value()[0]
        if p == 1.0:
            interval = one.interval(1e-6)
            assert interval.low[0] <= 0 <= interval.high[0]
            continue
        reached = one.interval(1 - p)
        end = reached.low if estimate > 0 else reached.high
        assert end[0] == pytest.approx(0.0, abs=1e-9)


def test_where_nothing_varies_and_where_nothing_is_known() -> None:
    nothing = known(0.0, (0.0, 0.0), (2.0, 20.0))
    assert (nothing.p_value()[0], nothing.p_below(0.0)[0]) == (1.0, 0.5)
    certain = known(-0.1, (0.0, 0.0), (2.0, 20.0))
    assert certain.p_value()[0] < 1e-200 and certain.p_below(0.0)[0] < 1e-200
    assert (certain.interval(0.95).low[0], certain.interval(0.95).high[0]) == (-0.1, -0.1)
    for unknown in (known(np.nan, (0.1,), (3.0,)), known(1.0, (np.nan, 0.1), (2.0, np.nan))):
        assert np.isnan([unknown.p_value()[0], unknown.p_below(1.0)[0], unknown.p_above(1.0)[0]]).all()
        assert np.isnan(unknown.interval(0.95).low[0])


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(InputError, match="level"):
        known(0.0, (1.0,), (3.0,)).interval(level)
