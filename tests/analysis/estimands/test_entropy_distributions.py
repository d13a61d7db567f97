from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics.analysis.estimands.entropy_distributions import entropy_distributions
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_study

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The planted curves of the synthetic records: low tokens fall, high ones rebound on validation from epoch 2."""
    return open_study(make_study(tmp_path_factory.mktemp("maps") / "study", n_documents=120, epochs=4))


def test_distributions_by_hand(study: Study) -> None:
    baseline, entrodrop = entropy_distributions(study, n_bins=50, highest=5.0)
    width = np.diff(baseline.edges)
    np.testing.assert_allclose((baseline.density * width).sum(axis=1), 1.0)
    np.testing.assert_allclose((baseline.reference * width).sum(), 1.0)
    records = study.run("baseline", 0).records("train")
    by_hand, _ = np.histogram(records.entropy(3)[records.predicted], baseline.edges, density=True)
    # Apart from values on an edge, which rounding may put on either side.
    assert np.abs(baseline.density[3] - by_hand).max() < 0.02
    # Two modes by reference entropy, nothing between 1 and 3 nats.
    assert baseline.reference[11:29].sum() == 0
    assert np.isnan([baseline.pool, baseline.pool_low, baseline.pool_high]).all()
    assert entrodrop.pool == 0.5
    half = np.sort(records.reference_entropy[records.predicted])[: round(records.predicted.sum() / 2)]
    assert (entrodrop.pool_low, entrodrop.pool_high) == (half[0], half[-1])


def test_dropped_share_by_entropy(study: Study) -> None:
    baseline, entrodrop = entropy_distributions(study, n_bins=10)
    assert entrodrop.dropped_epochs.tolist() == [1, 2, 3, 4]
    # The synthetic run drops at random, a share of 0.2 times epoch / 4, in two seeds.
    full = entrodrop.reference > 0
    np.testing.assert_allclose(np.nanmean(entrodrop.dropped[:, full], axis=1), [0.05, 0.1, 0.15, 0.2], atol=0.03)
    assert np.isnan(entrodrop.dropped[:, ~full]).all()
    assert (baseline.dropped[:, full] == 0).all()
    validation, _ = entropy_distributions(study, split="validation")
    assert validation.dropped.shape == (0, 60)


def test_pools_that_are_no_interval(tmp_path: Path) -> None:
    arms = {
        "inverse": {"regularizers": [{"name": "inverse_entrodrop", "ratio": 0.1, "pool": 0.25}]},
        "by-loss": {"regularizers": [{"name": "entrodrop", "ratio": 0.1, "pool": 0.25, "signal": "loss"}]},
    }
    study = open_study(make_study(tmp_path / "study", arms=arms, epochs=1, seeds=(0,)))
    inverse, by_loss = entropy_distributions(study)
    records = study.run("inverse", 0).records("train")
    ordered = np.sort(records.reference_entropy[records.predicted])
    assert inverse.pool_high == ordered[-1]
    assert (ordered >= inverse.pool_low).sum() == round(0.25 * len(ordered))
    assert by_loss.pool == 0.25
    assert np.isnan([by_loss.pool_low, by_loss.pool_high]).all()
    with pytest.raises(InputError, match="highest=0"):
        entropy_distributions(study, highest=0.0)


def test_pools_under_a_threshold_and_pools_that_grow(tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "threshold": {"threshold": 0.7, "pool": None},
        "growing": {"choice": "lowest"},
        "at": {"distribution": "at_token"},
    }
    arms = {name: {"regularizers": [{"name": "entrodrop", "ratio": 0.2, **one}]} for name, one in settings.items()}
    study = open_study(make_study(tmp_path / "study", arms=arms, epochs=1, seeds=(0,)))
    threshold, growing, at = entropy_distributions(study)
    records = study.run("threshold", 0).records("train")
    ordered = np.sort(records.reference_entropy[records.predicted])
    below = ordered[ordered <= 0.7]
    assert (threshold.pool_low, threshold.pool_high) == (below[0], below[-1])
    assert threshold.pool == len(below) / len(ordered)
    assert growing.pool == 0.2 and growing.pool_high == ordered[round(0.2 * len(ordered)) - 1]
    assert at.pool == 0.5 and np.isnan([at.pool_low, at.pool_high]).all()
