from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.balanced import HandArm, interval_by_hand, two_ways
from support.synthetic import make_study

from dynamics.analysis.estimands.bucket_maps import bucket_map, loss_landscape
from dynamics.analysis.sums.arms import collect_arms, reference_buckets
from dynamics.analysis.tokens.buckets import TwoWayBuckets, make_buckets, moving_buckets
from dynamics.records.reader import Study, open_study

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The planted curves of the synthetic records: low tokens fall, high ones rebound on validation from epoch 2."""
    return open_study(make_study(tmp_path_factory.mktemp("maps") / "study", n_documents=120, epochs=4, seeds=(0, 1, 2)))


def test_the_map_of_a_planted_curve(study: Study) -> None:
    train = study.run("baseline", 0).records("train")
    buckets = make_buckets(train, edges=[0.3, 0.6, 2.0, 3.5, 4.0, 4.5])
    baseline, entrodrop = bucket_map(study, buckets=buckets)
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
    assert baseline.over == "seeds_and_documents"


def test_the_landscape_is_a_map_of_many_buckets(study: Study) -> None:
    arm = loss_landscape(study, n_buckets=25)[0]
    assert arm.values.estimate.shape == (5, 25)
    assert arm.value == "loss"


def test_maps_of_other_buckets(study: Study) -> None:
    with pytest.warns(UserWarning, match="current entropy are chosen by the outcome") as caught:
        (moving, _) = bucket_map(study, buckets=moving_buckets(4), value="entropy")
    # Once, in the name of whoever asked.
    assert [each.filename for each in caught] == [__file__]
    assert moving.by == "current entropy"
    # Other tokens in every seed: these can be averaged, and not paired.
    assert moving.over == "documents"
    assert np.isnan(moving.centres).all()
    assert (np.diff(moving.values.estimate, axis=1) > 0).all()
    arms = collect_arms(study)
    train = arms[0].runs[0].records("train")
    pairs = TwoWayBuckets(reference_buckets(arms), make_buckets(train, "position", n=2))
    (two, _) = bucket_map(study, buckets=pairs)
    assert two.by == "two signals"
    grid = pairs.grid(two.values.estimate)
    assert grid.shape == (5, 2, 2)
    # The planted curve does not know positions: rows differ, columns hardly.
    assert (grid[:, 1] > grid[:, 0] + 1).all()
    np.testing.assert_allclose(grid[:, :, 0], grid[:, :, 1], atol=0.1)


def test_intervals_are_over_seeds_and_documents_or_documents_alone(study: Study) -> None:
    """In closed form, by a design in which every document has as many tokens."""
    values = two_ways(np.random.default_rng(3), [3.0, 2.0, 1.0, 1.5, 2.5], 3, 30)
    runs = collect_arms(study)[0].runs
    several, one = (HandArm(str(n), runs[:n], {"validation correct": values[:n]}) for n in (3, 1))
    for arm, over, level in ((several, None, 0.95), (several, "documents", 0.9), (one, None, 0.95)):
        (found,) = bucket_map(arm, value="correct", buckets=reference_buckets([arm], 1), over=over, level=level)
        averaged = values.mean(axis=0, keepdims=True) if over == "documents" else values[: len(arm.runs)]
        for e in range(5):
            ends = found.values.low[e, 0], found.values.high[e, 0]
            assert ends == pytest.approx(interval_by_hand(averaged[:, e], level))
        assert found.over == ("seeds_and_documents" if arm is several and over is None else "documents")
