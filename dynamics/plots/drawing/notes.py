"""Notes above the panels of a figure: what markers and bands are, and what is not drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from dynamics.plots.drawing.plot import root_figure
from dynamics.plots.drawing.style import FAINT, NOTE_SIZE, is_ours

# Renderers round the widths of letters to pixels.
_SLACK = 1.04
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
        words = wrapped(notes, _points(ax, ax.get_window_extent().width))
        title = ax.get_title()
        if not title:
            ax.set_title(words, loc="left", fontsize=NOTE_SIZE, color=FAINT, parse_math=False)
            return
        # Titles at the left and in the middle have one height: the title is lifted over the note.
        height = (words.count("\n") + 1) * NOTE_SIZE * 1.45
        ax.set_title(title, pad=height + 2.0 * _PAD)
        how: dict[str, Any] = {"fontsize": NOTE_SIZE, "color": FAINT, "parse_math": False, "annotation_clip": False}
        ax.annotate(words, (0, 1), xytext=(0, _PAD), xycoords="axes fraction", textcoords="offset points", **how)
        return
    words = notes_of(axes, notes)
    if not words:
        return
    # A legend without entries: a constrained layout makes room for it.
    legend = axes[0].figure.legend(
        handles=[], title=words, title_fontsize=NOTE_SIZE, loc="outside upper left", alignment="left", borderpad=0.2
    )
    legend.get_title().set_color(FAINT)
    legend.get_title().set_parse_math(False)
    figure = root_figure(axes[0])
    if is_ours(figure):
        # A figure allows for one line.
        figure.set_figheight(figure.get_figheight() + words.count("\n") * 1.25 * NOTE_SIZE / 72.0)


def notes_of(axes: Sequence[Axes], notes: Sequence[str]) -> str:
    """Return notes in lines of the figure's width, as the title of a legend above all panels."""
    return wrapped(notes, figure_width(axes[0]) - 2.0 * NOTE_SIZE)


def figure_width(ax: Axes) -> float:
    """Return the width in points of the figure, or part of one, that a panel lies in."""
    return _points(ax, float(ax.figure.bbox.width))


def _points(ax: Axes, pixels: float) -> float:
    return pixels * 72.0 / root_figure(ax).dpi


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
