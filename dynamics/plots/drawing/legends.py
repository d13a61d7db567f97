"""Legends and titles fitted to the width that there is, measured in the font that is used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.transforms import ScaledTranslation

from dynamics.plots.drawing.notes import text_width
from dynamics.plots.drawing.plot import root_figure
from dynamics.plots.drawing.style import FAINT, NOTE_SIZE, is_ours

# Widths of a legend's parts, in sizes of its letters: matplotlib's defaults.
_BORDER, _TEXT_PAD = 0.4, 0.8
# Inches by which a figure of ours grows for a line of a legend and of its title.
_LINE, _NOTE_LINE = 0.15, 0.12


def broken(text: str, width: float, size: float) -> str:
    """Break text into lines of at most `width` points: after ``-_/+`` and spaces, else between any two letters."""
    if text_width(text, size) <= width:
        return text
    lines = [""]
    for part in re.findall(r"[^-_/+ ]+[-_/+ ]*|[-_/+ ]+", text):
        if lines[-1] and text_width((lines[-1] + part).rstrip(), size) > width:
            lines.append("")
        for letter in part:
            if lines[-1] and text_width((lines[-1] + letter).rstrip(), size) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(line.rstrip() for line in lines)


def fit_titles(axes: Sequence[Axes]) -> None:
    """Break titles of panels that are wider than their panel."""
    for ax in axes:
        width = 1.08 * _points(ax, ax.get_window_extent().width)
        size = float(ax.title.get_fontsize())
        lines = [broken(line, width, size) for line in ax.get_title().split("\n")]
        ax.title.set_text("\n".join(lines))


def legend_in(owner: Any, ax: Axes, handles: Sequence[Any], *, most: int, title: str | None, **how: Any) -> Legend:
    """Give a panel or a figure a legend with as many columns as fit, at most `most`; names that do not fit are broken.

    A figure of ours grows by what the legend needs, so that its panels keep their height.

    Parameters
    ----------
    owner : Axes, Figure or SubFigure
        What gets the legend.
    ax : Axes
        A panel of it.
    handles : sequence of artists
        With labels.
    most : int
        The largest number of columns.
    title : str or None
        A faint note above the entries.
    **how
        For matplotlib's ``legend``.
    """
    width = _width(owner, ax)
    size = FontProperties(size=matplotlib.rcParams["legend.fontsize"]).get_size_in_points()
    names, columns = _columns(
        [str(handle.get_label()) for handle in handles],
        width,
        size,
        most,
        how.get("handlelength", matplotlib.rcParams["legend.handlelength"]),
        how.get("columnspacing", matplotlib.rcParams["legend.columnspacing"]),
    )
    if title is not None:
        title = "\n".join(broken(line, width, NOTE_SIZE) for line in title.split("\n"))
    legend: Legend = owner.legend(
        handles=list(handles), labels=names, ncols=columns, title=title, title_fontsize=NOTE_SIZE, frameon=False, **how
    )
    legend.get_title().set_color(FAINT)
    # A task's pattern may have signs that are mathematics to matplotlib.
    legend.get_title().set_parse_math(False)
    figure = root_figure(ax)
    if is_ours(figure) and ax.figure is figure:
        figure.set_figheight(figure.get_figheight() + _growth(names, columns, above_one=owner is ax))
    return legend


def legend_over_title(ax: Axes, handles: Sequence[Any], *, title: str | None = None) -> None:
    """Put a legend above the title of a panel, however many lines that has."""
    fit_titles([ax])
    lifted = (ax.get_title().count("\n") + 1) * float(ax.title.get_fontsize()) * 1.3 + 4.0
    above = ax.transAxes + ScaledTranslation(0.0, lifted / 72.0, root_figure(ax).dpi_scale_trans)
    how: dict[str, Any] = {"bbox_to_anchor": (0.0, 1.0), "bbox_transform": above, "alignment": "left"}
    legend_in(ax, ax, handles, most=2, title=title, loc="lower left", borderaxespad=0.2, **how)


def _growth(names: Sequence[str], columns: int, *, above_one: bool) -> float:
    """Return how many inches a legend needs more than the height of a figure allows for: one line above several."""
    if not names:
        return 0.0
    lines = max(sum(name.count("\n") + 1 for name in column) for column in _split(names, columns))
    return _LINE * (lines if above_one else lines - 1)


def _columns(
    names: list[str], width: float, size: float, most: int, handle: float, spacing: float
) -> tuple[list[str], int]:
    """Return names, broken where they must be, and the number of columns."""
    entry = (handle + _TEXT_PAD) * size
    room = width - 2 * _BORDER * size
    for columns in range(min(most, len(names)), 0, -1):
        texts = sum(max(text_width(name, size) for name in column) for column in _split(names, columns))
        if texts + columns * entry + (columns - 1) * spacing * size <= room:
            return names, columns
    return [broken(name, room - entry, size) for name in names], 1


def _split(names: Sequence[str], columns: int) -> list[list[str]]:
    """Return the names by column, as matplotlib places them."""
    return [[names[i] for i in part] for part in np.array_split(np.arange(len(names)), columns)]


def _width(owner: Any, ax: Axes) -> float:
    """Return the points that a legend may be wide: of the figure, or of the panel."""
    if owner is not ax:
        return _points(ax, owner.bbox.width) - 2.0 * NOTE_SIZE
    figure = root_figure(ax)
    if is_ours(figure) and figure.axes == [ax]:
        # One panel alone: all but the labels of the y axis.
        return figure.get_figwidth() * 72.0 - 5.5 * float(matplotlib.rcParams["font.size"])
    return _points(ax, ax.get_window_extent().width)


def _points(ax: Axes, pixels: float) -> float:
    return pixels * 72.0 / root_figure(ax).dpi
