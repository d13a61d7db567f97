"""What became of single tokens: shares of trajectory classes with intervals, and the cartography map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dynamics.analysis.estimands.trajectory_shares import CartographyMap, ClassShares, cartography, class_shares
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.trajectories import CLASSES
from dynamics.errors import InputError
from dynamics.plots.bucket_lines import bucket_title
from dynamics.plots.labels import legend_above, wrap_name
from dynamics.plots.panels import color_bar, given, in_panels, is_first, is_last, legend_over, panel_axes
from dynamics.plots.style import FAINT, INK, NOTE_SIZE, Style, arm_styles

Classes = Source | Iterable[Source] | ClassShares | Sequence[ClassShares]
Cartographies = Source | Iterable[Source] | CartographyMap | Sequence[CartographyMap]
Colored = Literal["n_tokens", "correctness"]

_MAP_LABELS: dict[Colored, str] = {
    "n_tokens": "Tokens",
    "correctness": "Share of epochs in which\nthe token was predicted right",
}


def plot_trajectory_classes(
    data: Classes,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    split: str = "validation",
    buckets: Bucketing | int = 1,
    n_resamples: int = 1000,
) -> list[Axes]:
    """Draw which share of tokens follows each class of trajectory, a row a class and one panel a bucket.

    Markers are the arms, bars their 95 % intervals (documents resampled).

    Parameters
    ----------
    data : Study, Run, iterable of them, ClassShares, or a sequence of these
    ax : Axes, optional
        Where to draw a single bucket.
    axes : sequence of Axes, optional
        Where to draw several buckets, one each; a new figure otherwise.
    split : str
        For records, as are the following.
    buckets : Bucketing or int
        1 for all tokens, 2 for the low and high half by reference entropy.
    n_resamples : int

    Returns
    -------
    list of Axes
        One a bucket.

    Raises
    ------
    InputError
        If the number of axes is not that of the buckets.
    """
    shares = as_class_shares(data, split=split, buckets=buckets, n_resamples=n_resamples)
    return in_panels(
        lambda found: _draw_classes(shares, found),
        len(shares[0].labels),
        ax,
        axes,
        "buckets",
        new=lambda style, n: trajectory_class_axes(style, n, len(shares)),
    )


def plot_cartography(
    data: Cartographies,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    color: Colored = "n_tokens",
    split: str = "train",
    bins: tuple[int, int] = (50, 50),
) -> list[Axes]:
    """Draw tokens by variability (x) and confidence (y) over epochs, one panel an arm.

    They are the standard deviation and the mean over epochs of the probability exp(-loss) that the model gave the
    token; the dotted line is the greatest deviation that a probability can have at each mean.
    The regions that Swayamdipta et al. 2020 (arXiv 2009.10795) name are written beside it, where no token can be.

    Parameters
    ----------
    data : Study, Run, iterable of them, CartographyMap, or a sequence of these
    ax : Axes, optional
        Where to draw a single arm; the colour bar takes its room from it.
    axes : sequence of Axes, optional
        Where to draw several arms, one each; a new figure otherwise.
    color : {"n_tokens", "correctness"}
        How many tokens there are, on a logarithmic scale, or how often they were predicted right.
    split : str
        For records, as is `bins`.
    bins : (int, int)

    Returns
    -------
    list of Axes
        One an arm.

    Raises
    ------
    InputError
        For an unknown colour, if the number of axes is not that of the arms, and if only epoch 0 is recorded.
    """
    if color not in _MAP_LABELS:
        raise InputError(f"unknown color {color!r}; use {' or '.join(_MAP_LABELS)}")
    maps = as_cartography(data, split=split, bins=bins)
    return in_panels(lambda found: _draw_cartography(maps, found, color), len(maps), ax, axes, "arms")


def trajectory_class_axes(style: Style, n: int, n_arms: int) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its `n` panels, high enough for five rows of so many arms."""
    rows = 0.35 + len(CLASSES) * 0.1 * n_arms
    return panel_axes(style, n, panel=max(1.75, rows), single=max(2.2, rows))


