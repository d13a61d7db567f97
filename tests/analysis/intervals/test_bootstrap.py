from __future__ import annotations

import numpy as np
import pytest
from support.hand_made import noisy_documents, sums_of

from dynamics.analysis.intervals.bootstrap import (
    bootstrap_curve,
    bootstrap_difference,
    bootstrap_statistic,
    document_weights,
    resampled_curves,
)
from dynamics.analysis.sums.curves import mean_curve, rebound
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.errors import InputError


def test_weights_count_draws() -> None:
    weights = document_weights(60, 500, seed=3)
    assert weights.shape == (500, 60)
    assert weights.dtype == np.float32
    assert (weights.sum(axis=1) == 60).all()
    # Multinomial counts: mean 1, variance 1 - 1/60.
    assert abs(weights.mean() - 1) < 1e-6
    assert abs(weights.var() - (1 - 1 / 60)) < 0.03
    assert (weights == document_weights(60, 500, seed=3)).all()
    assert (weights != document_weights(60, 500, seed=4)).any()


def test_resamples_are_ratios_of_weighted_sums() -> None:
    # Document 0: sum 6 over 2 tokens; document 1: sum 4 over 4 tokens.
    ds = sums_of(np.array([[[6.0], [4.0]], [[2.0], [8.0]]]), np.array([[2.0], [4.0]]))
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    curves = resampled_curves(ds, weights)
    by_hand = [[10 / 6, 10 / 6], [3.0, 1.0], [1.0, 2.0], [22 / 10, 14 / 10]]
    np.testing.assert_allclose(curves[:, :, 0], by_hand)


def test_blocks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = noisy_documents(np.random.default_rng(0), np.zeros(3))
    weights = document_weights(200, 37, seed=0)
    whole = resampled_curves(ds, weights)
    monkeypatch.setattr("dynamics.analysis.intervals.bootstrap._BLOCK", 1000)
    np.testing.assert_allclose(resampled_curves(ds, weights), whole, rtol=1e-12)


