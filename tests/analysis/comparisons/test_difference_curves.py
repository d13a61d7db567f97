from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.balanced import HandArm, interval_by_hand, two_ways
from support.synthetic import make_run, make_study

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.comparisons.difference_curves import minus_baseline_curves
from dynamics.analysis.sums.arms import Arm, collect_arms, reference_buckets
from dynamics.analysis.tokens.matches import task_tokens
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

Array = np.ndarray[Any, Any]


def noisy(curve: list[float], own: int) -> Any:
    """About a curve, with noise of the arm's own: the generator depends on the seed alone."""

    def loss(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.asarray(entropy + curve[epoch] + rng.normal(0, 0.3, (own + 1, *entropy.shape))[own])

    return loss


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("differences") / "study"
    arms: dict[str, dict[str, Any]] = {"first": {}, "baseline": {}, "late": {}}
    curves = {"first": [4.0, 3.5, 3.0], "baseline": [4.0, 3.0, 3.5], "late": [4.0, 3.75, 3.25]}
    loss_fns = {name: noisy(curve, i) for i, (name, curve) in enumerate(curves.items())}
    return open_study(make_study(path, arms=arms, loss_fns=loss_fns, n_documents=120, epochs=2, seeds=(0, 1, 2)))


def test_every_epoch_from_the_records(study: Study) -> None:
    first, late = minus_baseline_curves(study)
    assert [(each.arm, each.baseline) for each in (first, late)] == [("first", "baseline"), ("late", "baseline")]
    assert (first.over, first.n_seeds, first.n_documents, first.same_seeds) == (
        "seeds_and_documents",
        (3, 3),
        60,
        True,
    )

    def mean(arm: str, epoch: int) -> float:
        losses = [study.run(arm, seed).records("validation").loss(epoch) for seed in (0, 1, 2)]
        return float(np.mean([np.nanmean(loss.astype(np.float64)) for loss in losses]))

    for curve in (first, late):
        by_hand = [mean(curve.arm, epoch) - mean("baseline", epoch) for epoch in (0, 1, 2)]
        np.testing.assert_allclose(curve.values.estimate[:, 0], by_hand, atol=1e-12)
        assert (curve.values.low <= curve.values.estimate).all() and (curve.values.estimate <= curve.values.high).all()
    # What is planted.
    np.testing.assert_allclose(first.values.estimate[:, 0], [0.0, 0.5, -0.5], atol=0.03)


@pytest.mark.parametrize(("over", "level", "buckets"), [(None, 0.95, 1), ("documents", 0.9, 2)])
def test_the_last_epoch_is_that_of_compare_arms(study: Study, over: Any, level: float, buckets: int) -> None:
    curves = minus_baseline_curves(study, over=over, level=level, buckets=buckets)
    rows = compare_arms(study, baseline="baseline", over=over, level=level, buckets=buckets, early_stopping=False)
    last = [
        (curve.arm, label, *(float(getattr(curve.values, end)[-1, k]) for end in ("estimate", "low", "high")))
        for curve in curves
        for k, label in enumerate(curve.labels)
    ]
    assert len(last) == 2 * buckets
    for found, row in zip(last, rows, strict=True):
        assert found[:2] == (row.arm, row.bucket)
        assert found[2:] == pytest.approx((row.estimate, row.low, row.high), rel=1e-12)


def test_intervals_are_of_the_difference_within_seeds_and_documents(study: Study) -> None:
    rng = np.random.default_rng(4)
    # What a document adds to both arms is in neither difference.
    hard = 3.0 * rng.normal(size=20)
    one, other = (two_ways(rng, [4.0, 3.0, 2.0], 3, 20) + hard for _ in range(2))
    runs = collect_arms(study)[0].runs
    hands = [HandArm("one", runs, {"validation": one}), HandArm("baseline", runs, {"validation": other})]
    (found,) = minus_baseline_curves(hands, buckets=reference_buckets(hands, 1))
    for e in range(3):
        difference = one[:, e] - other[:, e]
        assert found.values.estimate[e, 0] == pytest.approx(difference.mean())
        assert (found.values.low[e, 0], found.values.high[e, 0]) == pytest.approx(interval_by_hand(difference, 0.95))


def test_another_baseline_and_the_accuracy_on_a_task(study: Study) -> None:
    first, baseline = minus_baseline_curves(study, baseline="late")
    assert (first.arm, baseline.arm, baseline.baseline) == ("first", "baseline", "late")
    curves = minus_baseline_curves(study, value="correct", buckets=task_tokens("über"))
    rows = compare_arms(study, value="correct", buckets=task_tokens("über"), baseline="baseline", early_stopping=False)
    assert [curve.values.estimate[-1, 0] for curve in curves] == [row.estimate for row in rows]
    with pytest.raises(InputError, match="no arm 'lat' to subtract; there are first, baseline, late; did you mean"):
        minus_baseline_curves(study, baseline="lat")
    assert minus_baseline_curves(collect_arms(study)[0]) == []


def test_arms_are_subtracted_where_both_have_an_epoch(tmp_path: Path) -> None:
    runs = [
        Arm(name, [open_run(make_run(tmp_path / name, name=name, n_documents=120, epochs=epochs, cut=cut))])
        for name, epochs, cut in (("baseline", 3, None), ("cut", 3, 2.5), ("short", [0, 1], None), ("none", [4], None))
    ]
    with pytest.warns(UserWarning, match="generalise over documents alone"):
        curves = minus_baseline_curves(runs)
    assert [(curve.arm, curve.epochs.tolist()) for curve in curves] == [("cut", [0, 1, 2]), ("short", [0, 1])]
    assert {curve.over for curve in curves} == {"documents"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_arm_is_nan_where_it_diverged(tmp_path: Path, value: float) -> None:
    def diverged(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, value if epoch == 1 else 2.0)

    path = make_study(
        tmp_path / "study",
        arms={"baseline": {}, "diverged": {}},
        n_documents=120,
        epochs=2,
        seeds=(0, 1, 2),
        loss_fns={"diverged": diverged},
    )
    (curve,) = minus_baseline_curves(open_study(path))
    for ends in (curve.values.estimate, curve.values.low, curve.values.high):
        assert np.isnan(ends[:, 0]).tolist() == [False, True, False]