def as_class_shares(
    data: Classes, *, split: str = "validation", buckets: Bucketing | int = 1, n_resamples: int = 1000
) -> list[ClassShares]:
    """Return the numbers of the classes figure."""
    items, ready = given(data, ClassShares)
    return items if ready else class_shares(items, split=split, buckets=buckets, n_resamples=n_resamples)


def as_cartography(
    data: Cartographies, *, split: str = "train", bins: tuple[int, int] = (50, 50)
) -> list[CartographyMap]:
    """Return the numbers of the cartography map."""
    items, ready = given(data, CartographyMap)
    return items if ready else cartography(items, split=split, bins=bins)


def trajectory_class_rows(shares: Sequence[ClassShares]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm, bucket and class."""
    return [
        {
            "arm": arm.arm,
            "seeds": arm.n_seeds,
            "split": arm.split,
            "bucket": label,
            "class": name,
            "level": arm.level,
            "share": arm.share.estimate[k, c],
            "low": arm.share.low[k, c],
            "high": arm.share.high[k, c],
        }
        for arm in shares
        for k, label in enumerate(arm.labels)
        for c, name in enumerate(arm.classes)
    ]


def cartography_rows(maps: Sequence[CartographyMap]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm and bin that has tokens; one for the whole map where none has."""
    rows = []
    for each in maps:
        x_edges, y_edges = each.variability_edges, each.confidence_edges
        for x, y in np.argwhere(each.n_tokens > 0):
            place = x_edges[x], x_edges[x + 1], y_edges[y], y_edges[y + 1]
            rows.append(_bin_row(each, place, each.n_tokens[x, y], each.correctness[x, y]))
        if not each.n_tokens.any():
            # Every loss is NaN: the arm is not missing from the table.
            rows.append(_bin_row(each, (x_edges[0], x_edges[-1], y_edges[0], y_edges[-1]), 0.0, math.nan))
    return rows


def _bin_row(
    each: CartographyMap, place: tuple[float, float, float, float], tokens: float, correctness: float
) -> dict[str, Any]:
    return {
        "arm": each.arm,
        "seeds": each.n_seeds,
        "split": each.split,
        "variability_from": place[0],
        "variability_to": place[1],
        "confidence_from": place[2],
        "confidence_to": place[3],
        "tokens": tokens,
        "correctness": correctness,
    }


def _draw_classes(shares: Sequence[ClassShares], axes: Sequence[Axes]) -> list[Axes]:
    styles = arm_styles([arm.arm for arm in shares])
    classes = shares[0].classes
    # Arms side by side within a class's row.
    offsets = np.linspace(-0.28, 0.28, len(shares)) if len(shares) > 1 else np.zeros(1)
    ends = np.concatenate([end.ravel() for arm in shares for end in (arm.share.estimate, arm.share.high)])
    # No token has a class where a run diverged at once.
    top = float(ends[np.isfinite(ends)].max(initial=0.0)) or 1.0
    for k, ax in enumerate(axes):
        for arm, offset in zip(shares, offsets, strict=True):
            style = styles[arm.arm]
            y = np.arange(len(classes)) + offset
            ax.hlines(y, arm.share.low[k], arm.share.high[k], color=style.color, linewidth=1.2, zorder=2)
            ax.plot(
                arm.share.estimate[k],
                y,
                linestyle="none",
                marker=style.marker,
                color=style.color,
                markersize=3.6,
                markeredgecolor="white",
                markeredgewidth=0.3,
                zorder=3,
            )
        # Lines between classes keep the arms of one together.
        for c in range(1, len(classes)):
            ax.axhline(c - 0.5, color=FAINT, linewidth=0.3, zorder=1)
        ax.set_yticks(range(len(classes)), classes)
        ax.set_ylim(len(classes) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        # A little below zero too, so that markers at zero are whole.
        ax.set_xlim(-0.03 * top, 1.06 * top)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
        if is_last(ax, axes):
            ax.set_xlabel(f"{'Validation' if shares[0].split == 'validation' else 'Training'} tokens (%)")
        title = bucket_title(shares[0].labels[k], len(axes))
        if title:
            ax.set_title(title)
    handles = [
        Line2D([], [], linestyle="none", marker=each.marker, color=each.color, markersize=3.8, label=name)
        for name, each in styles.items()
    ]
    note = f"low: up to {shares[0].level:.2f} nats"
    if len(axes) == 1:
        legend_above(axes[0], handles, title=note)
    else:
        legend_over(axes, handles, title=note)
    return list(axes)


def _draw_cartography(maps: Sequence[CartographyMap], axes: Sequence[Axes], color: Colored) -> list[Axes]:
    drawn = [np.where(each.n_tokens > 0, getattr(each, color), np.nan) for each in maps]
    most = max((float(np.nanmax(values)) for values in drawn if np.isfinite(values).any()), default=1.0)
    norm: Normalize = Normalize(0.0, 1.0)
    if color == "n_tokens":
        # A mean over seeds may be below one token.
        least = min((float(np.nanmin(values)) for values in drawn if np.isfinite(values).any()), default=1.0)
        norm = LogNorm(least, max(most, 10 * least))
    mesh: Any = None
    for ax, each, values in zip(axes, maps, drawn, strict=True):
        mesh = ax.pcolormesh(
            each.variability_edges,
            each.confidence_edges,
            values.T,
            # The palest end away: a bin with one token stands out from the paper.
            cmap=_shades() if color == "n_tokens" else "viridis",
            norm=norm,
            edgecolors="face",
            linewidth=0.1,
            # Thousands of cells: as an image the files are a tenth as large.
            rasterized=True,
        )
        # No probability lies outside of 0 to 1, which bounds the deviation at each mean.
        bound = np.linspace(0.0, 1.0, 101)
        ax.plot(np.sqrt(bound * (1 - bound)), bound, color=FAINT, linewidth=0.6, linestyle=(0, (1, 1.5)))
        # Beyond that bound words cover no token.
        for y, text, where, turned in (
            (0.97, r"$\leftarrow$ easy to learn", "top", 0),
            (0.5, "ambiguous", "center", 90),
            (0.03, r"$\leftarrow$ hard to learn", "bottom", 0),
        ):
            words: dict[str, Any] = {"rotation": turned, "fontsize": NOTE_SIZE, "color": INK}
            ax.text(0.985, y, text, transform=ax.transAxes, ha="right", va=where, **words)
        if not each.n_tokens.any():
            # A run that diverged: an empty panel would look like a fault of the figure.
            ax.text(0.4, 0.5, "NaN", transform=ax.transAxes, ha="center", va="center", fontsize=NOTE_SIZE)
        ax.set_title(wrap_name(each.arm, 20))
        ax.set_xlim(0.0, 0.57)
        ax.set_ylim(0.0, 1.0)
        if is_last(ax, axes):
            ax.set_xlabel("Variability")
        if is_first(ax, axes):
            ax.set_ylabel("Confidence")
    label = _MAP_LABELS[color]
    if color == "n_tokens":
        label = f"{'Training' if maps[0].split == 'train' else 'Validation'} {label.lower()}"
    # Powers of ten would have exponents too small to read.
    color_bar(axes, mesh, label, format=FuncFormatter(lambda value, _: _short(value)))
    return list(axes)


def _short(value: float) -> str:
    """Return a number of tokens in few characters: 100, 10k, 1M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _shades() -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    palette = colormaps["viridis_r"]
    return LinearSegmentedColormap.from_list("tokens", palette(np.linspace(0.12, 1.0, 256)))
