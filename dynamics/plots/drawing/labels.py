"""Words in figures: labels at the ends of lines where they fit, legends, epoch axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.plots.drawing.legends import legend_in
from dynamics.plots.drawing.notes import text_width
from dynamics.plots.drawing.paper import WORDS, paper_around, readable
from dynamics.plots.drawing.style import FAINT, NOTE_SIZE


@dataclass(frozen=True, slots=True)
class EndLabel:
    """Text beside the last point of a line."""

    x: float
    y: float
    text: str
    color: str


def label_line_ends(ax: Axes, labels: Sequence[EndLabel], *, fontsize: float, shift: float = 1.3) -> bool:
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
    # Wide names would leave too little to the lines.
    width = max(text_width(label.text, fontsize) for label in labels)
    if width > 0.5 * ax.get_window_extent().width * 72.0 / ax.figure.dpi:
        return False
    points = ends * 72.0 / ax.figure.dpi
    line = fontsize * 1.25
    moved = spread(points, line)
    # Lower, a label would touch the last tick's.
    bottom = ax.get_window_extent().y0 * 72.0 / ax.figure.dpi + 0.3 * line
    moved = moved + max(0.0, bottom - float(moved.min()))
    if np.abs(moved - points).max() > shift * line:
        return False
    for label, offset in zip(labels, moved - points, strict=True):
        ax.annotate(
            label.text,
            (label.x, label.y),
            xytext=(6.0, float(offset)),
            textcoords="offset points",
            va="center",
            ha="left",
            # Letters are thinner than lines.
            color=readable(label.color, [paper_around(ax)], WORDS),
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
    """Put a legend of at most two columns above the axes, where it can hide nothing."""
    how: dict[str, Any] = {"bbox_to_anchor": (0.0, 1.0), "alignment": "left", "handlelength": 2.6, "columnspacing": 1.2}
    legend_in(ax, ax, handles, most=2, title=title, loc="lower left", borderaxespad=0.2, **how)


def epoch_axis(ax: Axes, last: float, *, label: bool = True) -> None:
    """Make the x axis one of epochs up to `last`, with ticks at whole ones."""
    ax.margins(x=0.03)
    steps = [1, 2, 4, 5, 6, 8, 10]
    ticks = MaxNLocator(nbins=6, integer=True, steps=steps, min_n_ticks=1)
    ax.xaxis.set_major_locator(ticks)
    if last <= 0:
        # One epoch alone: without limits its tick would be a fraction of it.
        ax.set_xlim(-0.5, 0.5)
    if label:
        ax.set_xlabel("Training (epochs)")


def epoch_columns(drawn: Sequence[OverEpochs]) -> Callable[[OverEpochs, int], dict[str, Any]]:
    """Return the function from (what is drawn, index of an epoch) to the columns of a CSV that place a row in training.

    They are ``epoch`` and, where any epoch of `drawn` was cut, ``passes``.
    """
    any_cut = any(each.cut for each in drawn)

    def columns(each: OverEpochs, e: int) -> dict[str, Any]:
        epoch = {"epoch": int(each.epochs[e])}
        return {**epoch, "passes": float(each.at[e])} if any_cut else epoch

    return columns


def named_after(names: Sequence[str], passes: Sequence[float]) -> list[str]:
    """Return names of arms that are shown at a moment each, with it where it differs: "short (2.4 epochs)"."""
    if len(set(passes)) < 2:
        return list(names)
    return [f"{name} ({at:g} epoch{'' if at == 1 else 's'})" for name, at in zip(names, passes, strict=True)]


def in_words(overs: Sequence[Over]) -> str:
    """Return what intervals generalise over, in words: "over seeds and documents"."""
    both, documents = ("seeds_and_documents" in overs), ("documents" in overs)
    if both and documents:
        return "over seeds and documents, or documents alone for what has one seed"
    return "over seeds and documents" if both else "over documents, the trained models held fixed"


def band_note(overs: Sequence[Over]) -> str:
    """Return the same in a few words, for a figure."""
    both, documents = ("seeds_and_documents" in overs), ("documents" in overs)
    return f"95 % over {'seeds and ' if both else ''}{'(or) ' if both and documents else ''}documents"


def divergence(epochs: NDArray[Any], values: NDArray[Any]) -> str | None:
    """Return when a curve first was not finite, "diverged at epoch 3"; None if it always was.

    Parameters
    ----------
    epochs : ndarray, shape (E,)
    values : ndarray of shape (E,) or (E, K)
        A bucket that is not finite at any epoch, while others are, has no tokens and says nothing.
    """
    finite = np.isfinite(values).reshape(len(epochs), -1)
    finite = finite[:, finite.any(axis=0)] if finite.any() else finite
    bad = ~finite.all(axis=1)
    return f"diverged at epoch {epochs[int(np.argmax(bad))]:g}" if bad.any() else None


def moments(passes: Sequence[float]) -> str:
    """Return the epochs that are shown, each once, in words: a cut one by its passes over the data."""
    return ", ".join(f"{at:g}" for at in sorted(set(passes)))


def wrap_name(name: str, width: int) -> str:
    """Break a name after ``-``, ``_``, ``/`` or ``+`` into lines of at most `width` characters, longer words within."""
    lines = [""]
    for part in re.findall(rf"[^-_/+ ]{{1,{width}}}[-_/+ ]*|[-_/+ ]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def focus(ax: Axes, drawn: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Set the y limits, without epoch 0 where it would flatten all the rest.

    Parameters
    ----------
    ax : Axes
    drawn : sequence of (epochs, values)
        Epochs of shape (E,) and all that is drawn at them, shape (E, n).
    """
    values = np.concatenate([part.ravel() for _, part in drawn])
    after = np.concatenate([part[epochs > 0].ravel() for epochs, part in drawn])
    values, after = values[np.isfinite(values)], after[np.isfinite(after)]
    if not len(values):
        return
    low, high = values.min(), values.max()
    if len(after) and high - low > 4 * (after.max() - after.min()) > 0:
        start, low, high = high, after.min(), after.max()
        ax.annotate(
            f"epoch 0: up to {start:.2f}",
            (1.0, 1.0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, -1),
            textcoords="offset points",
            va="top",
            fontsize=NOTE_SIZE,
            color=FAINT,
        )
    margin = 0.06 * (high - low) or 0.1
    ax.set_ylim(low - margin, high + margin)
