"""One line of an arm over epochs, and numbers as they are written beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dynamics.analysis.tokens.token_records import Floats
from dynamics.plots.drawing.style import MINUS, ArmStyle

_CROSS: dict[str, Any] = {"marker": "x", "markersize": 6.0, "markeredgewidth": 1.4, "zorder": 5}

#: Size in points of the numbers and names at the ends of lines.
END_SIZE = 7.0


def draw_divergence(ax: Axes, at: Floats, values: Floats, color: Any) -> None:
    """Mark the last epoch before a curve diverged with a cross, and let the axis reach to the last epoch."""
    ax.update_datalim(np.stack([at, np.zeros(len(at))], axis=1), updatey=False)
    ax.autoscale_view(scaley=False)
    last = int(np.argmin(np.isfinite(values))) - 1
    if last >= 0:
        ax.plot(at[last], values[last], color=color, **_CROSS)


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def draw_line(
    ax: Axes,
    arm: str,
    at: Floats,
    values: Floats,
    style: ArmStyle,
    *,
    band: tuple[Floats, Floats] | None,
    marked: list[int],
) -> Line2D:
    """Draw the line of an arm, with its band if it has one, and markers at the epochs of these indices."""
    if band is not None and np.isfinite(band[0]).any():
        ax.fill_between(at, *band, color=style.color, alpha=0.15, linewidth=0)
    (line,) = ax.plot(
        at,
        values,
        color=style.color,
        linestyle=style.linestyle,
        linewidth=1.3,
        # A line of one epoch has no length.
        marker=style.marker,
        markevery=[0] if len(at) == 1 else marked,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=arm,
        zorder=3,
    )
    if band is not None and len(at) == 1:
        error = [[values[0] - band[0][0]], [band[1][0] - values[0]]]
        ax.errorbar(at, values, error, color=style.color, linewidth=0.9, zorder=2)
    return line
