"""The rebound figure: by how much validation loss rose since the best epoch, for low- and high-entropy tokens."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dynamics.analysis.estimands.bucket_dynamics import RiseCurve, rise_curves
from dynamics.analysis.intervals.selection import about_one_seed
from dynamics.analysis.sums.arms import Source, collect_arms
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.errors import InputError, nearest
from dynamics.plots.drawing.bucket_lines import bucket_title
from dynamics.plots.drawing.labels import EndLabel, band_note, epoch_axis, epoch_columns, label_line_ends
from dynamics.plots.drawing.lines import END_SIZE, signed
from dynamics.plots.drawing.notes import note_over, notes_of
from dynamics.plots.drawing.panels import given, in_panels, is_first, is_last, legend_over
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import INK, ArmStyle, arm_role, arm_styles

Rises = Source | Iterable[Source] | RiseCurve | Sequence[RiseCurve]

#: As many arms as can be told apart at a glance, with their bands.
MOST_ARMS = 3
_ROLES = ("baseline", "entrodrop", "random")
_ONE_SEED = str(about_one_seed(1))


def rebound(
    data: Rises,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    arms: Sequence[str] | None = None,
    buckets: Bucketing | int = 2,
    split: str = "validation",
) -> Plot:
    """Draw by how much the loss rose since the best epoch: one panel a bucket of tokens, one line an arm.

    Each arm has one best epoch, that of its lowest mean loss over all tokens, where its line begins at 0. What comes
    before is faint. Bands are 95 % intervals of the rise itself: paired within documents, and within seeds where an arm
    has two or more. All panels have the same limits.

    The best epoch of a noisy curve is too good to be true. The value that is subtracted is therefore cross-fitted:
    chosen on other seeds and other documents than it is measured on (`dynamics.analysis.rise_curves` says how). The
    number at the end of a line is the rise at the last epoch.

    Parameters
    ----------
    data : Study, Run, iterable of them, RiseCurve, or a sequence of these
    ax : Axes, optional
        Where to draw a single bucket.
    axes : sequence of Axes, optional
        Where to draw several buckets, one each; a new figure of the page's width otherwise.
    arms : sequence of str, optional
        Names of the arms to draw, in this order. Default: up to three, those called baseline, entrodrop and random
        first, then others in the order of the recipe. A note names the arms that are not drawn.
    buckets : Bucketing or int
        For records: 2 for the low and high half by the reference entropy of the training tokens.
    split : str
        For records.

    Returns
    -------
    Plot
        One panel per bucket.

    Raises
    ------
    InputError
        For an unknown arm, moving buckets, or if the number of axes is not that of the buckets.
    """
    curves, left_out = _chosen(data, arms, buckets, split)
    return in_panels(lambda found: _draw(curves, found, left_out), len(curves[0].labels), ax, axes, "buckets")


def as_rises(
    data: Rises, *, arms: Sequence[str] | None = None, buckets: Bucketing | int = 2, split: str = "validation"
) -> list[RiseCurve]:
    """Return the numbers of the rebound figure, of all arms or of those named."""
    items, ready = given(data, RiseCurve)
    if not ready:
        with warnings.catch_warnings():
            # The figure says so itself.
            warnings.filterwarnings("ignore", message=re.escape(_ONE_SEED), category=UserWarning)
            items = rise_curves(collect_arms(items), buckets=buckets, split=split)
    if arms is None:
        return items
    named = {curve.arm: curve for curve in items}
    unknown = [name for name in arms if name not in named]
    if unknown or not arms:
        hint = f"{unknown[0]!r}{nearest(unknown[0], named)}" if unknown else "named"
        raise InputError(f"no arm {hint}; there are {', '.join(named)}")
    return [named[name] for name in dict.fromkeys(arms)]


def shown(curves: Sequence[RiseCurve]) -> list[RiseCurve]:
    """Return the arms that are drawn unless the caller names others: up to `MOST_ARMS`, by role, in their order."""
    if len(curves) <= MOST_ARMS:
        return list(curves)
    by_role: dict[str, RiseCurve] = {}
    for exact in (True, False):
        for curve in curves:
            role = arm_role(curve.arm)
            if role in _ROLES and (curve.arm.lower() == role or not exact):
                by_role.setdefault(str(role), curve)
    first = list(by_role.values())
    kept = [*first, *(curve for curve in curves if not any(curve is each for each in first))][:MOST_ARMS]
    return [curve for curve in curves if any(curve is each for each in kept)]


def rebound_rows(curves: Sequence[RiseCurve]) -> list[dict[str, Any]]:
    """Return the numbers, one row an arm, bucket and epoch."""
    at = epoch_columns(curves)
    return [
        {
            "arm": curve.arm,
            "seeds": curve.n_seeds,
            "split": curve.split,
            "bucket": label,
            **at(curve, e),
            "rise": curve.rise.estimate[e, k],
            "low": curve.rise.low[e, k],
            "high": curve.rise.high[e, k],
            "over": curve.over,
            "best": int(curve.epochs[e] == curve.best),
            "since_best": int(curve.since_best[e]),
        }
        for curve in curves
        for k, label in enumerate(curve.labels)
        for e in range(len(curve.epochs))
    ]


def _chosen(
    data: Rises, arms: Sequence[str] | None, buckets: Bucketing | int, split: str
) -> tuple[list[RiseCurve], list[str]]:
    """Return the curves to draw, and the names of the arms that there was no room for."""
    curves = as_rises(data, arms=arms, buckets=buckets, split=split)
    if arms is not None:
        return curves, []
    kept = shown(curves)
    return kept, [curve.arm for curve in curves if not any(curve is each for each in kept)]


def _draw(curves: Sequence[RiseCurve], axes: Sequence[Axes], left_out: Sequence[str]) -> list[Axes]:
    drawn = [curve for curve in curves if curve.best >= 0]
    styles = arm_styles([curve.arm for curve in curves])
    labels = curves[0].labels
    low, high = _limits(drawn)
    handles: list[Any] = []
    for k, ax in enumerate(axes):
        ax.axhline(0.0, color=INK, linewidth=0.5, zorder=1)
        handles = [_line(ax, curve, k, styles[curve.arm]) for curve in drawn]
        epoch_axis(ax, max(curve.at[-1] for curve in curves), label=is_last(ax, axes))
        ax.set_ylim(low, high)
        title = bucket_title(labels[k], len(labels))
        if title:
            ax.set_title(title)
        if is_first(ax, axes):
            of = {"train": "training"}.get(curves[0].split, curves[0].split)
            ax.set_ylabel(f"Rise of {of} loss since\nbest epoch (nats per token)")
        if not drawn:
            ax.text(
                0.5, 0.5, "no arm has a finite loss\nat every epoch", transform=ax.transAxes, ha="center", va="center"
            )
    named = _label_ends(axes, drawn, styles)
    notes = _notes(curves, drawn, left_out)
    if named:
        note_over(axes, notes)
    else:
        legend_over(axes, handles, title=notes_of(axes, notes), handlelength=2.8)
    return list(axes)


def _line(ax: Axes, curve: RiseCurve, k: int, style: ArmStyle) -> Any:
    since = curve.since_best
    first = int(np.argmax(since))
    rise, low, high = (getattr(curve.rise, end)[:, k] for end in ("estimate", "low", "high"))
    at = curve.at
    ax.fill_between(at[since], low[since], high[since], color=style.color, alpha=0.15, linewidth=0)
    if since.sum() == 1:
        # A band of one epoch has no length.
        error = [[rise[first] - low[first]], [high[first] - rise[first]]]
        ax.errorbar(at[since], rise[since], error, color=style.color, linewidth=0.9, zorder=2)
    ax.plot(at[: first + 1], rise[: first + 1], color=style.color, linewidth=0.7, alpha=0.4, zorder=2)
    (line,) = ax.plot(
        at[since],
        rise[since],
        color=style.color,
        linestyle=style.linestyle,
        linewidth=1.4,
        marker=style.marker,
        markevery=[0],
        markersize=4.2,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=curve.arm,
        zorder=3,
    )
    return line


def _limits(drawn: Sequence[RiseCurve]) -> tuple[float, float]:
    """Return limits that hold all that comes after the best epochs, in every panel, and 0."""
    ends = [
        getattr(curve.rise, end)[curve.since_best].ravel() for curve in drawn for end in ("estimate", "low", "high")
    ]
    values = np.concatenate([np.zeros(1), *ends])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _label_ends(axes: Sequence[Axes], drawn: Sequence[RiseCurve], styles: dict[str, ArmStyle]) -> bool:
    """Write the last rise at the end of each line, with the arm's name in the last panel; False if names do not fit."""

    def ends(k: int, named: bool) -> list[EndLabel]:
        found = []
        for curve in drawn:
            last = float(curve.rise.estimate[-1, k])
            number = signed(last)
            words = f"{curve.arm} {number}" if named else number
            found.append(EndLabel(float(curve.at[-1]), last, words, styles[curve.arm].color))
        return found

    for k, ax in enumerate(axes[:-1]):
        label_line_ends(ax, ends(k, False), fontsize=END_SIZE)
    last = len(axes) - 1
    if not drawn or label_line_ends(axes[-1], ends(last, True), fontsize=END_SIZE):
        return True
    label_line_ends(axes[-1], ends(last, False), fontsize=END_SIZE)
    return False


def _notes(curves: Sequence[RiseCurve], drawn: Sequence[RiseCurve], left_out: Sequence[str]) -> list[str]:
    alone = [curve.arm for curve in drawn if curve.n_seeds == 1]
    models = "one seed" if len(alone) == len(drawn) else f"one seed of {', '.join(alone)}"
    diverged = [curve.arm for curve in curves if curve.best < 0]
    return [
        "marker: best epoch; number: rise since, cross-fitted" if drawn else "",
        f"band: {band_note([curve.over for curve in drawn])}" if drawn else "",
        f"{models}: best epoch chosen by the same model" if alone else "",
        f"diverged, not drawn: {', '.join(diverged)}" if diverged else "",
        f"{len(left_out)} more not drawn: {', '.join(left_out)}" if left_out else "",
    ]
