"""What became of single tokens: shares of trajectory classes with intervals, and the cartography map."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dynamics.analysis.estimands.trajectory_shares import (
    ONE_SEED,
    CartographyMap,
    ClassShares,
    class_shares,
)
from dynamics.analysis.estimands.trajectory_shares import (
    cartography as _cartography,
)
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.trajectories import CLASSES
from dynamics.errors import InputError
from dynamics.plots.drawing.class_rows import CHANGES, SHARES, Pair, draw_class_rows
from dynamics.plots.drawing.labels import wrap_name
from dynamics.plots.drawing.panels import color_bar, given, in_panels, is_first, is_last, panel_axes
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import FAINT, INK, NOTE_SIZE, Style

Classes = Source | Iterable[Source] | ClassShares | Sequence[ClassShares]
Cartographies = Source | Iterable[Source] | CartographyMap | Sequence[CartographyMap]
Colored = Literal["n_tokens", "correctness"]

_MAP_LABELS: dict[Colored, str] = {
    "n_tokens": "Tokens",
    "correctness": "Share of epochs in which\nthe token was predicted right",
}


def trajectory_classes(
    data: Classes,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    split: str = "validation",
    buckets: Bucketing | int = 1,
) -> Plot:
    """Draw which share of tokens follows each class of trajectory, a row a class and one panel a bucket.

    Markers are the arms: hollow the share of tokens that one seed's losses put into the class, filled the share that is
    of the class in another seed too, with 95 % intervals over documents. Of one seed there is the first alone,
    and the legend says that nothing validates it.

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

    Returns
    -------
    Plot
        One panel per bucket.

    Raises
    ------
    InputError
        If the number of axes is not that of the buckets.
    """
    return _class_rows(as_class_shares(data, split=split, buckets=buckets), SHARES, ax, axes)


def class_changes(
    data: Classes,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    split: str = "validation",
    buckets: Bucketing | int = 1,
) -> Plot:
    """Draw by how much the loss of each class's tokens changed, a row a class and one panel a bucket.

    Hollow markers are the mean change by which a seed chose the tokens (of rebounding ones the rise since their lowest
    loss), filled ones that of the same tokens between the same epochs in the other seeds, with 95 % intervals
    over documents: what lies between them is the winner's curse.

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

    Returns
    -------
    Plot
        One panel per bucket.

    Raises
    ------
    InputError
        If the number of axes is not that of the buckets.
    """
    return _class_rows(as_class_shares(data, split=split, buckets=buckets), CHANGES, ax, axes)


def _class_rows(shares: Sequence[ClassShares], pair: Pair, ax: Axes | None, axes: Sequence[Axes] | None) -> Plot:
    return in_panels(
        lambda found: draw_class_rows(shares, found, pair),
        len(shares[0].labels),
        ax,
        axes,
        "buckets",
        new=lambda style, n: trajectory_class_axes(style, n, len(shares)),
    )


def draw_trajectory_classes(shares: Sequence[ClassShares], style: Style) -> Figure:
    """Return the figure of both: shares above, changes below, a column a bucket, and one legend."""
    n = len(shares[0].labels)
    figure: Figure = style.figure(column="full", height=0.45 + 2 * max(1.75, _rows_height(len(shares))))
    above, below = figure.subplots(2, n, sharex=False, sharey=True, squeeze=False)
    draw_class_rows(shares, list(above), SHARES)
    draw_class_rows(shares, list(below), CHANGES, legend=False)
    return figure


def cartography(
    data: Cartographies,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    color: Colored = "n_tokens",
    split: str = "train",
    bins: tuple[int, int] = (50, 50),
) -> Plot:
    """Draw tokens by variability (x) and confidence (y) over epochs, one panel an arm.

    They are the standard deviation and the mean over epochs of the probability exp(-loss) that the model gave the
    token; the dotted line is the greatest deviation that a probability can have at each mean.
    Where there are several seeds the axes say how far these agree on a token, the least correlation of all arms.
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
    Plot
        One panel per arm.

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
    rows = _rows_height(n_arms)
    return panel_axes(style, n, panel=max(1.75, rows), single=max(2.2, rows))


def _rows_height(n_arms: int) -> float:
    return 0.35 + len(CLASSES) * 0.1 * n_arms


def as_class_shares(data: Classes, *, split: str = "validation", buckets: Bucketing | int = 1) -> list[ClassShares]:
    """Return the numbers of the classes figure. That one seed validates nothing stands in the figure and its CSV."""
    items, ready = given(data, ClassShares)
    if ready:
        return items
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{re.escape(ONE_SEED)}", category=UserWarning)
        return class_shares(items, split=split, buckets=buckets)


def as_cartography(
    data: Cartographies, *, split: str = "train", bins: tuple[int, int] = (50, 50)
) -> list[CartographyMap]:
    """Return the numbers of the cartography map."""
    items, ready = given(data, CartographyMap)
    return items if ready else _cartography(items, split=split, bins=bins)


def trajectory_class_rows(shares: Sequence[ClassShares]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm, bucket and class: each raw one with its validated one beside it.

    Of an arm with one seed `validated` is false, and what other seeds would say is NaN.
    """
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
            "over": "documents",
            "validated": int(arm.note is None),
            **_columns("share_in_two_seeds", arm.share_in_two, k, c),
            **_columns("confirmed", arm.confirmed, k, c),
            "confirmed_by_chance": arm.by_chance[k, c],
            **_columns("change", arm.change, k, c),
            **_columns("change_in_other_seeds", arm.change_elsewhere, k, c),
        }
        for arm in shares
        for k, label in enumerate(arm.labels)
        for c, name in enumerate(arm.classes)
    ]


def _columns(name: str, values: Interval, k: int, c: int) -> dict[str, float]:
    ends = {"": values.estimate, "_low": values.low, "_high": values.high}
    return {f"{name}{end}": float(of[k, c]) for end, of in ends.items()}


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
        "variability_agreement": each.variability_agreement,
        "confidence_agreement": each.confidence_agreement,
    }


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
            ax.text(0.25, 0.5, "diverged", transform=ax.transAxes, ha="center", va="center", fontsize=NOTE_SIZE)
        ax.set_title(wrap_name(each.arm, 20))
        ax.set_xlim(0.0, 0.57)
        ax.set_ylim(0.0, 1.0)
        if is_last(ax, axes):
            ax.set_xlabel("Variability" + _agreement([each.variability_agreement for each in maps]))
        if is_first(ax, axes):
            ax.set_ylabel("Confidence" + _agreement([each.confidence_agreement for each in maps]))
    label = _MAP_LABELS[color]
    if color == "n_tokens":
        label = f"{'Training' if maps[0].split == 'train' else 'Validation'} {label.lower()}"
    # Powers of ten would have exponents too small to read.
    color_bar(axes, mesh, label, format=FuncFormatter(lambda value, _: _short(value)))
    return list(axes)


def _agreement(correlations: Sequence[float]) -> str:
    """Return the line below an axis' name that says how far seeds agree on it, the least of all arms; none for one."""
    known = [each for each in correlations if math.isfinite(each)]
    return f"\n(r ≥ {math.floor(100 * min(known)) / 100:.2f} between seeds)" if known else ""


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
