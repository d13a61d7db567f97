from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.balanced import HandArm, gap_by_hand, interval_by_hand, two_ways
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics, rise_curves
from dynamics.analysis.estimands.quantities import arm_quantity
from dynamics.analysis.intervals.bands import uncertainty_over
from dynamics.analysis.sums.arms import Arm, collect_arms, reference_buckets
from dynamics.analysis.tokens.buckets import Buckets, moving_buckets
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

Array = np.ndarray[Any, Any]

#: Validation loss by epoch: the lowest is at epoch 2.
PLANTED = np.array([4.0, 3.25, 3.0, 3.5])


def planted(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """The planted curve, the same for all tokens, and 1 less on training."""
    return np.full(entropy.shape, PLANTED[epoch] - (split == "train"))


def noisy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    return np.asarray(PLANTED[epoch] + rng.normal(0, 0.5, entropy.shape))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("dynamics") / "study"
    loss_fns = {"baseline": planted, "entrodrop": noisy}
    make_study(path, n_documents=120, epochs=3, seeds=(0, 1, 2), loss_fns=loss_fns)
    return open_study(path)


def test_bucket_dynamics_of_the_planted_diagnosis(tmp_path: Path) -> None:
    # The default curve: low-entropy tokens halve on both splits; the others rebound from epoch 2.
    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=4, dtype="float32"))
    halves_at_two = Buckets(np.array([2.0]), ("low", "high"))
    (arm,) = bucket_dynamics(run, buckets=halves_at_two)
    assert arm.labels == ("low", "high")
    records = run.records("validation")
    entropy = records.reference_entropy[records.predicted].astype(float)
    low, high = entropy[entropy < 2].mean(), entropy[entropy > 2].mean()
    halves = 0.5 ** np.arange(5)
    np.testing.assert_allclose(arm.validation.estimate[:, 0], low * halves, rtol=1e-6)
    rising = high - 0.5 + 0.125 * (np.arange(5) - 2) ** 2
    np.testing.assert_allclose(arm.validation.estimate[:, 1], rising, rtol=1e-6)
    # Every token rises by as much.
    assert arm.rebound is not None and arm.over == "documents"
    for ends in (arm.rebound.estimate, arm.rebound.low, arm.rebound.high):
        np.testing.assert_allclose(ends, [0.0, 0.5], atol=1e-6)
    train = run.records("train")
    entropy = train.reference_entropy[train.predicted].astype(float)
    training = entropy[entropy > 2].mean() * halves
    np.testing.assert_allclose(arm.train.estimate[:, 1], training, rtol=1e-6)
    np.testing.assert_allclose(arm.gap.estimate[:, 1], rising - training, rtol=1e-6)
    assert (arm.gap.low <= arm.gap.estimate).all()
    assert (arm.gap.estimate <= arm.gap.high).all()


def test_deciles(study: Study) -> None:
    dynamics = bucket_dynamics(study, buckets=10)
    assert dynamics[0].labels == tuple(str(i) for i in range(1, 11))
    assert dynamics[0].validation.estimate.shape == (4, 10)
    np.testing.assert_allclose(dynamics[0].gap.estimate, 1.0)


def test_the_default_halves_are_cut_at_the_median_of_the_training_tokens(study: Study) -> None:
    _, arm = bucket_dynamics(study)
    run = study.run("entrodrop", 0)
    train, records = run.records("train"), run.records("validation")
    low = records.reference_entropy < np.median(train.reference_entropy[train.predicted])
    by_hand = [
        study.run("entrodrop", seed).records("validation").loss(2)[low].astype(float).mean() for seed in (0, 1, 2)
    ]
    assert arm.validation.estimate[2, 0] == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize(("n_seeds", "over", "level"), [(3, None, 0.95), (3, "documents", 0.9), (1, None, 0.95)])
def test_intervals_in_closed_form(study: Study, n_seeds: int, over: Any, level: float) -> None:
    """Of either split, of the gap between them (whose documents are others), and of the rebound."""
    rng = np.random.default_rng(2)
    validation = two_ways(rng, [4.0, 3.0, 2.0, 2.5], n_seeds, 20)
    train = two_ways(rng, [4.0, 3.0, 1.5, 1.0], n_seeds, 40)
    runs = collect_arms(study)[0].runs[:n_seeds]
    hand = HandArm("hand", runs, {"validation": validation, "train": train})
    (arm,) = bucket_dynamics(hand, buckets=reference_buckets([hand], 1), over=over, level=level)
    assert arm.over == (over or ("documents" if n_seeds == 1 else "seeds_and_documents"))
    assert arm.n_seeds == n_seeds
    if arm.over == "documents":
        validation, train = (values.mean(axis=0, keepdims=True) for values in (validation, train))
    for e in range(4):
        for found, by_hand in (
            (arm.validation, interval_by_hand(validation[:, e], level)),
            (arm.train, interval_by_hand(train[:, e], level)),
            (arm.gap, gap_by_hand(validation[:, e], train[:, e], level)),
        ):
            assert (found.low[e, 0], found.high[e, 0]) == pytest.approx(by_hand)
    assert arm.rebound is not None
    rise = validation[:, 3] - validation[:, 2]
    assert (arm.rebound.low[0], arm.rebound.high[0]) == pytest.approx(interval_by_hand(rise, level))
    assert arm.rebound.estimate[0] == pytest.approx(rise.mean())


