"""The degradation figure: validation loss over epochs, arm by arm, and the accuracy on a task's results below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dynamics.analysis.estimands.summary import ArmCurve, arm_curves
from dynamics.analysis.estimands.value_curves import ValueCurve, task_curves
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.sums.curves import best_epoch, rebound
from dynamics.analysis.tokens.token_records import Floats
from dynamics.plots.drawing.labels import (
    EndLabel,
    band_note,
    epoch_axis,
    epoch_columns,
    focus,
    label_line_ends,
    legend_above,
)
from dynamics.plots.drawing.panels import given, in_panel
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import FAINT, MINUS, NOTE_SIZE, ArmStyle, arm_styles

# Characters of a task's pattern that a note of one column has room for.
_LONGEST_TASK = 20

Curves = Source | Iterable[Source] | Sequence[ArmCurve] | Mapping[str, Any]


def degradation(
    data: Curves,
    *,
    ax: Axes | None = None,
    labels: bool = True,
) -> Plot:
    """Draw validation loss over epochs by arm: what many epochs do to the model.

    Each line has its 95 % band, over seeds and documents where it has two seeds or more, a marker at its best epoch,
    and from there a dotted level to the last epoch. The label gives the rebound as a number: cross-fitted
    (`dynamics.analysis.intervals.selection`) where documents are known, and so a little less than the height of the
    line's end above that level.

    Parameters
    ----------
    data : Study, Run, iterable of them, sequence of ArmCurve, or mapping
        A mapping holds arrays of shape (epoch,) by arm, in nats per token, the first for epoch 0.
    ax : Axes, optional
        Where to draw; a new figure of one column's width otherwise.
    labels : bool
        Write names at the ends of lines where they fit; else, or where they do not, a legend.

    Returns
    -------
    Plot
    """
    curves = as_curves(data)
    return in_panel(lambda found: _draw(curves, found, labels), ax, height=2.4)


def as_curves(data: Curves) -> list[ArmCurve]:
    """Return the numbers of the degradation figure."""
    if isinstance(data, Mapping):
        return [_bare(name, np.asarray(values, dtype=float)) for name, values in data.items()]
    items, ready = given(data, ArmCurve)
    return items if ready else arm_curves(items)


def task_curve(
    data: Source | Iterable[Source] | Sequence[ValueCurve],
    task: str = "gsm8k",
    *,
    ax: Axes | None = None,
    labels: bool = True,
) -> Plot:
    """Draw the accuracy on the tokens that carry a task's results over epochs by arm, with 95 % bands.

    Arms have the colours that they have in `degradation`, and a marker at their best epoch, the highest.

    Parameters
    ----------
    data : Study, Run, iterable of them, or sequence of ValueCurve
    task : str
        As for `dynamics.analysis.estimands.value_curves.task_curves`; what ready curves are called.
    ax : Axes, optional
        Where to draw; a new figure of one column's width otherwise.
    labels : bool
        Write names, with the last value, at the ends of lines where they fit, else in a legend. Without: no names, for
        a panel beside one that has them.

    Returns
    -------
    Plot
    """
    curves = as_task_curves(data, task)
    return in_panel(lambda found: _draw_task(curves, found, task, labels), ax, height=2.2)


def as_task_curves(data: Source | Iterable[Source] | Sequence[ValueCurve], task: str = "gsm8k") -> list[ValueCurve]:
    """Return the numbers of the panel of a task."""
    items, ready = given(data, ValueCurve)
    return items if ready else task_curves(items, task)


def degradation_rows(
    curves: Sequence[ArmCurve], task: str | None = None, of_task: Sequence[ValueCurve] = ()
) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm and epoch; those of a task's panel are of the same arms and epochs."""
    rows = _loss_rows(curves)
    if task is None:
        return rows
    return [{**row, **more} for row, more in zip(rows, _task_rows(task, of_task), strict=True)]


def _task_rows(task: str, curves: Sequence[ValueCurve]) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "task_accuracy": estimate,
            "task_low": low,
            "task_high": high,
            "task_over": curve.over,
            "task_documents": curve.n_documents,
            "task_documents_left_out": "" if curve.n_left_out is None else curve.n_left_out,
        }
        for curve in curves
        for estimate, low, high in zip(*_ends(curve), strict=True)
    ]


def _loss_rows(curves: Sequence[ArmCurve]) -> list[dict[str, Any]]:
    rows = []
    at = epoch_columns(curves)
    for curve in curves:
        best = best_epoch(curve.loss, curve.epochs)
        for e, (loss, low, high) in enumerate(zip(curve.loss, curve.low, curve.high, strict=True)):
            rows.append(
                {
                    "arm": curve.arm,
                    "seeds": curve.n_seeds,
                    **at(curve, e),
                    "validation_loss": loss,
                    "low": low,
                    "high": high,
                    "over": curve.over,
                    "best": int(curve.epochs[e] == best),
                    "rebound_cross_fitted": curve.rebound_cross_fitted,
                    "above_best": loss - np.nanmin(curve.loss) if best >= 0 else np.nan,
                }
            )
    return rows


def _bare(name: str, loss: np.ndarray) -> ArmCurve:
    nothing = np.full(len(loss), np.nan)
    return ArmCurve(name, 1, np.arange(len(loss)), loss, nothing, nothing)


