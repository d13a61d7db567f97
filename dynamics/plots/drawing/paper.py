"""Inks for the paper: what is drawn into a user's own axes is readable on its colour, dark or light.

Figures are drawn as for white paper. Where the axes have another colour, what was added is inked anew. Contrast is that
of WCAG 2.2 (definition of contrast ratio): 1 for one colour on itself, 21 for black on white. Its thresholds are 4.5
for text (success criterion 1.4.3) and 3 for graphics (1.4.11).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import SubFigure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

LINES, WORDS = 3.0, 4.5
# Below this contrast with white a colour is a tint of the paper: a grid, the filling of a histogram.
_TINT = 1.9

_WHITE, _BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)

Rgb = tuple[float, float, float]


def contrast(one: Any, other: Any) -> float:
    """Return the contrast ratio of two opaque colours, 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable(color: Any, papers: Sequence[Any], least: float) -> str:
    """Return the colour nearest to `color` that has the `least` contrast with every paper.

    It is mixed with white or with black, in steps of 2 %. Where no mixture reaches `least` on all papers, the one
    with the greatest contrast on the worst of them is returned.
    """
    own = np.asarray(to_rgba(color)[:3])
    best, best_contrast = str(to_hex(color)), 0.0
    for share in np.linspace(0.0, 1.0, 51):
        for end in (_BLACK, _WHITE):
            # As it will be written, with 8 bits a channel.
            mixed = str(to_hex(((1 - share) * own + share * np.asarray(end)).tolist()))
            worst = min(contrast(mixed, paper) for paper in papers)
            if worst >= least:
                return mixed
            if worst > best_contrast:
                best, best_contrast = mixed, worst
    return best


def paper_of(ax: Axes) -> Rgb:
    """Return the colour on which a panel's data are drawn: its own upon that of the figure, upon white."""
    around = paper_around(ax)
    # Without its frame a panel is not filled.
    return _over(ax.get_facecolor(), around) if ax.axison and ax.patch.get_visible() else around


def paper_around(ax: Axes) -> Rgb:
    """Return the colour on which a panel's labels and its legend above it are drawn, that of the figure."""
    below: Any = ax.figure
    faces = [below]
    while isinstance(below, SubFigure):
        below = below._parent  # type: ignore[attr-defined]
        faces.append(below)
    paper: Rgb = _WHITE
    for face in reversed(faces):
        paper = _over(face.get_facecolor(), paper) if face.patch.get_visible() else paper
    return paper


class Inks:
    """What a figure adds to given axes, from here on, and the inking of it.

    Parameters
    ----------
    axes : sequence of Axes
        As they are before the drawing.
    """

    def __init__(self, axes: Sequence[Axes]) -> None:
        self._axes = list(axes)
        self._panels = list(axes[0].figure.axes)
        self._there = {id(artist): artist for ax in self._axes for artist in _artists(ax)}

    def apply(self) -> None:
        """Give everything that was added a colour that can be read on the paper; on white all stays as it is."""
        for legend in self._axes[0].figure.legends:
            if id(legend) not in self._there:
                legend.set_frame_on(False)
        for ax in self._axes:
            inside, around = paper_of(ax), paper_around(ax)
            if inside == _WHITE and around == _WHITE:
                continue
            papers = list(dict.fromkeys((inside, around)))
            for artist in _artists(ax):
                if id(artist) in self._there:
                    continue
                self._there[id(artist)] = artist
                if isinstance(artist, Legend):
                    artist.set_frame_on(False)
                    _ink_legend(artist, papers, around)
                else:
                    _ink(artist, papers, inside)
            _ink_frame(ax, around)
        for bar in self._axes[0].figure.axes:
            if bar not in self._panels and paper_around(bar) != _WHITE:
                _ink_frame(bar, paper_around(bar))


def _artists(ax: Axes) -> list[Artist]:
    legends: list[Artist] = [*ax.figure.legends]
    return [*ax.get_children(), *legends]


def _ink(artist: Artist, papers: Sequence[Rgb], inside: Rgb) -> None:
    """Ink a line, an area, a mark or words that lie in a panel, and in the legend as `papers` say."""
    if isinstance(artist, Text):
        where = [papers[-1]] if _is_outside(artist) else [inside]
        artist.set_color(readable(artist.get_color(), where, WORDS))
    elif isinstance(artist, Line2D):
        for get, put in (
            (artist.get_markeredgecolor, artist.set_markeredgecolor),
            (artist.get_markerfacecolor, artist.set_markerfacecolor),
            (artist.get_color, artist.set_color),
        ):
            put(_inked(get(), papers, inside))
    elif isinstance(artist, Collection) and artist.get_array() is None:
        artist.set_edgecolor([_inked(each, papers, inside) for each in artist.get_edgecolor()])
        artist.set_facecolor([_inked(each, papers, inside) for each in artist.get_facecolor()])
    elif isinstance(artist, Patch):
        artist.set_edgecolor(_inked(artist.get_edgecolor(), papers, inside))
        artist.set_facecolor(_inked(artist.get_facecolor(), papers, inside))


def _inked(color: Any, papers: Sequence[Rgb], inside: Rgb) -> Any:
    """Return an ink that keeps its transparency; white is the paper, as of a hollow marker."""
    if isinstance(color, str) and color == "none":
        return color
    *own, alpha = to_rgba(color)
    if tuple(own) == _WHITE:
        return (*inside, alpha)
    # A tint of the paper, such as a grid, stays one.
    least = min(LINES, contrast(own, _WHITE))
    if least < _TINT:
        own = [0.5, 0.5, 0.5]
        return (*_mixed(inside, own, least), alpha)
    return (*to_rgba(readable(own, papers, LINES))[:3], alpha)


def _mixed(paper: Rgb, color: Any, wanted: float) -> Rgb:
    """Return the first mixture of the paper with a colour that has the wanted contrast with the paper."""
    for share in np.linspace(0.0, 1.0, 51):
        mixed = (1 - share) * np.asarray(paper) + share * np.asarray(color)
        if contrast(mixed, paper) >= wanted:
            break
    return tuple(mixed.tolist())


def _ink_legend(legend: Legend, papers: Sequence[Rgb], around: Rgb) -> None:
    for handle in legend.legend_handles:
        if handle is not None:
            _ink(handle, papers, around)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_color(readable(text.get_color(), [around], WORDS))


def _ink_frame(ax: Axes, around: Rgb) -> None:
    """Ink the labels of the axes and of ticks, which stand beside the panel."""
    for words in (ax.title, ax._left_title, ax._right_title, ax.xaxis.label, ax.yaxis.label):  # type: ignore[attr-defined]
        words.set_color(readable(words.get_color(), [around], WORDS))
    for name in ("x", "y"):
        axis = getattr(ax, f"{name}axis")
        for tick in axis.get_major_ticks(1):
            color = tick.label1.get_color()
            if contrast(color, around) < WORDS:
                ax.tick_params(axis=name, colors=readable(color, [around], WORDS))


def _is_outside(text: Text) -> bool:
    """Whether words at the end of a line stand beside the panel."""
    return getattr(text, "get_annotation_clip", lambda: None)() is False


def _over(color: Any, below: Rgb) -> Rgb:
    red, green, blue, alpha = to_rgba(color)
    return tuple(alpha * own + (1 - alpha) * under for own, under in zip((red, green, blue), below, strict=True))  # type: ignore[return-value]


def _luminance(color: Any) -> float:
    channels = np.asarray(to_rgba(color)[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
