"""Heat maps of a value by bucket and epoch, and the landscape of the loss over (reference entropy, epoch)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dynamics.analysis.estimands.bucket_maps import BucketMap
from dynamics.analysis.estimands.bucket_maps import bucket_map as _bucket_map
from dynamics.analysis.estimands.bucket_maps import loss_landscape as _loss_landscape
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.sums.document_sums import Value
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError
from dynamics.plots.drawing.labels import epoch_columns, wrap_name
from dynamics.plots.drawing.panels import color_bar, given, in_panels, is_first, is_last, legend_over
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import INK

Maps = Source | Iterable[Source] | BucketMap | Sequence[BucketMap]

# From dark to light without a turn, so that it reads the same in grey.
_COLORS = "viridis"

_CIRCLE: dict[str, Any] = {
    "marker": "o",
    "markersize": 3.0,
    "markerfacecolor": "white",
    "markeredgecolor": INK,
    "markeredgewidth": 0.6,
}
_UNITS: dict[str, str] = {
    "loss": "loss\n(nats per token)",
    "entropy": "entropy\n(nats per token)",
    "correct": "share of tokens\npredicted right",
    "certainty": "certainty\nexp(-entropy)",
}
_SPLITS = {"validation": "Validation", "train": "Training"}


def bucket_map(
    data: Maps,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    value: Value = "loss",
    split: str = "validation",
    buckets: Bucketing | int = 10,
    above_best: bool = False,
) -> Plot:
    """Draw a value by bucket (y) and epoch (x) as colours, one panel an arm.

    A circle marks the best epoch of each bucket: lowest loss or entropy, highest share or certainty. All panels have
    the same colours, whose range leaves epoch 0 out where it would flatten the rest.

    Buckets differ more from each other than epochs do; `above_best` draws how far each is from its own best epoch, from
    the curve averaged over seeds: not cross-fitted, and so a little too high everywhere.

    Parameters
    ----------
    data : Study, Run, iterable of them, BucketMap, or a sequence of these
    ax : Axes, optional
        Where to draw a single arm; the colour bar takes its room from it.
    axes : sequence of Axes, optional
        Where to draw several arms, one each; a new figure otherwise.
    value : {"loss", "entropy", "correct", "certainty"}
        For records, as are the following.
    split : str
    buckets : Bucketing or int
        10 for deciles of the reference entropy.
    above_best : bool
        Draw the distance from the bucket's best epoch; also for maps that are made already.

    Returns
    -------
    Plot
        One panel per arm.

    Raises
    ------
    InputError
        If the number of axes is not that of the arms.
    """
    maps = as_maps(data, value=value, split=split, buckets=buckets)
    return in_panels(lambda found: _draw_maps(maps, found, above_best), len(maps), ax, axes, "arms")


def rebound_map(
    data: Maps,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    value: Value = "loss",
    split: str = "validation",
    buckets: Bucketing | int = 10,
) -> Plot:
    """Draw how far each bucket is from its own best epoch: who rebounds, and when.

    Parameters, returns and errors as for `bucket_map`, with `above_best`.
    """
    return bucket_map(data, ax=ax, axes=axes, value=value, split=split, buckets=buckets, above_best=True)


def loss_landscape(
    data: Maps,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    split: str = "validation",
    n_buckets: int = 30,
) -> Plot:
    """Draw the loss over (reference entropy, epoch) as a surface with its contours, one panel an arm.

    Parameters
    ----------
    data : Study, Run, iterable of them, BucketMap, or a sequence of these
        Of `loss_landscape`, or any buckets of one signal.
    ax, axes
        As for `bucket_map`.
    split : str
        For records, as is `n_buckets`.
    n_buckets : int

    Returns
    -------
    Plot
        One panel per arm.

    Raises
    ------
    InputError
        If there are fewer than two epochs or two buckets with tokens, which make no surface, or the number of axes is
        not that of the arms.
    """
    maps = as_landscape(data, split=split, n_buckets=n_buckets)
    for each in maps:
        n = int(np.isfinite(each.centres).sum())
        if len(each.epochs) < 2 or n < 2:
            raise InputError(
                f"arm {each.arm!r} has {len(each.epochs)} epochs and {n} buckets with a place on the axis; a landscape "
                "needs two of each: use bucket_map"
            )
    return in_panels(lambda found: _draw_landscapes(maps, found), len(maps), ax, axes, "arms")


def as_maps(
    data: Maps,
    *,
    value: Value = "loss",
    split: str = "validation",
    buckets: Bucketing | int = 10,
) -> list[BucketMap]:
    """Return the numbers of the heat map."""
    items, ready = given(data, BucketMap)
    if ready:
        return items
    return _bucket_map(items, value=value, split=split, buckets=buckets)


def as_landscape(data: Maps, *, split: str = "validation", n_buckets: int = 30) -> list[BucketMap]:
    """Return the numbers of the landscape."""
    items, ready = given(data, BucketMap)
    return items if ready else _loss_landscape(items, split=split, n_buckets=n_buckets)


def bucket_map_rows(maps: Sequence[BucketMap]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm, epoch and bucket; `mean_signal` is the x axis of a landscape."""
    rows = []
    at = epoch_columns(maps)
    for each in maps:
        best, above = _best(each), _above_best(each)
        for e in range(len(each.epochs)):
            for k, label in enumerate(each.labels):
                rows.append(
                    {
                        "arm": each.arm,
                        "seeds": each.n_seeds,
                        "split": each.split,
                        "bucket": label,
                        "by": each.by,
                        "mean_signal": each.centres[k],
                        "tokens": each.n_tokens[k],
                        **at(each, e),
                        each.value: each.values.estimate[e, k],
                        "low": each.values.low[e, k],
                        "high": each.values.high[e, k],
                        "over": each.over,
                        "best": int(e == best[k]),
                        "above_best": above[e, k],
                    }
                )
    return rows


