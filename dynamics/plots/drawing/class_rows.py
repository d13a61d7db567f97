"""Rows of trajectory classes: what a seed chose by its own losses, and beside it what the other seeds say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dynamics.analysis.estimands.trajectory_shares import ClassShares
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.tokens.token_records import Floats
from dynamics.plots.drawing.bucket_lines import bucket_title
from dynamics.plots.drawing.labels import legend_above
from dynamics.plots.drawing.panels import is_last, legend_over
from dynamics.plots.drawing.style import FAINT, INK, ArmStyle, arm_styles

# Nats. Records hold float16: an infinite loss is read as the largest of these, 65,504.
_LARGEST = 10_000.0

_SPLITS = {"validation": "Validation", "train": "Training"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A raw number of each class and its validated one.

    Attributes
    ----------
    raw, validated : callable
        Take an arm's shares, give an Interval of arrays of shape (bucket, class).
    label : callable
        Takes the name of the split, gives the words of the x axis.
    percent : bool
        Whether the numbers are shares, and begin at 0.
    """

    raw: Callable[[ClassShares], Interval]
    validated: Callable[[ClassShares], Interval]
    label: Callable[[str], str]
    percent: bool


#: Shares of tokens: of the class in one seed, and of the class in two.
SHARES = Pair(
    lambda arm: arm.share, lambda arm: arm.share_in_two, lambda split: f"{_SPLITS[split]} tokens (%)", percent=True
)
#: Mean changes of the loss: in the seed that chose, and of the same tokens between the same epochs in the others.
CHANGES = Pair(
    lambda arm: arm.change,
    lambda arm: arm.change_elsewhere,
    lambda split: f"Change of {_SPLITS[split].lower()} loss (nats)",
    percent=False,
)


def draw_class_rows(
    arms: Sequence[ClassShares], axes: Sequence[Axes], pair: Pair, *, legend: bool = True
) -> list[Axes]:
    """Draw a row a class and one panel a bucket.

    Hollow markers are raw numbers, filled ones validated, with their intervals. An arm of one seed has hollow ones
    alone, and the legend says so.
    """
    styles = arm_styles([arm.arm for arm in arms])
    classes = arms[0].classes
    # Arms side by side within a class's row.
    offsets = np.linspace(-0.28, 0.28, len(arms)) if len(arms) > 1 else np.zeros(1)
    low, high = _limits(arms, pair)
    for k, ax in enumerate(axes):
        for arm, offset in zip(arms, offsets, strict=True):
            if not _classified(arm):
                # No token has a class: 0 % in each would look like a finding.
                continue
            _draw_arm(ax, pair.raw(arm), pair.validated(arm), k, np.arange(len(classes)) + offset, styles[arm.arm])
        # Lines between classes keep the arms of one together.
        for c in range(1, len(classes)):
            ax.axhline(c - 0.5, color=FAINT, linewidth=0.3, zorder=1)
        ax.set_yticks(range(len(classes)), classes)
        ax.set_ylim(len(classes) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.set_xlim(low, high)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        if pair.percent:
            ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
        else:
            ax.axvline(0.0, color=INK, linewidth=0.5, zorder=1)
        if is_last(ax, axes):
            ax.set_xlabel(pair.label(arms[0].split))
        title = bucket_title(arms[0].labels[k], len(axes))
        if title:
            ax.set_title(title)
    if legend:
        (legend_above if len(axes) == 1 else _legend_over)(
            axes[0], [*_arm_handles(arms, styles), *_kind_handles(arms)], title=_note(arms)
        )
    return list(axes)


def _draw_arm(ax: Axes, raw: Interval, validated: Interval, k: int, y: Floats, style: ArmStyle) -> None:
    known = np.isfinite(validated.estimate[k])
    barred = validated if known.any() else raw
    look: dict[str, Any] = {"linestyle": "none", "marker": style.marker, "color": style.color}
    ax.hlines(y, barred.low[k], barred.high[k], color=style.color, linewidth=1.2, zorder=2)
    if known.any():
        # From what was chosen to what is left of it.
        ax.hlines(y, validated.estimate[k], raw.estimate[k], color=style.color, linewidth=0.4, zorder=2)
    ax.plot(raw.estimate[k], y, **look, markersize=3.2, markerfacecolor="white", markeredgewidth=0.7, zorder=3)
    ax.plot(validated.estimate[k], y, **look, markersize=3.6, markeredgecolor="white", markeredgewidth=0.3, zorder=4)


def _limits(arms: Sequence[ClassShares], pair: Pair) -> tuple[float, float]:
    drawn = [
        end.ravel()
        for arm in arms
        for interval in (pair.raw(arm), pair.validated(arm))
        for end in (interval.estimate, interval.low, interval.high)
    ]
    ends = np.concatenate(drawn)
    ends = ends[np.isfinite(ends)]
    # No token has a class where a run diverged at once.
    low, high = float(ends.min(initial=0.0)), float(ends.max(initial=0.0))
    if high == low:
        high = 1.0
    # A little beyond, so that markers at the ends are whole.
    margin = high - low
    return low - 0.03 * margin, high + 0.06 * margin


def _classified(arm: ClassShares) -> bool:
    """Whether the classes say anything: where a run diverged no token has one, or changes are out of range."""
    some = arm.share.estimate > 0
    return bool(some.any() and (np.abs(arm.change.estimate[some]) < _LARGEST).all())


def _arm_handles(arms: Sequence[ClassShares], styles: dict[str, ArmStyle]) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=styles[arm.arm].marker,
            color=styles[arm.arm].color,
            markersize=3.8,
            label=arm.arm if _classified(arm) else f"{arm.arm}: diverged",
        )
        for arm in arms
    ]


def _kind_handles(arms: Sequence[ClassShares]) -> list[Line2D]:
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": INK, "markersize": 3.4}
    hollow = Line2D([], [], **look, markerfacecolor="white", markeredgewidth=0.7, label="as one seed chose")
    filled = Line2D([], [], **look, label="in other seeds too")
    return [hollow] if all(arm.note for arm in arms) else [hollow, filled]


def _note(arms: Sequence[ClassShares]) -> str:
    note = "bar: 95 % over documents"
    if np.isfinite(arms[0].level):
        note = f"low: up to {arms[0].level:.2f} nats; {note}"
    alone = [arm.arm for arm in arms if arm.note]
    if not alone:
        return note
    whose = "one seed" if len(alone) == len(arms) else f"one seed of {', '.join(alone)}"
    return f"{note}; {whose}: not validated"


def _legend_over(ax: Axes, handles: Sequence[Any], *, title: str) -> None:
    legend_over([ax], handles, title=title)
