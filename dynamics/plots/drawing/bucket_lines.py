"""Lines of arms over epochs, one panel a bucket: what the figures of gap and overconfidence have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.interval import Interval
from dynamics.plots.drawing.labels import band_note, focus, legend_above
from dynamics.plots.drawing.panels import arm_line, draw_arm_lines, is_first, is_last, legend_over
from dynamics.plots.drawing.style import arm_styles


@dataclass(frozen=True, slots=True)
class BucketLines:
    """A value of an arm by epoch and bucket.

    Attributes
    ----------
    arm : str
    over : {"documents", "seeds_and_documents"}
        What the intervals generalise over.
    epochs : ndarray, shape (E,)
        Where they lie on the axis: passes over the data.
    labels : tuple of str, length K
    values : Interval of arrays of shape (E, K)
    """

    arm: str
    over: Over
    epochs: NDArray[np.float64]
    labels: tuple[str, ...]
    values: Interval


def bucket_title(label: str, n: int) -> str | None:
    """Return the title of a bucket's panel; None where there is one bucket of all tokens."""
    if n == 1:
        return None
    return f"{label} entropy" if n == 2 else f"entropy bucket {label}"


def draw_bucket_lines(arms: Sequence[BucketLines], axes: Sequence[Axes], label: str) -> list[Axes]:
    """Draw one panel a bucket with a line an arm; all panels have the same limits, 0 among them.

    Parameters
    ----------
    arms : sequence of BucketLines
        All with the same buckets.
    axes : sequence of Axes
        One a bucket.
    label : str
        Of the y axis.
    """
    styles = arm_styles([arm.arm for arm in arms])
    labels = arms[0].labels
    drawn = [
        (arm.epochs, np.concatenate([arm.values.estimate, arm.values.low, arm.values.high, _zero(arm)], axis=1))
        for arm in arms
    ]
    handles = []
    for k, ax in enumerate(axes):
        lines = [arm_line(arm.arm, arm.epochs, arm.values, k) for arm in arms]
        handles = draw_arm_lines(ax, lines, styles, label=is_last(ax, axes))
        title = bucket_title(labels[k], len(labels))
        if title:
            ax.set_title(title)
        if is_first(ax, axes):
            ax.set_ylabel(label)
        focus(ax, drawn)
    note = f"band: {band_note([arm.over for arm in arms])}"
    if len(axes) == 1:
        legend_above(axes[0], handles, title=note)
    else:
        legend_over(axes, handles, title=note, handlelength=2.8)
    return list(axes)


def _zero(arm: BucketLines) -> NDArray[np.float64]:
    return np.zeros((len(arm.epochs), 1))
