from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.balanced import HandArm, interval_by_hand, two_ways
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.calibration import (
    argmax_error_floor,
    calibration,
    entropy_calibration_error,
    overconfidence,
)
from dynamics.analysis.intervals.bootstrap import Resampling
from dynamics.analysis.sums.arms import collect_arms
from dynamics.analysis.tokens.buckets import make_buckets
from dynamics.records.reader import Run, Study, open_run, open_study

Array = np.ndarray[Any, Any]


def test_errors_by_hand() -> None:
    share = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    difference = np.array([[0.2, -0.4, 0.0], [0.1, np.nan, np.nan]])
    np.testing.assert_allclose(entropy_calibration_error(difference, share), [0.1 + 0.1, 0.1])
    certainty = np.array([[0.9, 0.5, 0.1], [0.5, np.nan, np.nan]])
    accuracy = np.array([[0.7, 0.6, 0.1], [0.25, np.nan, np.nan]])
    # Where accuracy is above the certainty nothing is proved.
    np.testing.assert_allclose(argmax_error_floor(certainty, accuracy, share), [0.1, 0.25])
    assert np.isnan(entropy_calibration_error(np.array([np.nan]), np.array([1.0])))


def drawn(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Probabilities p of the likelier of two tokens, and whether that one comes."""
    rng = np.random.default_rng(17)
    p = rng.uniform(0.55, 0.99, shape)
    return p, rng.random(shape) < p


def sharpened(p: Array) -> Array:
    """What a model that is too sure says of p."""
    return np.asarray(p**3 / (p**3 + (1 - p) ** 3))


def cross_entropy(p: Array, said: Array) -> Array:
    return np.asarray(-p * np.log(said) - (1 - p) * np.log(1 - said))


def binary(epoch: int, entropy: Array) -> tuple[Array, Array]:
    """Loss and entropy: in epoch 0 the model says p itself, in epoch 1 it is too sure."""
    p, hit = drawn(entropy.shape)
    said = p if epoch == 0 else sharpened(p)
    return -np.log(np.where(hit, said, 1 - said)), cross_entropy(said, said)


def binary_loss(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    return binary(epoch, entropy)[0]


def binary_entropy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    return binary(epoch, entropy)[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("calibration") / "run"
    return open_run(
        make_run(path, n_documents=1200, epochs=1, loss_fn=binary_loss, entropy_fn=binary_entropy, dtype="float32")
    )


def test_a_calibrated_model_is_calibrated_and_a_sharpened_one_is_not(run: Run) -> None:
    (found,) = calibration(run, n_bins=4, resampling=Resampling(n=200))
    assert found.epochs.tolist() == [0, 1]
    np.testing.assert_allclose(found.share.sum(axis=1), 1.0)
    # Epoch 0: the error is what noise alone makes of 0.
    assert found.error.estimate[0] < 0.03
    assert (found.difference.low[0] < 0.01).all() and (found.difference.high[0] > -0.01).all()
    # Epoch 1: in truth the cross entropy of p with what is said, minus the entropy of what is said.
    p, _ = drawn((100_000,))
    truth = np.mean(cross_entropy(p, sharpened(p)) - cross_entropy(sharpened(p), sharpened(p)))
    assert found.error.low[1] < truth < found.error.high[1]
    assert found.error.low[1] > found.error.high[0]
    assert (found.entropy[1] < found.loss.estimate[1]).all()
    assert (np.diff(found.entropy, axis=1) >= 0).all()


def test_overconfidence_is_mean_loss_minus_mean_entropy(run: Run) -> None:
    records = run.records("validation")
    (found,) = overconfidence(run, buckets=make_buckets(run.records("train"), edges=[2.0]))
    low = records.reference_entropy < 2
    for epoch in (0, 1):
        difference = records.loss(epoch).astype(float) - records.entropy(epoch)
        by_hand = [difference[records.predicted & which].mean() for which in (low, ~low)]
        np.testing.assert_allclose(found.value.estimate[epoch], by_hand, rtol=1e-5)
    assert found.labels == ("low", "high")
    # Calibrated before, too sure after, and the intervals say so.
    assert (found.value.low[0] < 0.02).all() and (found.value.high[0] > -0.02).all()
    assert (found.value.low[1] > 0).all()


def test_bins_by_hand(run: Run) -> None:
    (found,) = calibration(run, n_bins=3, resampling=Resampling(n=10), split="train")
    records = run.records("train")
    entropy, loss = records.entropy(1)[records.predicted], records.loss(1)[records.predicted]
    edges = np.quantile(entropy.astype(float), [1 / 3, 2 / 3])
    bins = np.digitize(entropy.astype(float), edges)
    for k in range(3):
        if (bins == k).any():
            assert found.entropy[1, k] == pytest.approx(entropy[bins == k].mean(dtype=float))
            assert found.loss.estimate[1, k] == pytest.approx(loss[bins == k].mean(dtype=float))
            assert found.accuracy.estimate[1, k] == pytest.approx((loss[bins == k] < 0.5).mean())
            assert found.certainty[1, k] == pytest.approx(np.exp(-entropy[bins == k]).mean(dtype=float))
        assert found.share[1, k] == pytest.approx((bins == k).mean())


def test_the_floor_is_below_the_error_of_the_argmax() -> None:
    # One bin, p = 0.7 said 0.9, two tokens: entropy 0.325, exp(-0.325) = 0.7224 > 0.7.
    said, truth = 0.9, 0.7
    certainty = np.exp(said * np.log(said) + (1 - said) * np.log(1 - said))
    floor = argmax_error_floor(np.array([certainty]), np.array([truth]), np.array([1.0]))
    assert 0 < floor < said - truth


def test_seeds_are_taken_together(tmp_path: Path) -> None:
    study: Study = open_study(make_study(tmp_path / "study", n_documents=120, epochs=1, seeds=(0, 1)))
    both = calibration(study, n_bins=2, resampling=Resampling(n=10))
    assert [each.n_seeds for each in both] == [2, 2]
    alone = calibration(study.run("baseline", 0), n_bins=2, resampling=Resampling(n=10))[0]
    # The planted values are the same in both seeds.
    np.testing.assert_allclose(both[0].loss.estimate, alone.loss.estimate)


def test_overconfidence_has_intervals_of_the_difference(tmp_path: Path) -> None:
    """Loss and entropy go up and down together from document to document: their difference hardly does."""
    rng = np.random.default_rng(4)
    entropy = two_ways(rng, [3.0, 2.0], 3, 20, scale=1.0)
    loss = entropy + two_ways(rng, [0.1, 0.5], 3, 20, scale=0.05)
    study = open_study(make_study(tmp_path / "study", arms={"baseline": {}}, epochs=1, seeds=(0, 1, 2)))
    runs = collect_arms(study)[0].runs
    for n, over in ((3, "seeds_and_documents"), (1, "documents")):
        given = {"validation": loss[:n], "validation entropy": entropy[:n]}
        (found,) = overconfidence(HandArm("hand", runs[:n], given))
        assert found.over == over
        for e in (0, 1):
            by_hand = interval_by_hand((loss - entropy)[:n, e])
            assert (found.value.low[e, 0], found.value.high[e, 0]) == pytest.approx(by_hand)
            assert found.value.estimate[e, 0] == pytest.approx((loss - entropy)[:n, e].mean())
