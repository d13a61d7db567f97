"""Curricula: how strong a regulariser is at each moment of training. No torch.

Every schedule is a function of training progress (optimiser steps done over all steps, from 0 to 1) into
[0, 1]; the regulariser multiplies the result by its peak. The EntroDrop sources disagree about the shape
(a page describing the paper says linear, other summaries say sigmoid), so both are here.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from dynamics.validation import Settings


class ScheduleSettings(Settings):
    """A curriculum: a name, and the shape parameters of the schedules that have some."""

    name: Literal["constant", "linear", "cosine", "sigmoid", "step"] = "linear"
    midpoint: float = Field(default=0.5, gt=0.0, lt=1.0, description="sigmoid: progress at half strength")
    steepness: float = Field(default=10.0, gt=0.0, le=1000.0, description="sigmoid: slope at the midpoint")
    at: float = Field(default=0.5, ge=0.0, le=1.0, description="step: progress at which it switches on")


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
        `at`, 1 from there on. ``constant``: 1.
    """
    assert 0.0 <= progress <= 1.0, progress
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


def _logistic(x: float) -> float:
    # The form whose exponential cannot overflow.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
