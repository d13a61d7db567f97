"""Curricula at hand-computed points."""

import math

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.regularizers.schedules import ScheduleSettings, strength, strengths
from dynamics.validation import validated

# The defaults at progress 0, 1/4, 1/2 and 1. The logistic function of -5, -2.5, 0 and 5, stretched onto [0, 1]:
# (0.0758582 - 0.0066929) / (0.9933071 - 0.0066929) = 0.0701037.
HAND = {
    "constant": [1.0, 1.0, 1.0, 1.0],
    "linear": [0.0, 0.25, 0.5, 1.0],
    "cosine": [0.0, 0.1464466, 0.5, 1.0],
    "sigmoid": [0.0, 0.0701037, 0.5, 1.0],
    "step": [0.0, 0.0, 1.0, 1.0],
}
# Means over 4 steps: progress 0, 1/4, 1/2, 3/4. All but constant and step are symmetric, so f(3/4) = 1 - f(1/4).
MEANS = {"constant": 1.0, "linear": 0.375, "cosine": 0.375, "sigmoid": 0.375, "step": 0.5}


@pytest.mark.parametrize("name", HAND)
def test_hand_values(name):
    schedule = ScheduleSettings(name=name)
    got = [strength(schedule, p) for p in (0.0, 0.25, 0.5, 1.0)]
    assert got == pytest.approx(HAND[name], abs=1e-6)
    assert all(isinstance(value, float) for value in got)


@pytest.mark.parametrize("name", HAND)
def test_mean_over_training(name):
    values = strengths(ScheduleSettings(name=name), 4)
    assert values.shape == (4,) and values.dtype == np.float64
    assert values.tolist() == pytest.approx([*HAND[name][:3], strength(ScheduleSettings(name=name), 0.75)], abs=1e-6)
    assert values.mean() == pytest.approx(MEANS[name], abs=1e-12)


@pytest.mark.parametrize("name", HAND)
def test_mean_of_a_long_training_tends_to_the_integral(name):
    integral = 1.0 if name == "constant" else 0.5
    assert strengths(ScheduleSettings(name=name), 10_000).mean() == pytest.approx(integral, abs=1e-4)


@pytest.mark.parametrize("name", HAND)
def test_rises_within_the_unit_interval(name):
    values = [strength(ScheduleSettings(name=name, steepness=1000.0), p) for p in np.linspace(0, 1, 101)]
    assert min(values) >= 0.0 and max(values) <= 1.0 and values[-1] == 1.0
    assert (np.diff(values) >= 0).all()


def test_sigmoid_shape():
    schedule = ScheduleSettings(name="sigmoid", midpoint=0.25, steepness=4.0)
    raw = [1 / (1 + math.exp(-4.0 * (p - 0.25))) for p in (0.0, 0.6, 1.0)]
    assert strength(schedule, 0.0) == 0.0 and strength(schedule, 1.0) == 1.0
    assert strength(schedule, 0.6) == pytest.approx((raw[1] - raw[0]) / (raw[2] - raw[0]))


def test_step_switches_on_at_its_progress():
    schedule = ScheduleSettings(name="step", at=0.3)
    assert [strength(schedule, p) for p in (0.0, 0.2999, 0.3, 0.9)] == [0.0, 0.0, 1.0, 1.0]
    assert strengths(ScheduleSettings(name="step", at=0.0), 3).tolist() == [1.0, 1.0, 1.0]
    assert strengths(ScheduleSettings(name="step", at=1.0), 3).tolist() == [0.0, 0.0, 0.0]


def test_one_step():
    assert strengths(ScheduleSettings(), 1).tolist() == [0.0]


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_outside_training_is_a_bug(progress):
    with pytest.raises(AssertionError):
        strength(ScheduleSettings(), progress)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "cubic"},
        {"midpoint": 0.0},
        {"midpoint": 1.0},
        {"steepness": 0.0},
        {"at": 1.5},
        {"ramp": 1},
        {"at": "1"},
    ],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        validated(ScheduleSettings, bad, where="schedule")


def test_a_decreasing_curriculum_is_the_rest_of_the_rising_one():
    for name in ("linear", "cosine", "sigmoid", "step"):
        rising, falling = (ScheduleSettings(name=name, decreasing=way) for way in (False, True))
        got = [strength(falling, p) for p in (0.0, 0.25, 0.5, 1.0)]
        assert got == pytest.approx([1.0 - value for value in HAND[name]], abs=1e-6)
        total = strengths(rising, 40) + strengths(falling, 40)
        assert total.tolist() == pytest.approx([1.0] * 40, abs=1e-12)


def test_stairs_by_hand():
    """Four epochs of three steps: the middles of the epochs are 1/8, 3/8, 5/8, 7/8."""
    linear = strengths(ScheduleSettings(stairs=4), 12)
    assert linear.tolist() == [0.125] * 3 + [0.375] * 3 + [0.625] * 3 + [0.875] * 3
    assert linear.mean() == 0.5  # the linear curriculum's own
    falling = strengths(ScheduleSettings(stairs=4, decreasing=True), 12)
    assert falling.tolist() == linear[::-1].tolist()
    # On where the middle of the epoch is past 0.5: the second of two, the second and third of three.
    assert strengths(ScheduleSettings(name="step", stairs=2), 4).tolist() == [0, 0, 1, 1]
    assert strengths(ScheduleSettings(name="step", stairs=3), 3).tolist() == [0, 1, 1]
    # (1 - cos(pi / 4)) / 2 and (1 - cos(3 pi / 4)) / 2.
    assert strengths(ScheduleSettings(name="cosine", stairs=2), 2).tolist() == pytest.approx([0.1464466, 0.8535534])
    assert strength(ScheduleSettings(stairs=1), 0.0) == strength(ScheduleSettings(stairs=1), 1.0) == 0.5


@pytest.mark.parametrize("epochs", [1, 3, 7, 49, 1000])
@pytest.mark.parametrize("steps", [1, 3, 17, 93])
def test_stairs_begin_with_the_epochs(epochs, steps):
    """Whatever the quotients round to."""
    got = strengths(ScheduleSettings(stairs=epochs), epochs * steps).reshape(epochs, steps)
    assert (got == got[:, :1]).all()
    assert got[:, 0].tolist() == pytest.approx([(epoch + 0.5) / epochs for epoch in range(epochs)], abs=1e-12)


def test_jumps_have_two_sides():
    assert ScheduleSettings().jumps == [] == ScheduleSettings(stairs=1).jumps
    [(before, at)] = ScheduleSettings(name="step", at=0.3).jumps
    assert before < at == 0.3
    for schedule in (ScheduleSettings(stairs=49), ScheduleSettings(name="step"), ScheduleSettings(stairs=9999)):
        for before, at in schedule.jumps:
            assert at - before < 1e-9
            assert strength(schedule, before) < strength(schedule, at)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"name": "constant", "decreasing": True}, "decreasing is not read with a constant schedule"),
        ({"name": "constant", "stairs": 3}, "stairs is not read with a constant schedule"),
        ({"stairs": 0}, "stairs: must be .*at least 1"),
        ({"stairs": 2.0}, "stairs: must be .*a whole number"),
        ({"decreasing": 1}, "decreasing: must be true or false"),
    ],
    ids=str,
)
def test_bad_directions_and_stairs(bad, message):
    with pytest.raises(InputError, match=message):
        validated(ScheduleSettings, bad, where="schedule")
