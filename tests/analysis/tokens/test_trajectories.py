from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dynamics.analysis.tokens.trajectories import CLASSES, losses_at, token_trajectories
from dynamics.errors import InputError

NAN = np.nan
Array = np.ndarray[Any, Any]


class HandRecords:
    """Losses (E, N) of one sequence; a token is right where its loss is below 0.5, and the last is not predicted."""

    reference_loss = reference_entropy = token_id = np.zeros((1, 1))

    def __init__(self, losses: Array, epochs: list[int] | None = None) -> None:
        self.losses = losses
        n_epochs, n = losses.shape
        self.run = SimpleNamespace(epochs=list(range(n_epochs)) if epochs is None else epochs, passes=float)
        self.predicted = np.array([[True] * n + [False]])
        self.document_id = np.zeros((1, n + 1), dtype=np.int32)

    def stored(self, value: str, epoch: int) -> Array:
        assert value == "loss"
        return np.append(self.losses[self.run.epochs.index(epoch)], NAN).astype(np.float16)[None]

    def correct(self, epoch: int) -> Array:
        return self.stored("loss", epoch) < 0.5


def test_planted_classes() -> None:
    losses = np.array(
        [
            [4.0, 3.0, 2.0, 1.0, 0.5],  # falls
            [0.25, 0.25, 0.5, 0.25, 0.25],  # low
            [1.0, 2.0, 3.0, 4.0, 5.0],  # rises
            [5.0, 5.0, 5.125, 5.0, 5.0],  # high
            [4.0, 2.0, 1.0, 2.0, 4.0],  # falls and comes back
            [4.0, 3.0, 1.0, 1.125, 1.125],  # comes back by less than 0.2
        ]
    ).T
    found = token_trajectories(HandRecords(losses))
    names = [CLASSES[k] for k in found.kind[0, :-1]]
    assert names == ["high to low", "low to low", "low to high", "high to high", "rebounding", "high to low"]
    # A straight line sees nothing of the fifth but its height.
    assert CLASSES[found.rho_class[0, 4]] == "high to high"
    assert found.kind[0, -1] == found.rho_class[0, -1] == -1
    assert found.first_loss[0, 4] == found.last_loss[0, 4] == 4.0
    assert found.lowest_loss[0, 4] == 1.0
    assert found.first_loss.shape == (1, 7)


def test_the_line_is_that_of_least_squares_over_epochs_as_they_are() -> None:
    rng = np.random.default_rng(0)
    epochs = [0, 1, 2, 5, 9]
    losses = rng.gamma(2.0, 1.0, (5, 400)).astype(np.float16).astype(float)
    found = token_trajectories(HandRecords(losses, epochs))
    slope, intercept = np.polyfit(epochs, losses, 1)
    change, last = 9 * slope, 9 * slope + intercept
    assert found.level == pytest.approx(last.mean())
    expected = np.where(change < -0.2, 0, np.where(change > 0.2, 2, np.where(last <= last.mean(), 1, 3)))
    assert found.rho_class[0, :-1].tolist() == expected.tolist()
    assert len(set(expected.tolist())) == 4


def test_a_level_that_is_given_moves_what_is_low() -> None:
    flat = np.full((3, 2), [1.0, 2.0])
    assert token_trajectories(HandRecords(flat)).rho_class[0].tolist() == [1, 3, -1]
    assert token_trajectories(HandRecords(flat), level=0.5).rho_class[0].tolist() == [3, 3, -1]
    assert token_trajectories(HandRecords(flat), level=2.0).rho_class[0].tolist() == [1, 1, -1]


def test_learning_and_forgetting() -> None:
    right = np.array(
        [
            [0, 0, 1, 1, 1],  # learned at 2 for good
            [0, 1, 0, 1, 0],  # learned at 1, forgotten twice
            [1, 0, 0, 0, 0],  # known before training, forgotten once
            [0, 0, 0, 0, 0],  # never
            [1, 1, 1, 1, 1],
        ]
    ).T
    found = token_trajectories(HandRecords(np.where(right, 0.25, 2.0)))
    assert found.first_learned[0].tolist() == [2, 1, 0, -1, 0, -1]
    assert found.forgetting[0].tolist() == [0, 2, 1, 0, 0, 0]
    assert found.unforgettable[0].tolist() == [True, False, False, False, True, False]
    # Of the four epochs of training.
    np.testing.assert_array_equal(found.correctness[0], np.array([0.75, 0.5, 0, 0, 1, NAN], dtype=np.float32))


