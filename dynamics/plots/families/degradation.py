"""The degradation figure: validation loss over epochs, beside it each arm minus the baseline; below both, a task's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynamics.analysis.comparisons.difference_curves import DifferenceCurve
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
from dynamics.plots.drawing.lines import END_SIZE, draw_divergence, draw_line, signed
from dynamics.plots.drawing.notes import note_over, notes_of
from dynamics.plots.drawing.panels import given, in_panel, in_panels, legend_over
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import ArmStyle, Style, arm_styles
from dynamics.plots.families.minus_baseline import (
    as_differences,
    difference_columns,
    difference_notes,
    draw_differences,
)

# Characters of a task's pattern that a note of one column has room for.
_LONGEST_TASK = 20
# More dotted levels than these lie too near each other to be told apart.
_MOST_LEVELS = 4
_LEVEL: dict[str, Any] = {"linestyle": (0, (1, 2)), "linewidth": 0.7, "zorder": 1}

Curves = Source | Iterable[Source] | Sequence[ArmCurve] | Mapping[str, Any]


def degradation(
    data: Curves,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    baseline: str | None = None,
    labels: bool = True,
) -> Plot:
    """Draw validation loss over epochs by arm, and beside it each arm minus the baseline.

    The first panel has one line an arm, with a marker at its best epoch and a dotted level from there to the last
    epoch. The number at its end is the rebound: cross-fitted (`dynamics.analysis.intervals.selection`) where documents
    are known, and so a little less than the height of the line's end above that level. A cross is the last epoch
    before an arm diverged.

    Bands about levels would hide how well arms are told apart, since documents differ more than arms do: only a line
    that is alone has its 95 % band. The second panel has the differences from the baseline, with 95 % bands that are
    paired within documents, and within seeds where both arms have two or more
    (`dynamics.analysis.minus_baseline_curves`). The number at the end is the last difference.

    Parameters
    ----------
    data : Study, Run, iterable of them, sequence of ArmCurve, or mapping
        A mapping holds arrays of shape (epoch,) by arm, in nats per token, the first for epoch 0. A mapping and a
        sequence of ArmCurve know no documents, and so have the first panel alone.
    ax : Axes, optional
        Where to draw the first panel alone.
    axes : sequence of two Axes, optional
        Where to draw both panels, or the first if there are no differences; a new figure otherwise, of the page's width
        for two panels and of one column's for one.
    baseline : str, optional
        The arm to subtract. Default: the one with a name that says so. Without such an arm, or with one arm alone,
        there is no second panel.
    labels : bool
        Write names at the ends of lines where they fit; else, or where they do not, a legend.

    Returns
    -------
    Plot
        One panel or two.

    Raises
    ------
    InputError
        If there is no arm `baseline`, or the number of axes is not that of the panels.
    """
    curves = as_curves(data)
    differences = [] if ax is not None else as_differences(data, baseline=baseline)
    n = 2 if differences else 1

    return in_panels(
        lambda found: draw_degradation(curves, differences, found, labels=labels),
        n,
        ax,
        axes,
        "panels",
        new=degradation_axes,
    )


def degradation_axes(style: Style, across: int, down: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its panels, row by row: of the page's width for two columns, of one column's for one."""
    figure = style.figure(column="full" if across > 1 else "half", height=2.4 if down == 1 else 4.0)
    grid = figure.subplots(down, across, sharex=True, squeeze=False, height_ratios=(1.3, 1.0)[:down])
    return figure, list(grid.flat)


@dataclass(frozen=True, slots=True)
class TaskCurves:
    """What is drawn below the loss: the accuracy on a task's results, and each arm's minus the baseline's."""

    name: str
    curves: Sequence[ValueCurve]
    differences: Sequence[DifferenceCurve] = ()


