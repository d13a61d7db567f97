"""The room that a panel has in a user's figure, and the fitting of the panel with all its words into it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from dynamics.plots.drawing.plot import root_figure

# Below this share of its height or width a panel shows little.
_SMALLEST = 0.3
# Pixels between what belongs to two panels.
_GAP = 1.0


class Territory:
    """Up to halfway to its neighbours, or to the edge of the figure, the room around a panel is its own.

    A figure with a layout engine (``layout="constrained"``) makes room by itself and is left alone.

    Parameters
    ----------
    axes : sequence of Axes
        A user's panels, before anything is drawn into them.
    """

    def __init__(self, axes: Sequence[Axes]) -> None:
        figure = root_figure(axes[0])
        self._axes = list(axes) if figure.get_layout_engine() is None else []
        self._before = [ax.get_window_extent().frozen() for ax in self._axes]
        self._room = [_room(ax) for ax in self._axes]
        self._legends = list(axes[0].figure.legends)
        self._panels = list(axes[0].figure.axes)

    def fit(self) -> None:
        """Make panels smaller until their labels, titles and legends lie in their room."""
        if not self._axes:
            return
        added = [each for each in self._axes[0].figure.legends if each not in self._legends]
        for ax, room in zip(self._axes, self._room, strict=True):
            for legend in added:
                room.y1 = min(room.y1, legend.get_window_extent().y0)
            for _ in range(3):
                _shrink(ax, room)
        for bar in self._axes[0].figure.axes:
            if bar not in self._panels:
                self._pull_in(bar)
        for ax, before in zip(self._axes, self._before, strict=True):
            after = ax.get_window_extent()
            if after.width < _SMALLEST * before.width or after.height < _SMALLEST * before.height:
                warnings.warn(
                    "the axes are too small for the labels and the legend of this figure: make the figure larger, "
                    "give it fewer panels, or draw fewer arms",
                    UserWarning,
                    stacklevel=5,
                )

    def _pull_in(self, bar: Axes) -> None:
        """Move a colour bar with its words to the left, into the room of the panels that it belongs to."""
        words, edge = bar.get_tightbbox(), max(room.x1 for room in self._room)
        over = 0.0 if words is None else (words.x1 - edge) / bar.figure.bbox.width
        if over <= 0:
            return
        last = max(ax.get_position().x1 for ax in self._axes)
        for each in (bar, *(ax for ax in self._axes if ax.get_position().x1 > last - 1e-6)):
            place = each.get_position()
            if each is bar:
                each.set_position((place.x0 - over, place.y0, place.width, place.height))
            else:
                each.set_position((place.x0, place.y0, max(place.width - over, 0.05 * place.width), place.height))


def _room(ax: Axes) -> Bbox:
    own, page = ax.get_window_extent(), ax.figure.bbox
    x0, y0, x1, y1 = page.x0, page.y0, page.x1, page.y1
    for other in ax.figure.axes:
        box = other.get_window_extent()
        beside = min(own.y1, box.y1) > max(own.y0, box.y0)
        above = min(own.x1, box.x1) > max(own.x0, box.x0)
        if beside and box.x0 >= own.x1:
            x1 = min(x1, (own.x1 + box.x0) / 2)
        if beside and box.x1 <= own.x0:
            x0 = max(x0, (own.x0 + box.x1) / 2)
        if above and box.y0 >= own.y1:
            y1 = min(y1, (own.y1 + box.y0) / 2)
        if above and box.y1 <= own.y0:
            y0 = max(y0, (own.y0 + box.y1) / 2)
    return Bbox([[x0 + _GAP, y0 + _GAP], [x1 - _GAP, y1 - _GAP]])


def _shrink(ax: Axes, room: Bbox) -> None:
    words = ax.get_tightbbox()
    if words is None:
        return
    over = (
        max(0.0, room.x0 - words.x0),
        max(0.0, room.y0 - words.y0),
        max(0.0, words.x1 - room.x1),
        max(0.0, words.y1 - room.y1),
    )
    if not any(over):
        return
    page, place = ax.figure.bbox, ax.get_position()
    left, bottom = place.x0 + over[0] / page.width, place.y0 + over[1] / page.height
    width = place.width - (over[0] + over[2]) / page.width
    height = place.height - (over[1] + over[3]) / page.height
    ax.set_position((left, bottom, max(width, 0.05 * place.width), max(height, 0.05 * place.height)))
