"""Words in figures: labels at the ends of lines where they fit, legends above, epoch ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dynamics.plots.style import FAINT, NOTE_SIZE


@dataclass(frozen=True, slots=True)
class EndLabel:
    """Text beside the last point of a line."""

    x: float
    y: float
    text: str
    color: str


def label_line_ends(
    ax: Axes, labels: Sequence[EndLabel], *, fontsize: float, shift: float = 1.3
) -> bool:
    """Write labels to the right of line ends, moved apart where they would overlap.

    Parameters
    ----------
    ax : Axes
        With its final limits.
    labels : sequence of EndLabel
    fontsize : float
        In points.
    shift : float
        How far, in line heights, a label may move away from the end of its line.

    Returns
    -------
    bool
        False, with nothing drawn, if a label would have to move further or takes half the width:
        the caller draws a legend.
    """
    if not labels or not np.isfinite([label.y for label in labels]).all():
        return False
    ends = ax.transData.transform([(label.x, label.y) for label in labels])[:, 1]
    # A glyph is about 0.55 of the font size wide; wide names would leave too little to the lines.
    width = max(len(label.text) for label in labels) * 0.55 * fontsize
    if width > 0.5 * ax.get_window_extent().width * 72.0 / ax.figure.dpi:
        return False
    points = ends * 72.0 / ax.figure.dpi
    line = fontsize * 1.25
    moved = spread(points, line)
    if np.abs(moved - points).max() > shift * line:
        return False
    for label, offset in zip(labels, moved - points, strict=True):
        ax.annotate(
            label.text,
            (label.x, label.y),
            xytext=(4.0, float(offset)),
            textcoords="offset points",
            va="center",
            ha="left",
            color=label.color,
            fontsize=fontsize,
            annotation_clip=False,
        )
    return True


def spread(values: np.ndarray, distance: float) -> np.ndarray:
    """Move values, in squares as little as possible, to be `distance` apart in the same order.

    This is the least-squares fit of ascending values, by pooling neighbours that are too close.
    """
    order = np.argsort(values, kind="stable")
    steps = np.arange(len(values)) * distance
    pools: list[list[float]] = []  # mean, size
    for value in values[order] - steps:
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, size = pools.pop()
            pools[-1] = [
                (pools[-1][0] * pools[-1][1] + mean * size) / (pools[-1][1] + size),
                pools[-1][1] + size,
            ]
    fitted = np.concatenate([np.full(int(size), mean) for mean, size in pools]) + steps
    result = np.empty(len(values))
    result[order] = fitted
    return result


def legend_above(ax: Axes, handles: Sequence[Any], *, title: str | None = None) -> None:
    """Put a legend above the axes, where it can hide nothing."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    legend = ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2 if longest < 26 and len(handles) > 1 else 1,
        title=title,
        alignment="left",
        handlelength=2.6,
        columnspacing=1.2,
        borderaxespad=0.2,
        title_fontsize=NOTE_SIZE,
    )
    legend.get_title().set_color(FAINT)


def epoch_ticks() -> MaxNLocator:
    """Return ticks at whole epochs."""
    return MaxNLocator(nbins=6, integer=True, steps=[1, 2, 4, 5, 6, 8, 10])
