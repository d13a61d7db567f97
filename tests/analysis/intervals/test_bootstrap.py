from __future__ import annotations

import numpy as np
import pytest
from support.hand_made import noisy_documents, sums_of

from dynamics.analysis.intervals.bootstrap import (
    Resampling,
    document_weights,
    percentiles,
    resampled_curves,
    resampling_of,
    warn_few,
)
from dynamics.errors import InputError


def test_weights_count_draws() -> None:
    weights = document_weights(60, Resampling(n=500, seed=3))
    assert weights.shape == (500, 60)
    assert weights.dtype == np.float32
    assert (weights.sum(axis=1) == 60).all()
    # Multinomial counts: mean 1, variance 1 - 1/60.
    assert abs(weights.mean() - 1) < 1e-6
    assert abs(weights.var() - (1 - 1 / 60)) < 0.03
    assert (weights == document_weights(60, Resampling(n=500, seed=3))).all()
    assert (weights != document_weights(60, Resampling(n=500, seed=4))).any()


def test_resamples_are_ratios_of_weighted_sums() -> None:
    # Document 0: sum 6 over 2 tokens; document 1: sum 4 over 4 tokens.
    ds = sums_of(np.array([[[6.0], [4.0]], [[2.0], [8.0]]]), np.array([[2.0], [4.0]]))
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    curves = resampled_curves(ds, weights)
    by_hand = [[10 / 6, 10 / 6], [3.0, 1.0], [1.0, 2.0], [22 / 10, 14 / 10]]
    np.testing.assert_allclose(curves[:, :, 0], by_hand)


def test_blocks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = noisy_documents(np.random.default_rng(0), np.zeros(3))
    weights = document_weights(200, Resampling(n=37, seed=0))
    whole = resampled_curves(ds, weights)
    monkeypatch.setattr("dynamics.analysis.intervals.bootstrap._BLOCK", 1000)
    np.testing.assert_allclose(resampled_curves(ds, weights), whole, rtol=1e-12)


def test_percentiles_leave_out_what_is_missing() -> None:
    values = np.array([[1.0, np.nan, 4.0], [2.0, np.nan, np.nan], [3.0, np.nan, 6.0]])
    low, high = percentiles(values, 0.5)
    np.testing.assert_allclose(low, [1.5, np.nan, 4.5])
    np.testing.assert_allclose(high, [2.5, np.nan, 5.5])


def test_few_documents_warn() -> None:
    with pytest.warns(UserWarning, match="intervals over 49 documents are unreliable"):
        warn_few(49)
    warn_few(50)


def test_bad_arguments_are_refused() -> None:
    ds = noisy_documents(np.random.default_rng(0), np.zeros(2))
    with pytest.raises(InputError, match="level 95"):
        percentiles(np.zeros((3, 1)), 95)
    with pytest.raises(InputError, match="do not fit 200 documents"):
        resampled_curves(ds, np.ones((3, 5)))


def test_a_resampling_is_checked_and_shows_itself() -> None:
    assert Resampling() == Resampling(n=1000, level=0.95, seed=0)
    assert str(Resampling(n=20)).split() == ["Resampling", "n", "20", "level", "0.950", "seed", "0"]
    with pytest.raises(InputError, match="0 resamples give no interval"):
        Resampling(n=0)
    with pytest.raises(InputError, match="level 95 is not a share"):
        Resampling(level=95)


def test_the_three_settings_before_it_are_deprecated_and_mean_the_same() -> None:
    with pytest.warns(
        DeprecationWarning, match=r"n_resamples, seed are deprecated: write resampling=Resampling\(n=7, seed=2\)"
    ):
        old = document_weights(9, 7, 2)
    assert (old == document_weights(9, Resampling(n=7, seed=2))).all()
    with pytest.raises(InputError, match="level and resampling say the same"):
        resampling_of(Resampling(), n_resamples=None, level=0.9, seed=None)
