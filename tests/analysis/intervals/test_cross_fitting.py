from __future__ import annotations

import numpy as np
from support.hand_made import noisy_documents, sums_of

from dynamics.analysis.intervals.cross_fitting import cross_fitted_rebound
from dynamics.analysis.sums.curves import mean_curve, rebound


def test_rebound_by_cross_fitting_has_no_upward_bias_on_flat_curves() -> None:
    rng = np.random.default_rng(11)
    plain, fitted = [], []
    for i in range(400):
        ds = noisy_documents(rng, np.full(12, 3.0), n_documents=80)
        plain.append(rebound(mean_curve(ds)).item())
        fitted.append(cross_fitted_rebound(ds, n_splits=10, seed=i).item())
    error = np.std(fitted) / np.sqrt(len(fitted))
    assert error < 0.006
    assert abs(np.mean(fitted)) < 3 * error
    assert np.mean(plain) > 0.05


def test_both_rebounds_recover_a_planted_one() -> None:
    rng = np.random.default_rng(12)
    curve = np.array([4.0, 3.4, 3.0, 3.2, 3.5, 3.6])
    plain, fitted = [], []
    for i in range(100):
        ds = noisy_documents(rng, curve, noise=0.3)
        plain.append(rebound(mean_curve(ds)).item())
        fitted.append(cross_fitted_rebound(ds, n_splits=10, seed=i).item())
    assert abs(np.mean(plain) - 0.6) < 0.02
    assert abs(np.mean(fitted) - 0.6) < 0.02


def test_cross_fitting_without_noise_is_the_plain_rebound() -> None:
    curve = np.array([[3.0, 1.0], [2.0, 2.0], [2.5, 4.0]])
    counts = np.random.default_rng(0).integers(1, 9, size=(30, 2)).astype(float)
    ds = sums_of(curve[:, None, :] * counts, counts)
    np.testing.assert_allclose(cross_fitted_rebound(ds), [0.5, 3.0])


def test_cross_fitting_by_hand_with_two_documents() -> None:
    # Each half is one document. Best of A: epoch 0, where B rises by 1 - 5 = -4; best of B: epoch 1
    # (the last), where A rises by 0. The mean over both ways is -2, whatever the split.
    ds = sums_of(np.array([[[1.0], [5.0]], [[2.0], [1.0]]]), np.ones((2, 1)))
    assert cross_fitted_rebound(ds).tolist() == [-2.0]


def test_cross_fitting_needs_two_documents() -> None:
    one = sums_of(np.ones((3, 1, 1)), np.ones((1, 1)))
    assert np.isnan(cross_fitted_rebound(one)).all()
