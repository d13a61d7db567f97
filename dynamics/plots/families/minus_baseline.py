"""The panel beside the degradation figure: each arm minus the baseline, with paired bands."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dynamics.analysis.comparisons.difference_curves import DifferenceCurve, minus_baseline_curves
from dynamics.analysis.estimands.summary import ArmCurve
from dynamics.analysis.sums.arms import Source, collect_arms, named_baseline
from dynamics.analysis.tokens.matches import task_tokens
from dynamics.plots.drawing.labels import EndLabel, band_note, epoch_axis, focus, label_line_ends
from dynamics.plots.drawing.lines import END_SIZE, draw_line, signed
from dynamics.plots.drawing.panels import given
from dynamics.plots.drawing.style import INK, ArmStyle


def as_differences(
    data: Source | Iterable[Source] | Sequence[ArmCurve] | Mapping[str, Any],
    *,
    baseline: str | None = None,
    task: str | None = None,
) -> list[DifferenceCurve]:
    """Return each arm minus the baseline, of the loss or of the accuracy on a task; none where there is no baseline."""
    if isinstance(data, Mapping):
        return []
    items, ready = given(data, ArmCurve)
    if ready:
        return []
    arms = collect_arms(items)
    baseline = baseline or named_baseline(arms)
    if baseline is None:
        return []
    with warnings.catch_warnings():
        # The figure says what its bands are over, and the curves' own intervals have warned of few seeds or documents.
        warnings.simplefilter("ignore", UserWarning)
        if task is None:
            return minus_baseline_curves(arms, baseline=baseline)
        return minus_baseline_curves(arms, baseline=baseline, value="correct", buckets=task_tokens(task))


def difference_columns(
    differences: Sequence[DifferenceCurve], arm: str, epoch: int, before: str = ""
) -> dict[str, Any]:
    """Return an arm's difference at an epoch with its interval; empty for the baseline, and where it has none."""
    name = f"{before}minus_baseline"
    for curve in differences:
        if curve.arm == arm and epoch in curve.epochs:
            e = curve.epochs.tolist().index(epoch)
            ends = (float(getattr(curve.values, end)[e, 0]) for end in ("estimate", "low", "high"))
            return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)) | {f"{name}_over": curve.over}
    return {name: "", f"{name}_low": "", f"{name}_high": "", f"{name}_over": ""}


def draw_differences(
    differences: Sequence[DifferenceCurve], ax: Axes, styles: dict[str, ArmStyle], what: str, *, named: bool
) -> None:
    """Draw each arm minus the baseline, with its band, and the last difference at the end."""
    ax.axhline(0.0, color=INK, linewidth=0.5, zorder=1)
    ends: list[EndLabel] = []
    drawn = []
    for curve in differences:
        style = styles[curve.arm]
        values, low, high = (getattr(curve.values, end)[:, 0] for end in ("estimate", "low", "high"))
        draw_line(ax, curve.arm, curve.at, values, style, band=(low, high), marked=[])
        drawn.append((curve.at, np.stack([values, low, high, np.zeros(len(values))], 1)))
        if np.isfinite(values[-1]):
            number = signed(float(values[-1]), 3 if curve.value == "correct" else 2)
            ends.append(EndLabel(float(curve.at[-1]), float(values[-1]), f"{curve.arm} {number}", style.color))
    unit = "share of tokens" if differences[0].value == "correct" else "nats per token"
    ax.set_ylabel(f"{what} minus baseline\n({unit})")
    epoch_axis(ax, max(curve.at[-1] for curve in differences))
    focus(ax, drawn)
    numbers = [replace(end, text=end.text.split()[-1]) for end in ends]
    if not (named and label_line_ends(ax, ends, fontsize=END_SIZE)):
        label_line_ends(ax, numbers, fontsize=END_SIZE)


def difference_notes(differences: Sequence[DifferenceCurve]) -> list[str]:
    name = differences[0].baseline
    called = "" if name.lower() == "baseline" else f"baseline: {name}"
    return [called, f"band: {band_note([curve.over for curve in differences])}, paired"]
