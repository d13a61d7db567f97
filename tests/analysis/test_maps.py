from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.arms import collect_arms, reference_buckets
from dynamics.analysis.buckets import TwoWayBuckets, make_buckets, moving_buckets
from dynamics.analysis.distributions import entropy_distributions
from dynamics.analysis.maps import bucket_map, loss_landscape
from dynamics.analysis.token_maps import cartography, class_shares
from dynamics.analysis.trajectories import CLASSES, token_trajectories
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The planted curves of the synthetic records: low tokens fall, high ones rebound on validation from epoch 2."""
    return open_study(make_study(tmp_path_factory.mktemp("maps") / "study", n_documents=120, epochs=4))


def test_the_map_of_a_planted_curve(study: Study) -> None:
    train = study.run("baseline", 0).records("train")
    buckets = make_buckets(train, edges=[0.3, 0.6, 2.0, 3.5, 4.0, 4.5])
    baseline, entrodrop = bucket_map(study, buckets=buckets, n_resamples=20)
    assert (baseline.arm, entrodrop.arm, baseline.by, baseline.split) == (
        "baseline",
        "entrodrop",
        "reference_entropy",
        "validation",
    )
    assert baseline.values.estimate.shape == (5, 7)
    # Every bucket's loss is a straight function of its mean entropy, which is its centre.
    for e, epoch in enumerate(baseline.epochs):
        expected = np.where(
            baseline.centres < 2, baseline.centres * 0.5**epoch, baseline.centres - 0.5 + 0.125 * (epoch - 2) ** 2
        )
        np.testing.assert_allclose(baseline.values.estimate[e], expected, rtol=2e-3)
    records = study.run("baseline", 0).records("validation")
    assert baseline.n_tokens.sum() == records.predicted.sum()
    assert (np.diff(baseline.centres) > 0).all()
    assert (baseline.edges[:-1] < baseline.centres[1:-1]).all() and (baseline.centres[1:-1] < baseline.edges[1:]).all()
    assert (baseline.values.low <= baseline.values.estimate).all()


def test_the_landscape_is_a_map_of_many_buckets(study: Study) -> None:
    arm = loss_landscape(study, n_buckets=25, n_resamples=10)[0]
    assert arm.values.estimate.shape == (5, 25)
    assert arm.value == "loss"


def test_maps_of_other_buckets(study: Study) -> None:
    (moving, _) = bucket_map(study, buckets=moving_buckets(4), value="entropy", n_resamples=10)
    assert moving.by == "current entropy"
    assert np.isnan(moving.centres).all()
    assert (np.diff(moving.values.estimate, axis=1) > 0).all()
    arms = collect_arms(study)
    train = arms[0].runs[0].records("train")
    pairs = TwoWayBuckets(reference_buckets(arms), make_buckets(train, "position", n=2))
    (two, _) = bucket_map(study, buckets=pairs, n_resamples=10)
    assert two.by == "two signals"
    grid = pairs.grid(two.values.estimate)
    assert grid.shape == (5, 2, 2)
    # The planted curve does not know positions: rows differ, columns hardly.
    assert (grid[:, 1] > grid[:, 0] + 1).all()
    np.testing.assert_allclose(grid[:, :, 0], grid[:, :, 1], atol=0.1)


def test_shares_of_planted_classes(study: Study) -> None:
    modes = make_buckets(study.run("baseline", 0).records("train"), edges=[2.0])
    baseline, _ = class_shares(study, buckets=modes, n_resamples=50)
    assert baseline.classes == CLASSES
    np.testing.assert_allclose(baseline.share.estimate.sum(axis=1), 1.0)
    # High-entropy validation tokens fall by 0.5 and rise by 0.5 again.
    np.testing.assert_allclose(baseline.share.estimate[1], [0, 0, 0, 0, 1])
    # Low-entropy ones fall to a sixteenth, from 0.1 to 1: the line by 0.206 or more where they begin above 0.24 or so.
    assert baseline.share.estimate[0, 0] == pytest.approx(1 - (0.2232 - 0.1) / 0.9, abs=0.05)
    assert baseline.share.estimate[0, 4] == 0
    train, _ = class_shares(study, split="train", buckets=modes, n_resamples=10)
    assert train.share.estimate[0, CLASSES.index("rebounding")] == 0


def test_classes_are_counted_token_by_token(study: Study) -> None:
    (arm,) = class_shares(study.run("entrodrop", 1), level=1.0, n_resamples=10)
    records = study.run("entrodrop", 1).records("validation")
    kind = token_trajectories(records, level=1.0).kind[records.predicted]
    np.testing.assert_allclose(arm.share.estimate[0], np.bincount(kind, minlength=5) / len(kind))
    with pytest.raises(InputError, match="crosses moving buckets"):
        class_shares(study, buckets=moving_buckets(2))


def test_cartography_counts_every_predicted_token(study: Study) -> None:
    baseline, _ = cartography(study, bins=(10, 20))
    records = study.run("baseline", 0).records("train")
    assert baseline.n_tokens.shape == (10, 20)
    assert baseline.n_tokens.sum() == records.predicted.sum()
    found = token_trajectories(records)
    x = int(found.variability[0, 1] / 0.05)
    y = int(found.confidence[0, 1] / 0.05)
    inside = (found.variability // 0.05 == x) & (found.confidence // 0.05 == y)
    assert baseline.n_tokens[x, y] == pytest.approx(inside.sum(), abs=1)
    assert baseline.correctness[x, y] == pytest.approx(found.correctness[inside].mean(), abs=0.05)
    assert np.isnan(baseline.correctness[baseline.n_tokens == 0]).all()


def test_the_map_needs_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epoch 0 alone"):
        cartography(open_run(make_run(tmp_path / "run", epochs=[0])))


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
