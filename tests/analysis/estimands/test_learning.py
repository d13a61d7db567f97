from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.analysis.estimands.learning import epochs_to_reach_loss, learning_curves
from dynamics.analysis.tokens.buckets import Buckets, make_buckets
from dynamics.records.reader import Run, open_run

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
    (found,) = learning_curves(run, buckets=halves(run), n_resamples=300)
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
    (found,) = epochs_to_reach_loss(run, 0.95, buckets=halves(run), n_resamples=300)
    assert found.epochs.estimate[1] == pytest.approx(0.5, abs=0.15)
    assert found.epochs.low[1] < 0.5 < found.epochs.high[1] < 1.0
    # Low-entropy ones go from 1.05 to 0.25.
    assert found.epochs.estimate[0] == pytest.approx(0.125, abs=0.04)
    (never,) = epochs_to_reach_loss(run, 0.5, buckets=halves(run), n_resamples=50)
    assert never.epochs.estimate[1] == never.epochs.low[1] == never.epochs.high[1] == np.inf
    assert (never.level, never.split) == (0.5, "validation")


def test_a_level_that_some_resamples_miss_has_an_infinite_end(run: Run) -> None:
    lowest = 1.25 - np.mean(run.records("validation").correct(1)[run.records("validation").reference_entropy > 2])
    (found,) = epochs_to_reach_loss(run, float(lowest), buckets=halves(run), n_resamples=300)
    assert np.isfinite(found.epochs.low[1])
    assert found.epochs.high[1] == np.inf
