"""What figure families share: grids of panels, colour bars, and lines of arms with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import as_sources
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError
from dynamics.plots.drawing.labels import epoch_axis
from dynamics.plots.drawing.legends import fit_titles, legend_in
from dynamics.plots.drawing.paper import Inks
from dynamics.plots.drawing.plot import Plot, root_figure
from dynamics.plots.drawing.style import INK, ArmStyle, Style, load_style
from dynamics.plots.drawing.territory import Territory


def given(data: Any, kind: type[Any]) -> tuple[list[Any], bool]:
    """Return data as a list, and whether all of it is of `kind`, the numbers that a figure draws."""
    items = as_sources(data, kind)
    return items, bool(items) and all(isinstance(item, kind) for item in items)


def panel_axes(style: Style, n: int, *, panel: float = 1.75, single: float = 2.2) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its panels: rows of up to four, fewer where the page is narrow.

    Parameters
    ----------
    style : Style
    n : int
        Panels. One alone makes a figure of one column's width.
    panel, single : float
        Height of a panel among several, and of one alone, inches.
    """
    across = min(n, max(2, int(style.full // 1.6)), 4)
    if n > across:
        # Rows of one length where that is possible: 6 as 3 + 3, not as 4 + 2.
        across = -(-n // -(-n // across))
    down = -(-n // across)
    figure: Figure = style.figure(
        column="half" if across == 1 else "full", height=0.45 + down * (panel if across > 1 else single)
    )
    grid = figure.subplots(down, across, sharex=False, sharey=True, squeeze=False)
    for spare in grid.flat[n:]:
        spare.remove()
    return figure, list(grid.flat[:n])


def chosen_axes(ax: Any, axes: Any, n: int, what: str) -> list[Axes] | None:
    """Return the axes that the caller gave, None if there are none; InputError if they are not `n` that can be used."""
    if ax is not None and axes is not None:
        raise InputError("both ax and axes are given; give one of them")
    if ax is not None:
        axes = [ax]
    if axes is None:
        return None
    found: list[Any] = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(found) != n:
        raise InputError(f"{n} {what} need {n} axes, and {len(found)} were given; pass axes=[...]")
    for each in found:
        kind = each.name if isinstance(each, Axes) else type(each).__name__
        if kind != "rectilinear":
            raise InputError(f"a figure is drawn into rectilinear axes, and {kind} was given; use plt.subplots()")
    if len({id(each) for each in found}) < n:
        raise InputError(f"the same axes are given more than once; {n} {what} need {n} axes")
    if len({id(root_figure(each)) for each in found}) > 1:
        raise InputError("the axes lie in more than one figure; give axes of one")
    return found


def in_panels(
    draw: Callable[[list[Axes]], list[Axes]],
    n: int,
    ax: Axes | None,
    axes: Sequence[Axes] | None,
    what: str,
    *,
    new: Callable[[Style, int], tuple[Figure, list[Axes]]] = panel_axes,
) -> Plot:
    """Draw into the axes that the caller gave; without, into those of a `new` figure in the library's style."""
    found = chosen_axes(ax, axes, n, what)
    return in_own_figure(lambda style: draw(new(style, n)[1])) if found is None else in_given(draw, found)


def in_panel(draw: Callable[[Axes], Axes], ax: Axes | None, *, height: float) -> Plot:
    """Draw into the axes that the caller gave; without, into a new figure of one column's width."""
    found = chosen_axes(ax, None, 1, "panels")
    if found is not None:
        return in_given(lambda axes: [draw(axes[0])], found)
    return in_own_figure(lambda style: [draw(style.figure(column="half", height=height).add_subplot())])


def in_given(draw: Callable[[list[Axes]], list[Axes]], axes: list[Axes]) -> Plot:
    """Draw into the user's axes, in inks that can be read on their colour and within the room that they have."""
    inks, territory = Inks(axes), Territory(axes)
    drawn = draw(axes)
    fit_titles(drawn)
    inks.apply()
    territory.fit()
    return Plot(drawn, own=False)


def in_own_figure(draw: Callable[[Style], list[Axes]]) -> Plot:
    """Draw into a new figure in the library's style, which pyplot knows from then on.

    `draw` takes the style, makes one figure by `Style.figure`, and returns the panels.
    """
    from matplotlib import pyplot

    # Loads the backend before the style applies: Jupyter's changes settings, which leaving the style would undo.
    pyplot.draw_if_interactive()  # type: ignore[no-untyped-call]
    before = set(pyplot.get_fignums())
    style = replace(load_style(), shown=True)
    try:
        with style.context():
            drawn = draw(style)
            fit_titles(drawn)
            return Plot(drawn, own=True)
    except BaseException:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)
        raise


def is_first(ax: Axes, axes: Sequence[Axes]) -> bool:
    """Whether none of `axes` in the same grid lies to the left, so that the y axis is labelled here."""
    here = ax.get_subplotspec()
    return here is None or not any(
        other.rowspan.start == here.rowspan.start and other.colspan.start < here.colspan.start
        for other in _beside(here, axes)
    )


def is_last(ax: Axes, axes: Sequence[Axes]) -> bool:
    """Whether none of `axes` in the same grid lies below, so that the x axis is labelled here."""
    here = ax.get_subplotspec()
    return here is None or not any(
        other.colspan.start == here.colspan.start and other.rowspan.start > here.rowspan.start
        for other in _beside(here, axes)
    )


def _beside(here: SubplotSpec, axes: Sequence[Axes]) -> list[SubplotSpec]:
    places = [other.get_subplotspec() for other in axes]
    return [place for place in places if place is not None and place.get_gridspec() is here.get_gridspec()]


def legend_over(axes: Sequence[Axes], handles: Sequence[Any], *, title: str | None = None, **how: Any) -> None:
    """Put the one legend of several panels above all of them, in at most four columns."""
    # "outside" makes room in a constrained layout, which is what a figure of ours has.
    legend_in(axes[0].figure, axes[0], handles, most=4, title=title, loc="outside upper center", **how)


def color_bar(axes: Sequence[Axes], mappable: Any, label: str, **how: Any) -> None:
    """Put one colour bar at the right of panels that share their colours."""
    bar = axes[0].figure.colorbar(
        mappable, ax=list(axes), pad=0.02, aspect=22, fraction=0.06 if len(axes) > 1 else 0.1, **how
    )
    bar.set_label(label)
    outline: Any = bar.outline
    outline.set_linewidth(0.5)


@dataclass(frozen=True, slots=True)
class ArmLine:
    """A value of an arm over epochs: arrays of shape (epoch,); `epochs` are the passes over the data."""

    arm: str
    epochs: Floats
    value: Floats
    low: Floats
    high: Floats


def arm_line(arm: str, epochs: Floats, values: Interval, k: int) -> ArmLine:
    """Return bucket `k` of an arm's (epoch, bucket) values."""
    return ArmLine(arm, epochs, values.estimate[:, k], values.low[:, k], values.high[:, k])


def draw_arm_lines(ax: Axes, lines: Sequence[ArmLine], styles: dict[str, ArmStyle], *, label: bool = True) -> list[Any]:
    """Draw lines of arms over epochs with their bands, and a line at 0; returns the handles of a legend.

    `label` tells whether the x axis gets its words.
    """
    handles = []
    ax.axhline(0.0, color=INK, linewidth=0.5, zorder=1)
    for line in lines:
        style = styles[line.arm]
        if np.isfinite(line.low).any():
            there = np.isfinite(line.low) & np.isfinite(line.high)
            ax.fill_between(line.epochs, line.low, line.high, where=there, color=style.color, alpha=0.15, linewidth=0)
        if len(line.epochs) == 1:
            # A line and a band of one epoch have no length.
            error = [line.value - line.low, line.high - line.value]
            ax.errorbar(line.epochs, line.value, error, color=style.color, linewidth=0.9, zorder=2)
        every = max(1, round(len(line.epochs) / 6))
        handles += ax.plot(
            line.epochs,
            np.where(np.isfinite(line.value), line.value, np.nan),
            color=style.color,
            linestyle=style.linestyle,
            linewidth=1.3,
            marker=style.marker,
            # The last epoch has a marker always.
            markevery=((len(line.epochs) - 1) % every, every),
            markersize=3.6,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=line.arm,
            zorder=3,
        )
    epoch_axis(ax, max(line.epochs[-1] for line in lines), label=label)
    return handles
