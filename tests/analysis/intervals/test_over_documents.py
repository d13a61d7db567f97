from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import skew
from scipy.stats import t as student

from dynamics.analysis.intervals.contributions import contributions_of
from dynamics.analysis.intervals.over_documents import (
    about_documents,
    document_skewness,
    document_variance,
    over_documents,
    over_two_sets_of_documents,
)
from dynamics.analysis.tokens.token_records import Floats


def of_means(means: Floats, counts: Floats):
    """Contributions of one seed and one epoch, Q = (1,), from means of documents (D,)."""
    return contributions_of((means * counts)[None, None, :, None], counts[None, :, None]).over_epochs(np.ones(1))


def test_the_variance_is_that_of_leaving_out() -> None:
    rng = np.random.default_rng(0)
    means, n = rng.normal(3, 1, 20), rng.integers(1, 90, 20).astype(float)
    whole = np.average(means, weights=n)
    without = [np.average(np.delete(means, d), weights=np.delete(n, d)) for d in range(20)]
    expected = sum((whole - each) ** 2 for each in without)
    assert document_variance(of_means(means, n))[0] == pytest.approx(expected, rel=1e-12)


def test_documents_of_one_length_have_the_t_interval_of_a_mean_and_its_correction() -> None:
    means = np.random.default_rng(1).normal(0, 1, 12)
    found = over_documents(of_means(means, np.full(12, 7.0)))
    # The jackknife divides by D - 1 where the variance of a mean has D.
    assert found.standard_error[0] == pytest.approx(means.std(ddof=1) / np.sqrt(11), rel=1e-12)
    assert found.parts[0].degrees[0] == pytest.approx(11.0)
    interval = found.interval(0.95)
    half = student.isf(0.025, 11) * found.standard_error[0]
    assert min(means.mean() - interval.low[0], interval.high[0] - means.mean()) == pytest.approx(half, rel=1e-9)


def test_skewness_is_that_of_the_mean() -> None:
    means = np.random.default_rng(2).exponential(1, 30)
    expected = skew(means, bias=False) / np.sqrt(30) * 30 / 28
    assert document_skewness(of_means(means, np.full(30, 3.0)))[0] == pytest.approx(expected, rel=1e-10)
    assert document_skewness(of_means(-means, np.full(30, 3.0)))[0] == pytest.approx(-expected, rel=1e-10)
    # Two documents show none, and equal ones have none.
    assert document_skewness(of_means(means[:2], np.ones(2)))[0] == 0.0
    assert document_skewness(of_means(np.ones(5), np.ones(5)))[0] == 0.0


def test_documents_without_tokens_change_nothing() -> None:
    means, n = np.array([1.0, 2.0, 4.0, 0.0]), np.array([3.0, 9.0, 2.0, 0.0])
    with_it, without = (over_documents(of_means(means[:d], n[:d])) for d in (4, 3))
    np.testing.assert_allclose(
        (with_it.interval(0.9).low, with_it.interval(0.9).high), (without.interval(0.9).low, without.interval(0.9).high)
    )


def test_two_documents_and_one() -> None:
    two = over_documents(of_means(np.array([1.0, 2.0]), np.ones(2)))
    assert two.parts[0].degrees[0] == pytest.approx(1.0)
    # Leaving either out moves the mean by a half.
    assert two.standard_error[0] == pytest.approx(np.sqrt(0.5))
    one = over_documents(of_means(np.array([1.0]), np.ones(1)))
    assert one.estimate[0] == 1.0 and np.isnan(one.interval(0.95).low[0]) and np.isnan(one.p_value()[0])


def test_two_sets_of_documents_add_their_variances() -> None:
    rng = np.random.default_rng(3)
    first, second = (of_means(rng.exponential(1, d), np.ones(d)) for d in (15, 40))
    found = over_two_sets_of_documents(first, second)
    assert found.estimate[0] == pytest.approx(first.estimate[0] - second.estimate[0])
    parts = [document_variance(each)[0] for each in (first, second)]
    assert found.variance[0] == pytest.approx(sum(parts))
    third = document_skewness(first)[0] * parts[0] ** 1.5 - document_skewness(second)[0] * parts[1] ** 1.5
    assert found.skewness[0] == pytest.approx(third / sum(parts) ** 1.5)


def test_few_documents_are_told() -> None:
    assert about_documents(15) is None
    assert "intervals over 14 documents" in str(about_documents(14))