def test_cartography_leaves_epoch_0_out() -> None:
    probabilities = np.array([[0.001, 0.001], [0.5, 0.25], [0.5, 0.75], [0.5, 0.5]])
    found = token_trajectories(HandRecords(-np.log(probabilities)))
    np.testing.assert_allclose(found.confidence[0, :2], [0.5, 0.5], rtol=1e-3)
    # The population's deviation of 0.25, 0.75 and 0.5 is the root of 2/48.
    np.testing.assert_allclose(found.variability[0, :2], [0.0, np.sqrt(1 / 24)], atol=1e-3)
    assert np.isnan(found.confidence[0, 2])
    later = token_trajectories(HandRecords(-np.log(probabilities[1:]), [1, 2, 3]))
    np.testing.assert_allclose(later.confidence, found.confidence)


def test_what_chose_a_class_is_kept() -> None:
    losses = np.array(
        [
            [4.0, 3.0, 2.0, 1.0, 0.0],  # a line from 4 to 0
            [4.0, 1.0, 2.0, 1.0, 3.0],  # rebounds from the first of two lowest losses
            [1.0, 1.0, 1.0, 1.0, 1.0],
        ]
    ).T
    found = token_trajectories(HandRecords(losses, [0, 1, 2, 5, 9]))
    assert found.lowest_epoch[0].tolist() == [9, 1, 0, -1]
    line = np.polyfit([0, 1, 2, 5, 9], losses, 1)[0] * 9
    np.testing.assert_allclose(found.line_change[0, :3], line, atol=1e-6)
    # The rise of what rebounds, the line's change of everything else.
    np.testing.assert_allclose(found.change[0, :3], [line[0], 2.0, 0.0], atol=1e-6)
    assert np.isnan(found.change[0, 3])


def test_losses_of_each_token_in_an_epoch_of_its_own() -> None:
    records = HandRecords(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), [0, 7])
    asked = np.array([[7, 0, -1, -1]], dtype=np.int32)
    np.testing.assert_array_equal(losses_at(records, asked), np.array([[4.0, 2.0, NAN, NAN]], dtype=np.float32))


def test_a_token_that_diverged_has_no_class() -> None:
    losses = np.array([[4.0, 4.0], [1.0, NAN], [4.0, 4.0]])
    found = token_trajectories(HandRecords(losses))
    assert found.kind[0].tolist() == [4, -1, -1]
    assert np.isnan(found.confidence[0, 1])
    assert np.isnan(found.lowest_loss[0, 1])
    assert found.lowest_epoch[0].tolist() == [1, -1, -1]


def test_an_infinite_loss_is_no_loss() -> None:
    inf = np.inf
    found = token_trajectories(
        HandRecords(np.array([[inf, 1.0, 3.0, inf], [1.0, inf, 1.0, inf], [3.0, 3.0, inf, inf]]))
    )
    assert found.rho_class[0].tolist() == [-1] * 5
    assert found.kind[0].tolist() == [-1] * 5
    assert np.isnan(found.change).all() and np.isnan(found.lowest_loss).all()
    assert found.lowest_epoch[0].tolist() == [-1] * 5


def test_blocks_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    records = HandRecords(rng.gamma(1.0, 1.0, (4, 50)))
    whole = token_trajectories(records)
    monkeypatch.setattr("dynamics.analysis.tokens.trajectories._BLOCK", 7)
    parts = token_trajectories(records)
    for name in ("rho_class", "rebounding", "first_learned", "forgetting", "confidence", "variability", "lowest_loss"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_what_cannot_be_followed_is_refused() -> None:
    records = HandRecords(np.ones((3, 2)))
    with pytest.raises(InputError, match=r"two or more rising epochs; got \[1\]"):
        token_trajectories(records, epochs=[1])
    with pytest.raises(InputError, match=r"got \[2, 1\]"):
        token_trajectories(records, epochs=[2, 1])
    records.predicted = np.zeros((1, 3), dtype=bool)
    with pytest.raises(InputError, match="no predicted token"):
        token_trajectories(records)


def test_the_line_is_fitted_over_passes_where_an_epoch_was_cut() -> None:
    # Losses that fall by 0.15 nats a pass, the last epoch half a pass long: 0.225 nats in all, a line without error.
    records = HandRecords(np.array([[2.0], [1.85], [1.775]]))
    records.run.passes = lambda epoch: {0: 0.0, 1: 1.0, 2: 1.5}[epoch]
    found = token_trajectories(records)
    assert CLASSES[found.kind[0, 0]] == "high to low"
    assert found.level == pytest.approx(1.775, abs=1e-3)
