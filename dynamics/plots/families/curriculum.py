"""The curriculum figure: dropout strength over training, and what each arm came to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from pydantic import ValidationError

from dynamics.analysis.estimands.summary import ArmSummary, arm_summary, dropped_share_by_epoch
from dynamics.analysis.sums.arms import Arm, Source, as_sources, collect_arms
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError
from dynamics.plots.drawing.labels import band_note, epoch_axis, legend_above, named_after
from dynamics.plots.drawing.legends import broken
from dynamics.plots.drawing.panels import given, in_panel
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import FAINT, INK, NOTE_SIZE, ArmStyle, Style, arm_styles
from dynamics.records.reader import Run
from dynamics.regularizers.registry import setting
from dynamics.regularizers.schedules import ScheduleSettings, strength

_SHARED = "#8F8F8F"

Quantity = Literal["final", "rebound"]

_TITLES: dict[Quantity, str] = {"final": "Final", "rebound": "Rebound"}


@dataclass(frozen=True, slots=True)
class ArmCurriculum:
    """The dropout of one arm over training.

    Attributes
    ----------
    arm, n_seeds
    schedule : str
        Its name and peak, such as ``linear to 0.15``.
    epochs, ratio : ndarray, shape (point,)
        The share of predicted tokens that the recipe asks for, over training in epochs.
    measured_epochs, measured : ndarray, shape (epoch,)
        Middle of each epoch (of a cut one, of what there is of it), and the share that was dropped in it, the mean
        over seeds.
    """

    arm: str
    n_seeds: int
    schedule: str
    epochs: Floats
    ratio: Floats
    measured_epochs: Floats
    measured: Floats


def curriculum(data: Source | Iterable[Source] | Sequence[ArmCurriculum], *, ax: Axes | None = None) -> Plot:
    """Draw the strength of token dropout over training: asked for (lines) and measured (markers).

    Arms that ask for the same (controls matched to EntroDrop) share one grey line.

    Parameters
    ----------
    data : Study, Run, iterable of them, or sequence of ArmCurriculum
    ax : Axes, optional
        Where to draw; a new figure of one column's width otherwise.

    Returns
    -------
    Plot
        One panel.

    Raises
    ------
    InputError
        If no arm drops tokens.
    """
    curricula = as_curricula(data)
    if not curricula:
        raise InputError("no arm drops tokens on a schedule, so there is no curriculum to draw")
    return in_panel(lambda found: _draw_strength(curricula, found), ax, height=2.2)


def outcomes(
    data: Source | Iterable[Source] | Sequence[ArmSummary],
    *,
    quantity: Quantity = "final",
    ax: Axes | None = None,
) -> Plot:
    """Draw what each arm came to: final validation loss or cross-fitted rebound, one row an arm.

    Large markers are the average over seeds with its 95 % interval, over seeds and documents where an arm has two
    seeds or more; small ticks are the final losses of single seeds. The rebound is cross-fitted.

    Parameters
    ----------
    data : Study, Run, iterable of them, or sequence of ArmSummary
    quantity : {"final", "rebound"}
    ax : Axes, optional
        Where to draw; a new figure of one column's width otherwise.

    Returns
    -------
    Plot
        One panel.

    Raises
    ------
    InputError
        For an unknown quantity.
    """
    if quantity not in _TITLES:
        raise InputError(f"unknown quantity {quantity!r}; use final or rebound")
    summaries = as_summaries(data)
    height = 0.95 + _rows_height(outcome_names(summaries))
    return in_panel(lambda found: _draw_outcomes(summaries, found, quantity), ax, height=height)


def as_curricula(data: Source | Iterable[Source] | Sequence[ArmCurriculum]) -> list[ArmCurriculum]:
    """Return the dropout strength of every arm that has one, from its recipe and its metrics."""
    items = as_sources(data, ArmCurriculum)
    if all(isinstance(item, ArmCurriculum) for item in items):
        return items
    found = []
    for arm in collect_arms(items):
        run = arm.runs[0]
        if not run.manifest["total_steps"]:
            continue
        for settings in run.config.get("regularizers") or []:
            if None not in (setting(settings, "schedule"), setting(settings, "ratio")):
                found.append(_curriculum(arm, run, settings))
    return found


def as_summaries(
    data: Source | Iterable[Source] | Sequence[ArmSummary],
) -> list[ArmSummary]:
    """Return the outcomes of the curriculum figure."""
    items, ready = given(data, ArmSummary)
    return items if ready else arm_summary(items)


def outcome_names(summaries: Sequence[ArmSummary]) -> list[str]:
    """Return the names of the outcomes' rows: those of the arms, with their passes where they ended after different."""
    return named_after([arm.arm for arm in summaries], [arm.final_at for arm in summaries])


