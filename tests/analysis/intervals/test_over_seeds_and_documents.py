from __future__ import annotations

import numpy as np
import pytest

from dynamics.analysis.intervals.contributions import Contributions, contributions_of
from dynamics.analysis.intervals.over_documents import document_skewness, document_variance, over_documents
from dynamics.analysis.intervals.over_seeds_and_documents import (
    about_seeds,
    over_other_seeds_and_documents,
    over_seeds_and_documents,
    over_seeds_and_two_sets_of_documents,
    variance_together,
)
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError


def of_means(means: Floats, counts: Floats) -> Contributions:
    """Contributions of one epoch, Q = (1,), from means (S, D)."""
    sums = (means * counts)[:, None, :, None]
    return contributions_of(sums, counts[None, :, None]).over_epochs(np.ones(1))


def test_components_are_those_of_a_two_way_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0, 1, (4, 10)) + rng.normal(0, 1, (4, 1)) + rng.normal(0, 2, 10)
    found = over_seeds_and_documents(of_means(y, np.full(10, 5.0)))
    grand, by_seed, by_document = y.mean(), y.mean(axis=1), y.mean(axis=0)
    error = sum((y[s, d] - by_seed[s] - by_document[d] + grand) ** 2 for s in range(4) for d in range(10)) / (3 * 9)
    seeds = 10 * sum((by_seed - grand) ** 2) / 3
    # The jackknife has D / (D - 1) of the mean square.
    documents = 4 * sum((by_document - grand) ** 2) / 9 * 10 / 9
    parts = [(max(square, error) - error / 2) / 40 for square in (seeds, documents)]
    assert [part.variance[0] for part in found.parts] == pytest.approx(parts, rel=1e-10)
    assert [part.degrees[0] for part in found.parts] == pytest.approx([3.0, 9.0])
    assert found.variance[0] == pytest.approx((max(seeds, error) + max(documents, error) - error) / 40, rel=1e-10)


def test_skewness_of_documents_counts_by_their_part() -> None:
    rng = np.random.default_rng(1)
    y = rng.exponential(1, 12) + rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 0.2, (3, 12))
    one = of_means(y, np.ones(12))
    found = over_seeds_and_documents(one)
    share = found.parts[1].variance[0] / found.variance[0]
    assert found.skewness[0] == pytest.approx(document_skewness(one)[0] * share**1.5)
    assert found.skewness[0] > 0.1


def test_seeds_that_are_alike_leave_documents_alone() -> None:
    means = np.random.default_rng(2).exponential(1, 12)
    n = np.arange(1.0, 13.0)
    both, alone = (
        over_seeds_and_documents(of_means(np.tile(means, (3, 1)), n)),
        over_documents(of_means(means[None], n)),
    )
    np.testing.assert_allclose(
        (both.interval(0.95).low, both.interval(0.95).high), (alone.interval(0.95).low, alone.interval(0.95).high)
    )
    np.testing.assert_allclose(both.p_value(), alone.p_value())


def test_differences_that_are_all_equal_are_certain() -> None:
    y = np.random.default_rng(3).normal(3, 1, (3, 8))
    n = np.full(8, 4.0)
    same = over_seeds_and_documents(of_means(y, n).minus(of_means(y, n)))
    assert (same.estimate[0], same.p_value()[0], same.interval(0.95).low[0]) == (0.0, 1.0, 0.0)
    shifted = over_seeds_and_documents(of_means(y, n).minus(of_means(y - 0.125, n)))
    assert shifted.estimate[0] == pytest.approx(0.125)
    assert shifted.interval(0.95).low[0] == pytest.approx(0.125) and shifted.p_value()[0] < 1e-9


def test_other_seeds_add_their_variances_and_documents_stay_paired() -> None:
    rng = np.random.default_rng(4)
    level, n = rng.normal(0, 5, 9), rng.integers(2, 30, 9).astype(float)
    first, second = (of_means(level + rng.normal(0, 1, (s, 9)) + rng.normal(0, 1, (s, 1)), n) for s in (3, 5))
    found = over_other_seeds_and_documents(first, second)
    both = [variance_together(each)[0] for each in (first, second)]
    seeds = [(each.seeds[:, 0] ** 2).sum() / (s * (s - 1)) for each, s in ((first, 3), (second, 5))]
    documents = ((first.documents - second.documents) ** 2).sum()
    parts = [
        max(square, shared) - shared / 2 for square, shared in zip((*seeds, documents), (*both, sum(both)), strict=True)
    ]
    assert [part.variance[0] for part in found.parts] == pytest.approx(parts)
    assert [part.degrees[0] for part in found.parts][:2] == [2.0, 4.0]
    # The documents' own level, five times what else there is, has cancelled.
    assert found.variance[0] < 0.5 * over_seeds_and_documents(first).variance[0]


def test_a_gap_pairs_seeds_and_not_documents() -> None:
    rng = np.random.default_rng(5)
    own = rng.normal(0, 3, (3, 1))
    validation, train = (of_means(own + rng.normal(0, 1, (3, d)), np.ones(d)) for d in (10, 25))
    found = over_seeds_and_two_sets_of_documents(validation, train)
    both = [variance_together(each)[0] for each in (validation, train)]
    seeds = ((validation.seeds - train.seeds)[:, 0] ** 2).sum() / 6
    assert found.parts[0].variance[0] == pytest.approx(max(seeds, sum(both)) - sum(both) / 2)
    for part, side, shared in zip(found.parts[1:], (validation, train), both, strict=True):
        assert part.variance[0] == pytest.approx(max(document_variance(side)[0], shared) - shared / 2)
    # What a seed shifts in both is gone.
    assert found.variance[0] < 0.2 * over_seeds_and_documents(validation).variance[0]
    with pytest.raises(InputError, match="3 and 2 seeds are not the same ones"):
        over_seeds_and_two_sets_of_documents(validation, of_means(np.zeros((2, 5)), np.ones(5)))


def test_a_choice_made_anew_counts_where_it_varies_by_more() -> None:
    plain = of_means(np.random.default_rng(6).normal(0, 1, (3, 9)), np.ones(9))
    fields = plain.estimate, plain.seeds, plain.documents, plain.residuals, plain.degrees
    less = over_seeds_and_documents(Contributions(*fields, plain.documents * 0.5, plain.seeds * 0.5))
    more = over_seeds_and_documents(Contributions(*fields, plain.documents * 3, plain.seeds * 3 + 7.0))
    straight = over_seeds_and_documents(plain)
    np.testing.assert_allclose(less.variance, straight.variance)
    shared = variance_together(plain)[0]
    squares = [9 * (plain.seeds**2).sum() / 6, 9 * (plain.documents**2).sum()]
    assert [part.variance[0] for part in more.parts] == pytest.approx([max(q, shared) - shared / 2 for q in squares])
    unknown = over_seeds_and_documents(Contributions(*fields, np.full_like(plain.documents, np.nan), None))
    np.testing.assert_allclose(unknown.variance, straight.variance)


def test_one_seed_is_refused_and_two_are_told() -> None:
    one = of_means(np.zeros((1, 5)), np.ones(5))
    with pytest.raises(InputError, match="1 seed says nothing"):
        over_seeds_and_documents(one)
    with pytest.raises(InputError, match="1 seed says nothing"):
        over_other_seeds_and_documents(of_means(np.zeros((3, 5)), np.ones(5)), one)
    assert about_seeds(3) is None and "2 seeds hardly know" in str(about_seeds(2))