def _draw_maps(maps: Sequence[BucketMap], axes: Sequence[Axes], above_best: bool) -> list[Axes]:
    shown = [_above_best(each) if above_best else each.values.estimate for each in maps]
    low, high, extend = _range(maps, shown)
    mesh: Any = None
    for ax, each, values in zip(axes, maps, shown, strict=True):
        n = len(each.labels)
        mesh = ax.pcolormesh(
            _borders(each.at),
            np.arange(n + 1) - 0.5,
            values.T,
            cmap=_COLORS,
            vmin=low,
            vmax=high,
            # Without edges of its own colour, viewers show seams between cells.
            edgecolors="face",
            linewidth=0.2,
        )
        best = _best(each)
        known = best >= 0
        ax.plot(
            each.at[best[known]],
            np.flatnonzero(known),
            linestyle="none",
            **_CIRCLE,
        )
        step = -(-n // 12)
        ax.set_yticks(range(0, n, step), each.labels[::step])
        ax.set_title(wrap_name(each.arm, 20))
        if is_first(ax, axes):
            ax.set_ylabel(f"{_signal(each)} bucket" if n > 2 else _signal(each))
        _epochs(ax, each)
        if is_last(ax, axes):
            ax.set_xlabel("Training (epochs)")
    unit = f"{_unit(maps[0])}\nfrom the bucket's best epoch" if above_best else _unit(maps[0])
    color_bar(axes, mesh, unit, extend=extend)
    circle = Line2D([], [], linestyle="none", **_CIRCLE, label="best epoch of the bucket")
    if len(axes) > 1:
        legend_over(axes, [circle])
    else:
        axes[0].legend(handles=[circle], loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return list(axes)


def _draw_landscapes(maps: Sequence[BucketMap], axes: Sequence[Axes]) -> list[Axes]:
    low, high, extend = _range(maps, [each.values.estimate for each in maps])
    levels = MaxNLocator(nbins=20).tick_values(low, high)
    surface: Any = None
    for ax, each in zip(axes, maps, strict=True):
        there = np.isfinite(each.centres)
        place = each.centres[there], each.at, each.values.estimate[:, there]
        surface = ax.contourf(*place, levels=levels, cmap=_COLORS, extend=extend)
        ax.contour(*place, levels=levels, colors="white", linewidths=0.35)
        ax.set_title(wrap_name(each.arm, 20))
        if is_first(ax, axes):
            ax.set_ylabel("Training (epochs)")
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
        if is_last(ax, axes):
            ax.set_xlabel(f"{_signal(each)} (nats)" if "reference" in each.by else _signal(each))
    color_bar(axes, surface, _unit(maps[0]), extend=extend)
    return list(axes)


def _epochs(ax: Axes, each: BucketMap) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 4, 5, 6, 8, 10], min_n_ticks=1))
    edges = _borders(each.at)
    ax.set_xlim(edges[0], edges[-1])


def _borders(epochs: Any) -> Floats:
    """Return the borders of cells about the epochs, halfway between neighbours."""
    values = np.asarray(epochs, dtype=np.float64)
    inner = (values[1:] + values[:-1]) / 2
    first = values[0] - (inner[0] - values[0] if len(inner) else 0.5)
    last = values[-1] + (values[-1] - inner[-1] if len(inner) else 0.5)
    return np.concatenate([[first], inner, [last]])


def _best(each: BucketMap) -> np.ndarray:
    """Return the index of the best epoch of every bucket; -1 where all values are NaN."""
    values = each.values.estimate
    worst = np.where(np.isnan(values), np.inf, values if each.value in ("loss", "entropy") else -values)
    return np.where(np.isinf(worst).all(axis=0), -1, worst.argmin(axis=0))


def _above_best(each: BucketMap) -> Floats:
    """Return how far every value is from that of its bucket's best epoch, (E, K); 0 there, and above 0 elsewhere."""
    values, best = each.values.estimate, _best(each)
    at_best = np.where(best >= 0, values[best, np.arange(values.shape[1])], np.nan)
    return np.abs(values - at_best)


def _range(maps: Sequence[BucketMap], shown: Sequence[Floats]) -> tuple[float, float, str]:
    """Return the range of colours, without epoch 0 where that alone would take half of it, and the bar's open ends."""
    values = np.concatenate([each.ravel() for each in shown])
    after = np.concatenate([drawn[each.epochs > 0].ravel() for each, drawn in zip(maps, shown, strict=True)])
    values, after = values[np.isfinite(values)], after[np.isfinite(after)]
    if not len(values):
        return 0.0, 1.0, "neither"
    low, high, extend = float(values.min()), float(values.max()), "neither"
    if len(after) and high - low > 2 * (after.max() - after.min()) > 0:
        outer = low, high
        low, high = float(after.min()), float(after.max())
        below, above = outer[0] < low, outer[1] > high
        extend = "both" if below and above else "min" if below else "max"
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return low, high, extend


def _signal(each: BucketMap) -> str:
    words = each.by.replace("_", " ")
    return words[:1].upper() + words[1:]


def _unit(each: BucketMap) -> str:
    return f"{_SPLITS.get(each.split, each.split)} {_UNITS[each.value]}"