def curriculum_axes(style: Style, names: Sequence[str], n_schedules: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its panels: strength above, final loss and rebound of the named rows below."""
    # The legend has two columns: a line for each schedule, and the markers.
    upper = 1.7 + 0.15 * (1 + n_schedules // 2)
    lower = 0.8 + _rows_height(names)
    figure: Figure = style.figure(column="half", height=upper + lower)
    # Two subfigures, so that long names of arms below do not narrow the panel above.
    halves: Any = figure.subfigures(2, 1, height_ratios=[upper, lower])
    above, below = halves
    # The last tick of one panel stays away from the first of the next.
    return figure, [above.subplots(), *below.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.12})]


def schedules(curricula: Sequence[ArmCurriculum]) -> list[list[ArmCurriculum]]:
    """Return the arms that ask for the same share at every moment together, in their order."""
    groups: dict[tuple[bytes, bytes], list[ArmCurriculum]] = {}
    for each in curricula:
        groups.setdefault((each.epochs.tobytes(), each.ratio.tobytes()), []).append(each)
    return list(groups.values())


def draw_curriculum(curricula: Sequence[ArmCurriculum], summaries: Sequence[ArmSummary], axes: Sequence[Axes]) -> None:
    """Draw all three panels."""
    # The rows below name the arms by colour and marker: no second legend.
    _draw_strength(curricula, axes[0], arm_styles([summary.arm for summary in summaries]), name_arms=False)
    _draw_outcomes(summaries, axes[1], "final")
    _draw_outcomes(summaries, axes[2], "rebound")
    axes[2].tick_params(labelleft=False)
    note = f"bar: {band_note([summary.over for summary in summaries])}; tick: a seed"
    axes[1].figure.supxlabel(note, fontsize=NOTE_SIZE, color=FAINT)


def curriculum_rows(curricula: Sequence[ArmCurriculum], summaries: Sequence[ArmSummary]) -> list[dict[str, Any]]:
    """Return the drawn numbers; `quantity` tells what a row is."""
    any_cut = any(arm.final_at != arm.final_epoch for arm in summaries)

    def row(
        arm: str,
        quantity: str,
        epoch: Any,
        value: float,
        low: Any = "",
        high: Any = "",
        over: str = "",
        seed: Any = "",
        passes: float | None = None,
    ) -> dict[str, Any]:
        return {
            "arm": arm,
            "quantity": quantity,
            "epoch": epoch,
            # What lies within epochs is at its passes already.
            **({"passes": epoch if passes is None else passes} if any_cut else {}),
            "value": value,
            "low": low,
            "high": high,
            "over": over,
            "seed_index": seed,
        }

    rows = []
    for each in curricula:
        rows += [row(each.arm, "ratio", x, y) for x, y in zip(each.epochs, each.ratio, strict=True)]
        measured = zip(each.measured_epochs, each.measured, strict=True)
        rows += [row(each.arm, "dropped_share", x, y) for x, y in measured]
    for arm in summaries:
        at = arm.final_at
        rows.append(row(arm.arm, "final_loss", arm.final_epoch, *_outcome(arm, "final"), arm.over, passes=at))
        rows.append(row(arm.arm, "rebound", arm.final_epoch, *_outcome(arm, "rebound"), arm.over, passes=at))
        by_seed = enumerate(arm.final_by_seed)
        rows += [row(arm.arm, "final_loss_of_seed", arm.final_epoch, value, seed=i, passes=at) for i, value in by_seed]
    return rows


def _curriculum(arm: Arm, run: Run, settings: dict[str, Any]) -> ArmCurriculum:
    written = setting(settings, "schedule")
    try:
        schedule = ScheduleSettings.model_validate({"name": written} if isinstance(written, str) else written)
    except (ValidationError, TypeError) as error:
        raise InputError(f"{run.path}/config.yaml: schedule {written!r} is not one: {error}") from error
    total = run.manifest["total_steps"] / run.manifest["steps_per_epoch"]
    progress = np.linspace(0.0, 1.0, 201)
    # Both sides of each jump, at one place.
    progress = np.sort(np.append(progress, np.ravel(schedule.jumps)).clip(0, 1))
    ratio = float(setting(settings, "ratio"))
    measured = dropped_share_by_epoch(arm)
    return ArmCurriculum(
        arm.name,
        len(arm.runs),
        _named(schedule, ratio),
        progress * total,
        ratio * np.array([strength(schedule, p) for p in progress]),
        measured[:, 0],
        measured[:, 1],
    )


def _named(schedule: ScheduleSettings, ratio: float) -> str:
    if schedule.name == "constant":
        return f"constant {ratio:g}"
    way = "from" if schedule.decreasing else "to"
    stairs = "" if schedule.stairs is None else f", {schedule.stairs} stairs"
    return f"{schedule.name} {way} {ratio:g}{stairs}"


def _draw_strength(
    curricula: Sequence[ArmCurriculum],
    ax: Axes,
    styles: dict[str, ArmStyle] | None = None,
    *,
    name_arms: bool = True,
) -> Axes:
    styles = styles or arm_styles([each.arm for each in curricula])
    measured = Line2D([], [], color=_SHARED, marker="o", markersize=3.4, linestyle="none", label="measured")
    # Where rows of a panel below name the arms, the legend names the schedules.
    handles = [Line2D([], [], color=_SHARED, linewidth=1.3, label="asked for"), measured] if name_arms else []
    for group in schedules(curricula):
        shared = len(group) > 1
        first = group[0]
        line: Any
        color, line = (_SHARED, "solid") if shared else (styles[first.arm].color, styles[first.arm].linestyle)
        ax.plot(first.epochs, first.ratio, color=color, linestyle=line, linewidth=1.3, zorder=2)
        if not name_arms:
            handles.append(Line2D([], [], color=color, linestyle=line, linewidth=1.3, label=first.schedule))
        for i, each in enumerate(group):
            style = styles[each.arm]
            # Matched arms have equal shares: smaller markers upon larger ones show all of them, each in its place.
            ax.plot(
                each.measured_epochs,
                each.measured,
                linestyle="none",
                marker=style.marker,
                color=style.color,
                markersize=3.0 + 5.0 * (1.0 - (i + 1) / len(group)) if shared else 3.4,
                markeredgecolor="white",
                markeredgewidth=0.35,
                zorder=3,
            )
            if name_arms:
                handles.append(
                    Line2D(
                        [],
                        [],
                        color=style.color,
                        marker=style.marker,
                        markersize=3.6,
                        linestyle="none" if shared else line,
                        linewidth=1.3,
                        label=f"{each.arm}: {each.schedule}",
                    )
                )
    ax.set_ylabel("Tokens dropped (%)")
    top = max(float(np.max(np.append(each.measured, each.ratio))) for each in curricula)
    # A little below zero too, so that markers at zero are whole.
    ax.set_ylim(-0.03 * top, 1.08 * top)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
    epoch_axis(ax, max(each.epochs[-1] for each in curricula))
    legend_above(ax, handles if name_arms else [*handles, measured])
    return ax


def _row_name(name: str) -> str:
    size = FontProperties(size=matplotlib.rcParams["ytick.labelsize"]).get_size_in_points()
    # A third of a narrow figure.
    return broken(name, 11.5 * size, size)


def _rows_height(names: Sequence[str]) -> float:
    """Return the height of a row each, in inches: all as high as the name that breaks into most lines."""
    lines = max(_row_name(name).count("\n") + 1 for name in names)
    return (0.05 + 0.15 * lines) * len(names)


def _outcome(arm: ArmSummary, quantity: Quantity) -> tuple[float, float, float]:
    """Return the value with its interval. The rebound is the cross-fitted one: the plain one is biased upward."""
    if quantity == "final":
        return arm.final, arm.final_low, arm.final_high
    return arm.rebound_cross_fitted, arm.rebound_cross_fitted_low, arm.rebound_cross_fitted_high


def _draw_outcomes(summaries: Sequence[ArmSummary], ax: Axes, quantity: Quantity) -> Axes:
    styles = arm_styles([summary.arm for summary in summaries])
    for y, arm in enumerate(summaries):
        style = styles[arm.arm]
        value, low, high = _outcome(arm, quantity)
        if not np.isfinite(value):
            # A run that diverged: an empty row would look like a fault of the figure.
            place = ax.get_yaxis_transform()
            ax.text(0.97, y, "diverged", transform=place, va="center", ha="right", fontsize=NOTE_SIZE)
            continue
        ax.plot([low, high], [y, y], color=style.color, linewidth=1.4, zorder=2, solid_capstyle="butt")
        ax.plot(
            value,
            y,
            marker=style.marker,
            color=style.color,
            markersize=4.2,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=3,
        )
        # Of single seeds the plain rebound alone is known, which lies higher for being plain.
        if quantity == "final" and arm.n_seeds > 1:
            ax.plot(
                arm.final_by_seed,
                np.full(len(arm.final_by_seed), y + 0.3),
                linestyle="none",
                marker="|",
                color=style.color,
                markersize=3,
                markeredgewidth=0.6,
                zorder=2,
            )
    if not any(np.isfinite(_outcome(arm, quantity)[0]) for arm in summaries):
        ax.set_xticks([])
    if quantity == "rebound":
        ax.axvline(0.0, color=INK, linewidth=0.5, zorder=1)
    ax.set_yticks(range(len(summaries)), [_row_name(name) for name in outcome_names(summaries)])
    ax.set_ylim(len(summaries) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_title(_TITLES[quantity])
    ax.set_xlabel("Validation loss\n(nats per token)")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    ax.xaxis.grid(True, linewidth=0.4, color="0.88")
    ax.set_axisbelow(True)
    return ax
