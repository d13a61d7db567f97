"""Notes above the panels of a figure: what markers and bands are, and what is not drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from dynamics.plots.drawing.plot import root_figure
from dynamics.plots.drawing.style import FAINT, NOTE_SIZE

# Renderers round the widths of letters to pixels.
_SLACK = 1.04
_HANDLE, _SPACING = 2.8, 1.6  # in units of the size of the text, as legends count
_PAD = 4.0  # points between a panel, its note and its title


def wrapped(notes: Sequence[str], width: float) -> str:
    """Return notes as lines that fit, each note beginning a line unless it fits behind the one before.

    Parameters
    ----------
    notes : sequence of str
        Joined by semicolons; empty ones are left out.
    width : float
        In points, for letters of `NOTE_SIZE`.
    """
    lines = [""]
    for note in filter(None, notes):
        joined = f"{lines[-1]}; {note}" if lines[-1] else note
        if _width(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for word in note.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if lines[-1] and _width(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return "\n".join(lines)


def note_over(axes: Sequence[Axes], notes: Sequence[str]) -> None:
    """Write notes above the panels, in lines that fit: of one panel above it, of several above all of them."""
    if len(axes) == 1:
        (ax,) = axes
        words = wrapped(notes, ax.get_window_extent().width * 72.0 / root_figure(ax).dpi)
        title = ax.get_title()
        if not title:
            ax.set_title(words, loc="left", fontsize=NOTE_SIZE, color=FAINT, parse_math=False)
            return
        # Titles at the left and in the middle have one height: the title is lifted over the note.
        height = (words.count("\n") + 1) * NOTE_SIZE * 1.25
        ax.set_title(title, pad=height + 2.0 * _PAD)
        how: dict[str, Any] = {"fontsize": NOTE_SIZE, "color": FAINT, "parse_math": False, "annotation_clip": False}
        ax.annotate(words, (0, 1), xytext=(0, _PAD), xycoords="axes fraction", textcoords="offset points", **how)
        return
    words = notes_of(axes, notes)
    if not words:
        return
    # A legend without entries: a constrained layout makes room for it.
    legend = root_figure(axes[0]).legend(
        handles=[], title=words, title_fontsize=NOTE_SIZE, loc="outside upper left", alignment="left", borderpad=0.2
    )
    legend.get_title().set_color(FAINT)
    legend.get_title().set_parse_math(False)


def notes_of(axes: Sequence[Axes], notes: Sequence[str]) -> str:
    """Return notes in lines of the figure's width, as the title of a legend above all panels."""
    return wrapped(notes, root_figure(axes[0]).get_figwidth() * 72.0 - 2.0 * NOTE_SIZE)


def legend_of_notes(axes: Sequence[Axes], handles: Sequence[Any], notes: Sequence[str]) -> None:
    """Put one legend with notes above all panels, in as many columns as the figure is wide enough for."""
    figure = root_figure(axes[0])
    legend = figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns_that_fit([str(handle.get_label()) for handle in handles], figure.get_figwidth() * 72.0),
        title=notes_of(axes, notes),
        title_fontsize=NOTE_SIZE,
        handlelength=_HANDLE,
        columnspacing=_SPACING,
    )
    legend.get_title().set_color(FAINT)
    legend.get_title().set_parse_math(False)


def columns_that_fit(texts: Sequence[str], width: float, most: int = 4) -> int:
    """Return the number of columns of a legend that is no wider than `width` points; at least 1."""
    size = legend_size()
    for n in range(min(most, len(texts)), 1, -1):
        columns = np.array_split(np.asarray(texts, dtype=object), n)
        widths = [max(text_width(str(text), size) for text in column) for column in columns]
        # Each entry has a handle and a space before its text, and the legend a border.
        if sum(widths) + size * ((_HANDLE + 0.8) * n + _SPACING * (n - 1) + 1.8) <= width:
            return n
    return 1


def make_room(figure: Figure, lines: int = 2) -> None:
    """Make a figure of ours higher by what notes and a legend over its panels have beyond so many lines."""
    for legend in figure.legends:
        notes = legend.get_title().get_text().count("\n") + 1 if legend.get_title().get_text() else 0
        texts = [text.get_text() for text in legend.get_texts()]
        rows = -(-len(texts) // columns_that_fit(texts, figure.get_figwidth() * 72.0))
        beyond = max(0, notes + rows - lines)
        figure.set_figheight(figure.get_figheight() + beyond * 1.4 * legend_size() / 72.0)


def legend_size() -> float:
    """Return the size of a legend's text in points, in the style that applies."""
    return float(FontProperties(size=matplotlib.rcParams["legend.fontsize"]).get_size_in_points())


def text_width(text: str, size: float) -> float:
    """Return the width of one line of text in points, in the font of the style that applies, with a little slack."""
    family, serif = (tuple(matplotlib.rcParams[key]) for key in ("font.family", "font.serif"))
    return _measured(text, family, serif) * size


def _width(text: str) -> float:
    return text_width(text, NOTE_SIZE)


@lru_cache(maxsize=4096)
def _measured(text: str, family: tuple[str, ...], serif: tuple[str, ...]) -> float:
    """Return the width of a text in units of its size; the families are what it depends on."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=10.0), False)
    return _SLACK * float(width) / 10.0