def _draw(curves: Sequence[ArmCurve], ax: Axes, labels: bool) -> Axes:
    styles = arm_styles([curve.arm for curve in curves])
    ends: list[EndLabel] = []
    lines: list[Line2D] = []
    for curve in curves:
        style = styles[curve.arm]
        lines.append(_line(ax, curve, style, (curve.loss, curve.low, curve.high), _marked(curve)))
        text = curve.arm
        best = best_epoch(curve.loss, curve.epochs)
        rise = float(rebound(curve.loss))
        if best >= 0 and rise > 0:
            level = float(np.nanmin(curve.loss))
            ax.plot(
                [curve.at[curve.epochs.tolist().index(best)], curve.at[-1]],
                [level, level],
                color=style.color,
                linestyle=(0, (1, 2)),
                linewidth=0.7,
                zorder=1,
            )
            fitted = curve.rebound_cross_fitted
            number = f"{fitted if np.isfinite(fitted) else rise:+.2f}"
            text = f"{curve.arm} {number.replace('-', MINUS)}"
        ends.append(EndLabel(float(curve.at[-1]), float(curve.loss[-1]), text, style.color))
    ax.set_ylabel("Validation loss (nats per token)")
    epoch_axis(ax, max(curve.at[-1] for curve in curves))
    focus(ax, [(curve.at, np.stack([curve.loss, curve.low, curve.high], 1)) for curve in curves])
    fitted = any(np.isfinite(curve.rebound_cross_fitted) for curve in curves)
    note = f"marker: best epoch; number: rebound since{', cross-fitted' if fitted else ''}"
    if any(np.isfinite(curve.low).any() for curve in curves):
        note += f"\nband: {band_note([curve.over for curve in curves])}"
    if labels and label_line_ends(ax, ends, fontsize=7.0):
        ax.set_title(note, loc="left", fontsize=NOTE_SIZE, color=FAINT)
    else:
        for line, end in zip(lines, ends, strict=True):
            line.set_label(end.text)
        legend_above(ax, lines, title=note)
    return ax


def _line(
    ax: Axes, curve: ArmCurve | ValueCurve, style: ArmStyle, ends: tuple[Floats, Floats, Floats], marked: list[int]
) -> Line2D:
    """Draw the line of an arm with its band, and markers at the epochs of these indices."""
    values, low, high = ends
    if np.isfinite(low).any():
        ax.fill_between(curve.at, low, high, color=style.color, alpha=0.15, linewidth=0)
    (line,) = ax.plot(
        curve.at,
        values,
        color=style.color,
        linestyle=style.linestyle,
        linewidth=1.3,
        marker=style.marker,
        markevery=marked,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=curve.arm,
        zorder=3,
    )
    if len(curve.epochs) == 1:
        # A line and a band of one epoch have no length.
        error = [[values[0] - low[0]], [high[0] - values[0]]]
        ax.errorbar(curve.at, values, error, color=style.color, linewidth=0.9, zorder=2)
    return line


def _draw_task(curves: Sequence[ValueCurve], ax: Axes, task: str, labels: bool) -> Axes:
    styles = arm_styles([curve.arm for curve in curves])
    ends: list[EndLabel] = []
    lines: list[Line2D] = []
    for curve in curves:
        style, values = styles[curve.arm], _ends(curve)
        known = np.isfinite(values[0]).any()
        lines.append(_line(ax, curve, style, values, [int(np.nanargmax(values[0]))] if known else []))
        last = float(values[0][-1])
        ends.append(EndLabel(float(curve.at[-1]), last, f"{curve.arm} {last:.3f}", style.color))
    ax.set_ylabel("Accuracy on results\n(share of tokens)")
    epoch_axis(ax, max(curve.at[-1] for curve in curves))
    note = _task_note(curves, task, alone=labels)
    if labels and not label_line_ends(ax, ends, fontsize=7.0):
        for line, end in zip(lines, ends, strict=True):
            line.set_label(end.text)
        legend_above(ax, lines, title=note)
    else:
        # A pattern may have signs that are mathematics to matplotlib.
        ax.set_title(note, loc="left", fontsize=NOTE_SIZE, color=FAINT, parse_math=False)
    return ax


def _task_note(curves: Sequence[ValueCurve], task: str, *, alone: bool) -> str:
    """Return whose results they are, of how many documents, and what markers and bands are."""
    shown = task if len(task) <= _LONGEST_TASK else f"{task[: _LONGEST_TASK - 1]}…"
    left_out = max(curve.n_left_out or 0 for curve in curves)
    note = f"{shown}: {curves[0].n_documents:,} documents{f', {left_out:,} without results left out' * bool(left_out)}"
    if alone:
        note += "\nmarker: best epoch"
    if any(np.isfinite(curve.values.low).any() for curve in curves):
        note += f"\nband: {band_note([curve.over for curve in curves])}"
    return note


def _ends(curve: ValueCurve) -> tuple[Floats, Floats, Floats]:
    """Return a task's accuracy by epoch, and its interval's ends."""
    return curve.values.estimate[:, 0], curve.values.low[:, 0], curve.values.high[:, 0]


def _marked(curve: ArmCurve) -> list[int]:
    best = best_epoch(curve.loss, curve.epochs)
    return [] if best < 0 else [curve.epochs.tolist().index(best)]