def test_moving_buckets_have_other_tokens_in_every_epoch_and_no_rebound(study: Study) -> None:
    with pytest.warns(UserWarning, match="chosen by the outcome"):
        _, arm = bucket_dynamics(study, buckets=moving_buckets(3))
    assert arm.rebound is None and arm.over == "documents"
    assert arm.validation.estimate.shape == arm.gap.estimate.shape == (4, 3)
    assert np.isfinite(arm.validation.low).all()


def test_a_diverged_arm_is_nan_from_there_on(tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, np.nan if epoch == 1 else 2.0)

    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=2, loss_fn=diverged))
    (arm,) = bucket_dynamics(Arm("diverged", [run]))
    for values in (arm.validation, arm.train, arm.gap):
        np.testing.assert_array_equal(np.isnan(values.estimate), [[False] * 2, [True] * 2, [False] * 2])
        np.testing.assert_array_equal(np.isnan(values.low), np.isnan(values.estimate))
    assert arm.rebound is not None and np.isnan(arm.rebound.estimate).all()


def half_of_each(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """Low-entropy tokens are best at epoch 3, the others and the mean at epoch 1."""
    low, high = [4.0, 3.0, 2.9, 2.875], [6.0, 4.0, 5.0, 5.5]
    return np.where(entropy < 2, low[epoch], high[epoch]) + 0.0


def test_a_rise_is_since_the_best_epoch_of_all_tokens_together(tmp_path: Path) -> None:
    path = make_study(
        tmp_path / "study",
        n_documents=120,
        epochs=3,
        seeds=(0, 1, 2),
        dtype="float32",
        loss_fns={"baseline": half_of_each, "entrodrop": planted},
    )
    one, other = rise_curves(open_study(path), buckets=Buckets(np.array([2.0]), ("low", "high")))
    assert (one.arm, one.best, one.labels, one.over, one.n_seeds) == (
        "baseline",
        1,
        ("low", "high"),
        "seeds_and_documents",
        3,
    )
    assert one.since_best.tolist() == [False, True, True, True]
    # Each token has the same values: no sampling, no width. The low half goes on to improve.
    by_hand = [[1.0, 2.0], [0.0, 0.0], [-0.1, 1.0], [-0.125, 1.5]]
    for ends in (one.rise.estimate, one.rise.low, one.rise.high):
        np.testing.assert_allclose(ends, by_hand, atol=1e-6)
    assert other.best == 2
    np.testing.assert_allclose(other.rise.estimate, (PLANTED - 3.0)[:, None] * [1.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_with_one_bucket_the_last_rise_is_the_rebound(study: Study, n_seeds: int) -> None:
    arm = Arm("noisy", collect_arms(study)[1].runs[:n_seeds])
    everything = reference_buckets([arm], 1)
    if n_seeds == 1:
        with pytest.warns(UserWarning, match="cannot be told from a rebound"):
            (found,) = rise_curves(arm, buckets=everything)
    else:
        (found,) = rise_curves(arm, buckets=everything)
    uncertainty, over = uncertainty_over(arm_quantity(arm, "rebound"))
    expected = uncertainty.interval(0.95)
    assert found.over == over
    for end in ("estimate", "low", "high"):
        assert getattr(found.rise, end)[-1, 0] == pytest.approx(getattr(expected, end)[0], abs=1e-12)


def test_rises_in_closed_form(study: Study) -> None:
    """Epochs so far apart that every half chooses the same one: the interval is that of the paired difference."""
    values = two_ways(np.random.default_rng(3), [9.0, 3.0, 6.0, 7.0], 3, 24)
    hand = HandArm("hand", collect_arms(study)[0].runs, {"validation": values})
    (found,) = rise_curves(hand, buckets=reference_buckets([hand], 1))
    assert found.best == 1
    for e in (0, 2, 3):
        rise = values[:, e] - values[:, 1]
        assert found.rise.estimate[e, 0] == pytest.approx(rise.mean())
        assert (found.rise.low[e, 0], found.rise.high[e, 0]) == pytest.approx(interval_by_hand(rise, 0.95))
    assert [abs(getattr(found.rise, end)[1, 0]) for end in ("estimate", "low", "high")] == pytest.approx([0.0] * 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_arm_has_no_best_epoch_to_rise_from(tmp_path: Path, value: float) -> None:
    def diverged(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, value if epoch == 2 else 2.0 - epoch)

    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=3, loss_fn=diverged))
    with pytest.warns(UserWarning, match="cannot be told from a rebound"):
        (found,) = rise_curves(run)
    assert found.best == -1 and not found.since_best.any()
    assert np.isnan(found.rise.estimate).all() and np.isnan(found.rise.low).all()


def test_rises_have_no_moving_buckets(study: Study) -> None:
    with pytest.warns(UserWarning, match="chosen by the outcome"), pytest.raises(InputError, match="moving buckets"):
        rise_curves(study, buckets=moving_buckets(3))


def test_two_seeds_and_few_documents_are_warned_of(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", n_documents=20, epochs=2, seeds=(0, 1))
    with pytest.warns(UserWarning) as caught:
        rise_curves(open_study(path))
    said = [str(each.message) for each in caught]
    assert len(said) == 2 and said[0].startswith("intervals over 10 documents") and said[1].startswith("2 seeds")
