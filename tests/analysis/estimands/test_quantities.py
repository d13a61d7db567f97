from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.quantities import arm_compute, arm_quantity, mean_until, value_at
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.tokens.buckets import moving_buckets
from dynamics.errors import InputError
from dynamics.records.reader import open_run, open_study

Array = np.ndarray[Any, Any]

CURVE = np.array([4.0, 3.0, 3.5, 4.5])


def planted(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """The planted curve in every token, without noise: float16 holds it exactly."""
    return np.full(entropy.shape, CURVE[epoch])


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    path = tmp_path_factory.mktemp("quantities") / "study"
    made = make_study(
        path, arms={"baseline": {}}, loss_fns={"baseline": planted}, n_documents=20, epochs=3, seeds=(0, 1)
    )
    return collect_arms(open_study(made))[0]


def test_quantities_of_a_planted_curve(arm: Arm) -> None:
    # The area is the mean of a line from 4 to 3, one from 3 to 3.5 and one from 3.5 to 4.5: (3.5 + 3.25 + 4) / 3.
    expected = {"final": 4.5, "best": 3.0, "rebound": 1.5, "area": 10.75 / 3}
    for quantity, value in expected.items():
        assert arm_quantity(arm, quantity).estimate == pytest.approx(value, rel=1e-12)  # type: ignore[arg-type]


def test_training_may_be_looked_at_up_to_a_point_between_epochs(arm: Arm) -> None:
    # At 2.5 passes: 4.0 on the line from 3.5 to 4.5; until there, best is 3.0 all the same.
    until = ("passes", 2.5)
    for quantity, value in {"final": 4.0, "best": 3.0, "rebound": 1.0, "area": (3.5 + 3.25 + 0.5 * 3.75) / 2.5}.items():
        found = arm_quantity(arm, quantity, until=until)  # type: ignore[arg-type]
        assert found.estimate == pytest.approx(value, rel=1e-12)
    # Before the second epoch the best recorded one is the first of both.
    assert arm_quantity(arm, "best", until=("passes", 0.5)).estimate == pytest.approx(4.0)
    assert (
        arm_quantity(arm, "final", until=("passes", 0.0)).estimate
        == arm_quantity(arm, "area", until=("passes", 0.0)).estimate
    )


def test_an_epoch_counts_that_lies_behind_the_end_by_its_last_digit_alone(tmp_path: Path) -> None:
    def falling(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, 4.0 - epoch)

    made = make_study(
        tmp_path / "study", arms={"baseline": {}}, loss_fns={"baseline": falling}, n_documents=20, epochs=3
    )
    arm = collect_arms(open_study(made))[0]
    assert arm_quantity(arm, "best", until=("passes", 3.0 * (1.0 - 1e-15))).estimate == pytest.approx(1.0)
    assert arm_quantity(arm, "best", until=("passes", 3.0 * (1.0 - 1e-9))).estimate == pytest.approx(2.0)


def test_the_tuning_part_chooses_by_the_value_that_is_asked_for(tmp_path: Path) -> None:
    # The loss is lowest at epoch 2, the planted entropy at the last.
    made = make_study(tmp_path / "study", n_documents=40, epochs=4, held_out=("validation", "tuning"))
    arm = collect_arms(open_study(made))[0]
    best = arm_quantity(arm, "best", value="entropy", chosen_on="tuning")
    assert best.estimate == pytest.approx(arm_quantity(arm, "final", value="entropy").estimate)


def test_the_best_epoch_of_correctness_is_the_highest(tmp_path: Path) -> None:
    # Every token is correct where its loss is below 0.5: none, all but the high-entropy ones, all, none of them again.
    def learned(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.where(np.array([0, entropy < 2, 1, 0], dtype=object)[epoch], 0.25, 4.0)

    made = make_study(
        tmp_path / "study", arms={"baseline": {}}, loss_fns={"baseline": learned}, n_documents=20, epochs=3
    )
    arm = collect_arms(open_study(made))[0]
    share = {
        quantity: float(arm_quantity(arm, quantity, value="correct").estimate[0])  # type: ignore[arg-type]
        for quantity in ("final", "best", "rebound", "area")
    }
    some = float(mean_curve(arm.sums("validation", value="correct"))[1, 0])
    assert 0.2 < some < 0.8
    assert share == pytest.approx({"final": 0.0, "best": 1.0, "rebound": -1.0, "area": (some + 1.0) / 3})
    # What documents and seeds contribute has the sign of the estimate: leaving a document out of "all right" changes
    # nothing, and of losses the best is the lowest as before.
    best = arm_quantity(arm, "best", value="correct")
    assert best.documents == pytest.approx(0.0) and arm_quantity(arm, "best").estimate == pytest.approx(0.25)


def test_compute_is_counted_in_passes_steps_and_tokens(arm: Arm) -> None:
    manifest = arm.runs[0].manifest
    np.testing.assert_array_equal(arm_compute(arm, "passes"), [0, 1, 2, 3])
    np.testing.assert_array_equal(arm_compute(arm, "steps"), np.arange(4) * manifest["steps_per_epoch"])
    np.testing.assert_array_equal(arm_compute(arm, "tokens"), np.arange(4) * manifest["tokens"]["train"]["n_predicted"])
    with pytest.raises(InputError, match="not matched by 'hours'; use passes, steps, tokens"):
        arm_compute(arm, "hours")  # type: ignore[arg-type]


def test_weights_of_epochs_by_hand() -> None:
    at = np.array([0.0, 1.0, 4.0])
    np.testing.assert_allclose(value_at(at, 3.0), [0, 1 / 3, 2 / 3])
    np.testing.assert_allclose(value_at(at, 1.0), [0, 1, 0])
    np.testing.assert_allclose(value_at(at, 4.0), [0, 0, 1])
    # The integral to 3 of a hat function each: the first 1/2, the second 1/2 + 4/3, the third 2/3, over 3.
    np.testing.assert_allclose(mean_until(at, 3.0, value_at(at, 3.0)), np.array([1 / 2, 11 / 6, 2 / 3]) / 3)
    np.testing.assert_allclose(mean_until(at, 4.0, value_at(at, 4.0)), np.array([1 / 2, 2.0, 3 / 2]) / 4)
    for end in (-0.5, 4.5):
        with pytest.raises(InputError, match="is recorded from 0 to 4"):
            value_at(at, end)


def test_one_epoch_is_final_best_and_area(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=12, epochs=[0], loss_fn=planted))
    arm = collect_arms(run)[0]
    for quantity, value in {"final": 4.0, "best": 4.0, "rebound": 0.0, "area": 4.0}.items():
        assert arm_quantity(arm, quantity).estimate == pytest.approx(value)  # type: ignore[arg-type]


def test_a_nan_later_on_is_in_what_looks_at_it_alone(tmp_path: Path) -> None:
    def diverging(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, np.nan if epoch == 2 else CURVE[epoch])

    run = open_run(make_run(tmp_path / "run", n_documents=12, epochs=[0, 1, 2, 3], loss_fn=diverging))
    arm = collect_arms(run)[0]
    assert arm_quantity(arm, "final").estimate == pytest.approx(4.5)
    for quantity in ("best", "rebound", "area"):
        assert np.isnan(arm_quantity(arm, quantity).estimate).all()  # type: ignore[arg-type]
    assert arm_quantity(arm, "best", until=("passes", 1.0)).estimate == pytest.approx(3.0)


def test_what_cannot_be_asked(arm: Arm) -> None:
    with pytest.raises(InputError, match="no quantity 'finl'; .*final"):
        arm_quantity(arm, "finl")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="moving buckets"):
        arm_quantity(arm, "best", buckets=moving_buckets(2))
    with pytest.raises(InputError, match="recorded from 0 to 3"):
        arm_quantity(arm, "final", until=("passes", 9.0))


def test_the_curve_of_the_contributions_is_the_curve(arm: Arm) -> None:
    assert arm_quantity(arm, "final").estimate == mean_curve(arm.sums("validation"))[-1]
