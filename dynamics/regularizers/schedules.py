"""Curricula: how strong a regulariser is at each moment of training. No torch.

Every schedule is a function of training progress (optimiser steps done over all steps, from 0 to 1) into
[0, 1]; the regulariser multiplies the result by its peak. The EntroDrop sources disagree about the shape
(a page describing the paper says linear, other summaries say sigmoid), so both are here. Nobody says that strength
falls, or that it changes between epochs alone; both are readings of "a curriculum that adjusts to training progress".
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dynamics.validation import Settings

ScheduleName = Literal["constant", "linear", "cosine", "sigmoid", "step"]

# Of a stair, by which progress may miss it: a quotient such as 49 * (1 / 49) = 0.999... stands for the whole number.
_FORGIVEN = 1e-9


class ScheduleSettings(Settings):
    """A curriculum: a name, and the shape parameters of the schedules that have some."""

    name: ScheduleName = "linear"
    midpoint: float = Field(default=0.5, gt=0.0, lt=1.0, description="sigmoid: progress at half strength")
    steepness: float = Field(default=10.0, gt=0.0, le=1000.0, description="sigmoid: slope at the midpoint")
    at: float = Field(default=0.5, ge=0.0, le=1.0, description="step: progress at which it switches on")
    decreasing: bool = Field(default=False, description="run from the peak to nothing: 1 minus the schedule")
    stairs: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="hold the strength in this many equal parts of training, each at what the schedule has in its "
        "middle; the number of epochs gives one strength an epoch",
    )

    @model_validator(mode="after")
    def _changes(self) -> ScheduleSettings:
        if self.name == "constant":
            for key, given in (("decreasing", self.decreasing), ("stairs", self.stairs is not None)):
                if given:
                    raise ValueError(f"{key} is not read with a constant schedule, which never changes; leave it out")
        return self

    @property
    def jumps(self) -> list[tuple[float, float]]:
        """Progress just before and at each place where the strength is not continuous, ascending."""
        if self.stairs is not None:
            close = 2.0 * _FORGIVEN / self.stairs
            return [(stair / self.stairs - close, stair / self.stairs) for stair in range(1, self.stairs)]
        return [(float(np.nextafter(self.at, 0.0)), self.at)] if self.name == "step" else []


def strength(schedule: ScheduleSettings, progress: float) -> float:
    """Return the strength of `schedule` at `progress`.

    Parameters
    ----------
    schedule : ScheduleSettings
        Name and shape of the curriculum.
    progress : float
        Optimiser steps done over all optimiser steps, in [0, 1].

    Returns
    -------
    float
        In [0, 1]. ``linear``: p. ``cosine``: (1 - cos(pi p)) / 2. ``sigmoid``: the logistic function of
        steepness (p - midpoint), shifted and scaled so that it starts at 0 and ends at 1. ``step``: 0 before
        `at`, 1 from there on. ``constant``: 1. With `decreasing`, 1 minus that. With `stairs` n, what this is at
        (k + 1/2) / n where k / n <= progress < (k + 1) / n.
    """
    assert 0.0 <= progress <= 1.0, progress
    if schedule.stairs is not None:
        stair = min(math.floor(progress * schedule.stairs + _FORGIVEN), schedule.stairs - 1)
        progress = (stair + 0.5) / schedule.stairs
    rising = _rising(schedule, progress)
    return 1.0 - rising if schedule.decreasing else rising


def strengths(schedule: ScheduleSettings, total_steps: int) -> np.ndarray:
    """Return the strength at every optimiser step of a training run.

    Parameters
    ----------
    schedule : ScheduleSettings
    total_steps : int
        Number of optimiser steps, at least 1.

    Returns
    -------
    ndarray of float64, shape (total_steps,)
        Step t has progress t / total_steps. Its mean is what arms are matched on.
    """
    return np.array([strength(schedule, step / total_steps) for step in range(total_steps)])


def _rising(schedule: ScheduleSettings, progress: float) -> float:
    match schedule.name:
        case "constant":
            return 1.0
        case "linear":
            return progress
        case "cosine":
            return (1.0 - math.cos(math.pi * progress)) / 2.0
        case "sigmoid":
            start = _logistic(-schedule.steepness * schedule.midpoint)
            end = _logistic(schedule.steepness * (1.0 - schedule.midpoint))
            here = _logistic(schedule.steepness * (progress - schedule.midpoint))
            return (here - start) / (end - start)
        case "step":
            return float(progress >= schedule.at)
    raise AssertionError(schedule.name)


def _logistic(x: float) -> float:
    # The form whose exponential cannot overflow.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
