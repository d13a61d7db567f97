"""A curve so small that it stands in a line of text or in the cell of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
#: Stands in a line of text for a value that is NaN or infinite.
_GONE = "×"
_MOST_BARS = 24
_WIDTH, _HEIGHT, _MARGIN = 120.0, 24.0, 2.0


class Sparkline:
    """The values of a curve, drawn as bars in text and as a line in HTML.

    Parameters
    ----------
    values : sequence of float
        NaN and infinity are shown as × in text, and as a gap in the line.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = [float(value) for value in values]

    def __str__(self) -> str:
        values = _thinned(self.values)
        low, span = _range(values)
        bars = []
        for value in values:
            place = round((value - low) / span * (len(_BARS) - 1)) if math.isfinite(value) else None
            bars.append(_GONE if place is None else _BARS[place])
        return "".join(bars)

    def html(self) -> str:
        """Return an SVG picture in the colour of the text around it."""
        low, span = _range(self.values)
        step = (_WIDTH - 2 * _MARGIN) / max(1, len(self.values) - 1)
        pieces: list[list[str]] = [[]]
        for i, value in enumerate(self.values):
            if math.isfinite(value):
                y = _HEIGHT - _MARGIN - (value - low) / span * (_HEIGHT - 2 * _MARGIN)
                pieces[-1].append(f"{_MARGIN + i * step:.1f},{y:.1f}")
            elif pieces[-1]:
                pieces.append([])
        lines = "".join(
            f'<polyline points="{" ".join(piece if len(piece) > 1 else piece * 2)}"/>' for piece in pieces if piece
        )
        return (
            f'<svg role="img" aria-label="curve {self}" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" '
            f'viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" fill="none" stroke="currentColor" stroke-width="1.5" '
            f'stroke-linecap="round" stroke-linejoin="round">{lines}</svg>'
        )


def _thinned(values: list[float]) -> list[float]:
    """Return at most as many values as there is room for, evenly spaced, the first and the last among them."""
    if len(values) <= _MOST_BARS:
        return values
    return [values[round(i * (len(values) - 1) / (_MOST_BARS - 1))] for i in range(_MOST_BARS)]


def _range(values: list[float]) -> tuple[float, float]:
    """Return the lowest finite value and the span above it, which is never 0."""
    finite = [value for value in values if math.isfinite(value)]
    low = min(finite, default=0.0)
    return low, (max(finite, default=0.0) - low) or 1.0