def test_interval_of_given_weights_by_hand() -> None:
    ds = noisy_documents(np.random.default_rng(1), np.array([3.0, 2.0]), n_documents=60)
    weights = document_weights(60, 400, seed=9)
    by_hand = np.array([[w @ ds.sums[e, :, 0] / (w @ ds.counts[:, 0]) for e in range(2)] for w in weights])
    interval = bootstrap_curve(ds, weights=weights, level=0.9)
    np.testing.assert_allclose(interval.low[:, 0], np.percentile(by_hand, 5, axis=0), rtol=1e-6)
    np.testing.assert_allclose(interval.high[:, 0], np.percentile(by_hand, 95, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(interval.estimate, mean_curve(ds))
    drawn = bootstrap_curve(ds, n_resamples=400, seed=9, level=0.9)
    np.testing.assert_array_equal(drawn.low, interval.low)


def test_coverage_over_documents_and_not_over_tokens() -> None:
    """400 data sets of 200 documents whose tokens share their document's level; the truth is 0."""
    rng = np.random.default_rng(7)
    weights = document_weights(200, 300, seed=0)
    hits = naive_hits = 0
    n_sets = 400
    for _ in range(n_sets):
        lengths = rng.integers(5, 41, size=200)
        level = rng.normal(0, 1, size=200)
        document = np.repeat(np.arange(200), lengths)
        token = level[document] + rng.normal(0, 1, size=len(document))
        sums = np.bincount(document, token).astype(np.float64)
        ds = sums_of(sums[None, :, None], lengths[:, None].astype(float))
        interval = bootstrap_curve(ds, weights=weights)
        hits += bool(interval.low.item() <= 0 <= interval.high.item())
        # Tokens drawn one by one: the mean of n draws has this normal limit.
        half = 1.96 * token.std() / np.sqrt(len(token))
        naive_hits += bool(abs(token.mean()) <= half)
    assert 0.92 <= hits / n_sets <= 0.98
    assert naive_hits / n_sets < 0.75


def test_statistic_of_every_resample() -> None:
    ds = noisy_documents(np.random.default_rng(5), np.array([3.0, 2.0, 2.6]))
    weights = document_weights(200, 200, seed=1)
    interval = bootstrap_statistic(ds, lambda curves: rebound(curves, axis=-2), weights=weights)
    values = [rebound(curve[:, 0]).item() for curve in resampled_curves(ds, weights)]
    np.testing.assert_allclose(interval.low, np.percentile(values, 2.5))
    np.testing.assert_allclose(interval.high, np.percentile(values, 97.5))
    assert interval.estimate.shape == (1,)
    assert interval.low < 0.6 < interval.high


def test_paired_difference_moves_documents_together() -> None:
    rng = np.random.default_rng(2)
    ds = noisy_documents(rng, np.array([3.0, 2.0]))
    better = DocumentSums(ds.sums - 0.1 * ds.counts, ds.counts, ds.epochs, ds.labels, ds.documents)
    paired = bootstrap_difference(ds, better, paired=True)
    np.testing.assert_allclose(paired.estimate, 0.1)
    # The documents' levels cancel: every resample has the same difference.
    np.testing.assert_allclose([paired.low, paired.high], 0.1)
    apart = bootstrap_difference(ds, better, paired=False)
    assert (apart.high - apart.low > 0.2).all()


def test_unpaired_difference_has_the_width_of_independent_samples() -> None:
    rng = np.random.default_rng(3)
    first = noisy_documents(rng, np.array([3.0]), n_documents=300)
    second = noisy_documents(rng, np.array([2.0]), n_documents=300)
    intervals = [bootstrap_curve(ds) for ds in (first, second)]
    width = [float((interval.high - interval.low).item()) for interval in intervals]
    both = bootstrap_difference(first, second, paired=False)
    assert (both.high - both.low).item() == pytest.approx(np.hypot(width[0], width[1]), rel=0.12)
    # The same documents resampled apart are not resampled alike.
    itself = bootstrap_difference(first, first, paired=False)
    assert (itself.high - itself.low).item() == pytest.approx(np.sqrt(2) * width[0], rel=0.12)


def test_differences_of_unlike_curves_are_refused() -> None:
    rng = np.random.default_rng(4)
    ds = noisy_documents(rng, np.zeros(2))
    with pytest.raises(InputError, match="same epochs and buckets"):
        bootstrap_difference(ds, noisy_documents(rng, np.zeros(3)), paired=False)
    with pytest.raises(InputError, match="same tokens on both sides"):
        bootstrap_difference(ds, noisy_documents(rng, np.zeros(2)), paired=True)


def test_few_documents_warn() -> None:
    ds = noisy_documents(np.random.default_rng(0), np.zeros(2), n_documents=49)
    with pytest.warns(UserWarning, match="intervals over 49 documents"):
        bootstrap_curve(ds)
    bootstrap_curve(noisy_documents(np.random.default_rng(0), np.zeros(2), n_documents=50))


def test_empty_buckets_and_missing_values_stay_nan() -> None:
    counts = np.ones((60, 3))
    counts[:, 1] = 0  # an empty bucket
    counts[1:, 2] = 0  # a bucket of one document: some resamples miss it
    sums = 2 * counts[None].repeat(2, axis=0)
    sums[1, 5, 0] = np.nan
    interval = bootstrap_curve(sums_of(sums, counts))
    expected = [[2, np.nan, 2], [np.nan, np.nan, 2]]
    for values in (interval.low, interval.high, interval.estimate):
        np.testing.assert_array_equal(values, expected)


def test_bad_arguments_are_refused() -> None:
    ds = noisy_documents(np.random.default_rng(0), np.zeros(2))
    with pytest.raises(InputError, match="level 95"):
        bootstrap_curve(ds, level=95)
    with pytest.raises(InputError, match="do not fit 200 documents"):
        bootstrap_curve(ds, weights=np.ones((3, 5)))