def draw_degradation(
    curves: Sequence[ArmCurve],
    differences: Sequence[DifferenceCurve],
    axes: Sequence[Axes],
    *,
    labels: bool = True,
    task: TaskCurves | None = None,
) -> list[Axes]:
    """Draw levels and, if there are any, differences beside them; those of a task in a second row.

    Parameters
    ----------
    curves, differences, task
    axes : sequence of Axes
        Row by row.
    labels : bool
        As for `degradation`.
    """
    styles = arm_styles([curve.arm for curve in curves])
    beside = 1 if differences else 0
    lines, ends = _draw_levels(curves, axes[0], styles)
    notes = _level_notes(curves)
    diverged = any(not np.isfinite(curve.loss).all() for curve in curves)
    named = labels and not diverged and label_line_ends(axes[0], ends, fontsize=END_SIZE)
    if differences:
        notes += difference_notes(differences)
        draw_differences(differences, axes[1], styles, "Validation loss", named=named)
    if task is not None:
        below = axes[1 + beside :]
        values = _draw_task_levels(task.curves, below[0], styles, bands=not task.differences)
        label_line_ends(below[0], [replace(end, text=end.text.split()[-1]) for end in values], fontsize=END_SIZE)
        if task.differences:
            draw_differences(task.differences, below[1], styles, "Accuracy", named=False)
        notes += _task_notes(task.curves, task.name, bands=not task.differences)
        for ax in axes[: 1 + beside]:
            ax.set_xlabel("")
    if named:
        note_over(axes, notes)
        return list(axes)
    for line, end in zip(lines, ends, strict=True):
        line.set_label(end.text)
    if len(axes) == 1:
        legend_above(axes[0], lines, title="\n".join(notes))
    else:
        legend_over(axes, lines, title=notes_of(axes, notes), handlelength=2.8)
    return list(axes)


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
    curves: Sequence[ArmCurve], differences: Sequence[DifferenceCurve] = (), task: TaskCurves | None = None
) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm and epoch; those of a task's panels are of the same arms and epochs."""
    rows = [{**row, **difference_columns(differences, row["arm"], row["epoch"])} for row in _loss_rows(curves)]
    if task is None:
        return rows
    return [{**row, **more} for row, more in zip(rows, _task_rows(task), strict=True)]


