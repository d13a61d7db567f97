from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.balanced import HandArm, gap_by_hand, interval_by_hand, two_ways
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.learning import epochs_to_reach_loss, learning_curves
from dynamics.analysis.intervals.bootstrap import Resampling
from dynamics.analysis.sums.arms import collect_arms, reference_buckets
from dynamics.analysis.tokens.buckets import Buckets, make_buckets
from dynamics.records.reader import Run, open_run, open_study

Array = np.ndarray[Any, Any]

#: Share of tokens that are right (loss 0.25) by epoch, planted at random over tokens.
RIGHT = {"train": [0.2, 0.5, 0.9], "validation": [0.2, 0.4, 0.3]}


def planted(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    right = rng.random(entropy.shape) < RIGHT[split][epoch]
    # Low-entropy tokens are all right from epoch 1 on, in both splits.
    right |= (entropy < 2) & (epoch > 0)
    return np.where(right, 0.25, 1.25)


def halves(run: Run) -> Buckets:
    """The two modes of the synthetic entropies, exactly."""
    return make_buckets(run.records("train"), edges=[2.0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(make_run(tmp_path_factory.mktemp("learning") / "run", n_documents=600, epochs=2, loss_fn=planted))


def test_shares_learned_and_memorised(run: Run) -> None:
    (found,) = learning_curves(run, buckets=halves(run))
    assert found.labels == ("low", "high")
    assert found.epochs.tolist() == [0, 1, 2]
    for interval, split in ((found.train, "train"), (found.validation, "validation")):
        high = interval.estimate[:, 1]
        np.testing.assert_allclose(high, RIGHT[split], atol=0.03)
        assert (interval.low[:, 1] < RIGHT[split]).all() and (interval.high[:, 1] > RIGHT[split]).all()
        np.testing.assert_allclose(interval.estimate[1:, 0], 1.0)
    np.testing.assert_allclose(found.memorised.estimate[:, 1], [0.0, 0.1, 0.6], atol=0.04)
    # What generalises is not memorised, and nothing is before training.
    np.testing.assert_allclose(found.memorised.estimate[1:, 0], 0.0)
    assert found.memorised.low[0, 1] < 0 < found.memorised.high[0, 1]
    assert found.memorised.low[2, 1] > 0.5


def test_epochs_to_reach_a_loss(run: Run) -> None:
    # High-entropy validation losses are 1.25 minus the share right: 1.05, 0.85, 0.95.
    (found,) = epochs_to_reach_loss(run, 0.95, buckets=halves(run), resampling=Resampling(n=300))
    assert found.epochs.estimate[1] == pytest.approx(0.5, abs=0.15)
    assert found.epochs.low[1] < 0.5 < found.epochs.high[1] < 1.0
    # Low-entropy ones go from 1.05 to 0.25.
    assert found.epochs.estimate[0] == pytest.approx(0.125, abs=0.04)
    (never,) = epochs_to_reach_loss(run, 0.5, buckets=halves(run), resampling=Resampling(n=50))
    assert never.epochs.estimate[1] == never.epochs.low[1] == never.epochs.high[1] == np.inf
    assert (never.level, never.split) == (0.5, "validation")


def test_a_level_that_some_resamples_miss_has_an_infinite_end(run: Run) -> None:
    lowest = 1.25 - np.mean(run.records("validation").correct(1)[run.records("validation").reference_entropy > 2])
    (found,) = epochs_to_reach_loss(run, float(lowest), buckets=halves(run), resampling=Resampling(n=300))
    assert np.isfinite(found.epochs.low[1])
    assert found.epochs.high[1] == np.inf


def test_intervals_of_shares_are_over_seeds_and_the_documents_of_both_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    train, validation = (two_ways(rng, curve, 3, n, scale=0.02) for curve, n in (([0.2, 0.9], 40), ([0.2, 0.4], 20)))
    study = open_study(make_study(tmp_path / "study", arms={"baseline": {}}, epochs=1, seeds=(0, 1, 2)))
    arm = HandArm("hand", collect_arms(study)[0].runs, {"train correct": train, "validation correct": validation})
    (found,) = learning_curves(arm, buckets=reference_buckets([arm], 1))
    for e in (0, 1):
        for interval, values in ((found.train, train), (found.validation, validation)):
            assert (interval.low[e, 0], interval.high[e, 0]) == pytest.approx(interval_by_hand(values[:, e]))
        gap = gap_by_hand(train[:, e], validation[:, e])
        assert (found.memorised.low[e, 0], found.memorised.high[e, 0]) == pytest.approx(gap)
    (found,) = learning_curves(arm, buckets=reference_buckets([arm], 1), over="documents")
    averaged = [values.mean(axis=0, keepdims=True)[:, 1] for values in (train, validation)]
    assert (found.memorised.low[1, 0], found.memorised.high[1, 0]) == pytest.approx(gap_by_hand(*averaged))
