"""The degradation figure: validation loss over epochs, arm by arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dynamics.analysis.estimands.summary import ArmCurve, arm_curves
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.sums.curves import best_epoch, rebound
from dynamics.plots.labels import EndLabel, band_note, epoch_axis, epoch_columns, focus, label_line_ends, legend_above
from dynamics.plots.panels import given, in_panel
from dynamics.plots.style import FAINT, MINUS, NOTE_SIZE, arm_styles

Curves = Source | Iterable[Source] | Sequence[ArmCurve] | Mapping[str, Any]


def plot_degradation(
    data: Curves,
    *,
    ax: Axes | None = None,
    labels: bool = True,
) -> Axes:
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
    Axes
    """
    curves = as_curves(data)
    return in_panel(lambda found: _draw(curves, found, labels), ax, height=2.4)


def as_curves(data: Curves) -> list[ArmCurve]:
    """Return the numbers of the degradation figure."""
    if isinstance(data, Mapping):
        return [_bare(name, np.asarray(values, dtype=float)) for name, values in data.items()]
    items, ready = given(data, ArmCurve)
    return items if ready else arm_curves(items)


def degradation_rows(curves: Sequence[ArmCurve]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm and epoch."""
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
        band = np.isfinite(curve.low)
        if band.any():
            ax.fill_between(curve.at, curve.low, curve.high, color=style.color, alpha=0.15, linewidth=0)
        lines += ax.plot(
            curve.at,
            curve.loss,
            color=style.color,
            linestyle=style.linestyle,
            linewidth=1.3,
            marker=style.marker,
            markevery=_marked(curve),
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=curve.arm,
            zorder=3,
        )
        if len(curve.epochs) == 1:
            # A line and a band of one epoch have no length.
            error = [[curve.loss[0] - curve.low[0]], [curve.high[0] - curve.loss[0]]]
            ax.errorbar(curve.at, curve.loss, error, color=style.color, linewidth=0.9, zorder=2)
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


def _marked(curve: ArmCurve) -> list[int]:
    best = best_epoch(curve.loss, curve.epochs)
    return [] if best < 0 else [curve.epochs.tolist().index(best)]