def _task_rows(task: TaskCurves) -> list[dict[str, Any]]:
    return [
        {
            "task": task.name,
            "task_accuracy": estimate,
            "task_low": low,
            "task_high": high,
            "task_over": curve.over,
            "task_documents": curve.n_documents,
            "task_documents_left_out": "" if curve.n_left_out is None else curve.n_left_out,
            **difference_columns(task.differences, curve.arm, int(epoch), "task_"),
        }
        for curve in task.curves
        for epoch, estimate, low, high in zip(curve.epochs, *_ends(curve), strict=True)
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


def _draw_levels(
    curves: Sequence[ArmCurve], ax: Axes, styles: dict[str, ArmStyle]
) -> tuple[list[Line2D], list[EndLabel]]:
    """Draw the losses; return the lines, and what to write at their ends."""
    ends: list[EndLabel] = []
    lines: list[Line2D] = []
    for curve in curves:
        style = styles[curve.arm]
        band = (curve.low, curve.high) if len(curves) == 1 else None
        # The lowest loss of an arm that diverged is no best epoch: it would look as if training had stopped there.
        finite = np.isfinite(curve.loss)
        best = [curve.epochs.tolist().index(best_epoch(curve.loss, curve.epochs))] if finite.all() else []
        lines.append(
            draw_line(ax, curve.arm, curve.at, np.where(finite, curve.loss, np.nan), style, band=band, marked=best)
        )
        text = curve.arm
        rise = float(rebound(curve.loss)) if best else 0.0
        if not finite.all():
            text = f"{curve.arm}: diverged"
            draw_divergence(ax, curve.at, curve.loss, style.color)
        elif rise > 0:
            if len(curves) <= _MOST_LEVELS:
                level = [curve.loss[best[0]]] * 2
                ax.plot([curve.at[best[0]], curve.at[-1]], level, color=style.color, **_LEVEL)
            fitted = curve.rebound_cross_fitted
            text = f"{curve.arm} {signed(fitted if np.isfinite(fitted) else rise)}"
        ends.append(EndLabel(float(curve.at[-1]), float(curve.loss[-1]), text, style.color))
    ax.set_ylabel("Validation loss (nats per token)")
    epoch_axis(ax, max(curve.at[-1] for curve in curves))
    focus(ax, [(curve.at, np.stack([curve.loss, *_drawn_band(curve, len(curves))], 1)) for curve in curves])
    return lines, ends


def _drawn_band(curve: ArmCurve, n_arms: int) -> list[Floats]:
    return [curve.low, curve.high] if n_arms == 1 else []


def _level_notes(curves: Sequence[ArmCurve]) -> list[str]:
    fitted = any(np.isfinite(curve.rebound_cross_fitted) for curve in curves)
    diverged = any(not np.isfinite(curve.loss).all() for curve in curves)
    marks = f"marker: best epoch; number: rebound since{', cross-fitted' if fitted else ''}"
    notes = [marks, "cross: the last epoch before an arm diverged" if diverged else ""]
    if len(curves) == 1 and np.isfinite(curves[0].low).any():
        notes.append(f"band: {band_note([curves[0].over])}")
    return [note for note in notes if note]


def _draw_task(curves: Sequence[ValueCurve], ax: Axes, task: str, labels: bool) -> Axes:
    styles = arm_styles([curve.arm for curve in curves])
    ends = _draw_task_levels(curves, ax, styles, bands=True)
    notes = _task_notes(curves, task, bands=True, marker=labels)
    if labels and not label_line_ends(ax, ends, fontsize=END_SIZE):
        lines = ax.get_lines()[-len(curves) :]
        for line, end in zip(lines, ends, strict=True):
            line.set_label(end.text)
        legend_above(ax, lines, title="\n".join(notes))
    else:
        note_over([ax], notes)
    return ax


def _draw_task_levels(
    curves: Sequence[ValueCurve], ax: Axes, styles: dict[str, ArmStyle], *, bands: bool
) -> list[EndLabel]:
    """Draw a task's accuracies; return what to write at the ends of the lines."""
    ends: list[EndLabel] = []
    for curve in curves:
        values, low, high = _ends(curve)
        best = [int(np.nanargmax(values))] if np.isfinite(values).any() else []
        draw_line(ax, curve.arm, curve.at, values, styles[curve.arm], band=(low, high) if bands else None, marked=best)
        last = float(values[-1])
        ends.append(EndLabel(float(curve.at[-1]), last, f"{curve.arm} {last:.3f}", styles[curve.arm].color))
    ax.set_ylabel("Accuracy on results\n(share of tokens)")
    epoch_axis(ax, max(curve.at[-1] for curve in curves))
    # Labels are placed by the limits, which are otherwise set when the figure is drawn.
    ax.autoscale_view()
    return ends


def _task_notes(curves: Sequence[ValueCurve], task: str, *, bands: bool, marker: bool = False) -> list[str]:
    """Return the task and its number of documents, and what markers and bands are."""
    shown = task if len(task) <= _LONGEST_TASK else f"{task[: _LONGEST_TASK - 1]}…"
    left_out = max(curve.n_left_out or 0 for curve in curves)
    notes = [
        f"{shown}: {curves[0].n_documents:,} documents{f', {left_out:,} without results left out' * bool(left_out)}"
    ]
    if marker:
        notes.append("marker: best epoch")
    if bands and any(np.isfinite(curve.values.low).any() for curve in curves):
        notes.append(f"band: {band_note([curve.over for curve in curves])}")
    return notes


def _ends(curve: ValueCurve) -> tuple[Floats, Floats, Floats]:
    """Return a task's accuracy by epoch, and its interval's ends."""
    return curve.values.estimate[:, 0], curve.values.low[:, 0], curve.values.high[:, 0]
