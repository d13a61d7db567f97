from __future__ import annotations

import numpy as np

from dynamics.analysis.sums.curves import best_epoch, epochs_to_reach, gap, rebound

NAN = np.nan


def test_rebound_best_epoch_and_gap() -> None:
    curve = np.array([4.0, 3.5, 3.25, 3.75])
    assert rebound(curve) == 0.5
    assert best_epoch(curve, [0, 1, 2, 3]) == 2
    assert best_epoch(curve, [0, 5, 10, 15]) == 10
    assert best_epoch(np.array([2.0, 1.0, 1.0]), [0, 1, 2]) == 1
    assert best_epoch(np.array([NAN, 2.0]), [0, 1]) == 1
    assert best_epoch(np.array([NAN]), [0]) == -1
    assert np.isnan(rebound(np.array([1.0, NAN])))
    assert rebound(np.array([1.0])) == 0.0
    assert rebound(np.stack([curve, curve[::-1]]), axis=1).tolist() == [0.5, 0.75]
    assert gap(np.array([1.0]), np.array([3.0])).tolist() == [2.0]


def test_epochs_to_reach_a_level() -> None:
    curve = np.array([4.0, 3.0, 2.0, 2.5])
    # Epochs 0, 2, 4 and 6: from 4 to 3 in two epochs, so 3.5 after one.
    epochs = [0, 2, 4, 6]
    assert [float(epochs_to_reach(curve, epochs, level)) for level in (5, 4, 3.5, 3, 2.25, 2, 1.9)] == [
        *(0, 0, 1, 2, 3.5, 4),
        np.inf,
    ]
    both = epochs_to_reach(np.stack([curve, curve + 1, [NAN, 1, 1, 1]], axis=1), epochs, 3.0)
    np.testing.assert_array_equal(both, [2.0, 4.0, NAN])
    # A curve that comes down twice has reached the level the first time.
    assert epochs_to_reach(np.array([3.0, 1.0, 3.0, 1.0]), [0, 1, 2, 3], 2.0) == 0.5


def test_a_falling_curve_has_no_rebound() -> None:
    assert rebound(np.array([[3.0], [2.0], [1.0]])).tolist() == [0.0]
