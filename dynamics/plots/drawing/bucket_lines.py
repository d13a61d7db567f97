"""Lines of arms over epochs, one panel a bucket: what the figures of gap and overconfidence have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.interval import Interval
from dynamics.plots.drawing.labels import band_note, divergence, focus, legend_above
from dynamics.plots.drawing.lines import draw_divergence
from dynamics.plots.drawing.panels import arm_line, draw_arm_lines, is_first, is_last, legend_over
from dynamics.plots.drawing.style import ArmStyle, arm_styles


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
    best : tuple of int or None, length K
        Index of the best epoch of each bucket; empty where it is not known.
    """

    arm: str
    over: Over
    epochs: NDArray[np.float64]
    labels: tuple[str, ...]
    values: Interval
    best: tuple[int | None, ...] = ()


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
        for arm in arms:
            _mark(ax, arm, k, styles[arm.arm])
        title = bucket_title(labels[k], len(labels))
        if title:
            ax.set_title(title)
        if is_first(ax, axes):
            ax.set_ylabel(label)
        focus(ax, drawn)
    for arm, handle in zip(arms, handles, strict=True):
        words = divergence(arm.epochs, arm.values.estimate)
        handle.set_label(arm.arm if words is None else f"{arm.arm}: {words}")
    note = f"band: {band_note([arm.over for arm in arms])}"
    if any(index is not None for arm in arms for index in arm.best):
        note = f"large marker: best epoch on validation; {note}"
    if len(axes) == 1:
        legend_above(axes[0], handles, title=note)
    else:
        legend_over(axes, handles, title=note, handlelength=2.8)
    return list(axes)


def _mark(ax: Axes, arm: BucketLines, k: int, style: ArmStyle) -> None:
    """Mark a bucket's best epoch, or where it diverged."""
    values = arm.values.estimate[:, k]
    if not np.isfinite(values).all():
        if np.isfinite(values).any():
            draw_divergence(ax, arm.epochs, values, style.color)
        return
    best = arm.best[k] if arm.best else None
    if best is not None:
        look: dict[str, Any] = {
            "marker": style.marker,
            "markersize": 6.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.7,
        }
        ax.plot(arm.epochs[best], values[best], color=style.color, linestyle="none", zorder=4, **look)


def best_epochs(loss: NDArray[np.float64]) -> tuple[int | None, ...]:
    """Return the index of each bucket's lowest loss, None for one that was not finite always; loss of shape (E, K)."""
    # One epoch has nothing to choose from.
    return tuple(int(np.argmin(bucket)) if len(bucket) > 1 and np.isfinite(bucket).all() else None for bucket in loss.T)


def _zero(arm: BucketLines) -> NDArray[np.float64]:
    return np.zeros((len(arm.epochs), 1))
