"""Heat maps of a value by bucket and epoch, and the landscape of the loss over (reference entropy, epoch)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
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
from dynamics.plots.drawing.legends import legend_over_title
from dynamics.plots.drawing.panels import color_bar, given, in_panels, is_first, is_last, legend_over
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import INK

Maps = Source | Iterable[Source] | BucketMap | Sequence[BucketMap]

# From dark to light without a turn, so that it reads the same in grey.
_COLORS = "viridis"
# White at 0, blue below and red above, which colour-blind readers tell apart: ColorBrewer's, but for its grey middle.
_DIVERGING = LinearSegmentedColormap.from_list(
    "change",
    ["#053061", "#2166AC", "#4393C3", "#92C5DE", "#FFFFFF", "#F4A582", "#D6604D", "#B2182B", "#67001F"],
    N=257,
)
# In grey a sign has no colour: cells of the rarer one are marked, if further from 0 than this share of the bar.
_NOTICEABLE = 0.02
_SIGN: dict[str, Any] = {"linestyle": "none", "color": INK, "markersize": 3.0, "markeredgewidth": 0.6}
_EMPTY: dict[str, Any] = {"facecolor": "white", "edgecolor": "#BDBDBD", "hatch": "////////", "linewidth": 0.0}

Since = Literal["start", "best"]
_MARKS: dict[Since, str] = {"start": "+", "best": "_"}

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
    "correct": "accuracy\n(share of tokens)",
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
    since: Since | None = "start",
    above_best: bool = False,
) -> Plot:
    """Draw how a value changed by bucket (y) and epoch (x), as colours, one panel an arm.

    Buckets differ more from each other than epochs do, so that colours of the values themselves would show the buckets
    alone. White is no change; red is higher, blue lower. All panels have the same colours. A circle marks the best
    epoch of each bucket: lowest loss or entropy, highest share or certainty. Plus signs are above the
    first epoch. Hatched cells have no value.

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
    since : {"start", "best"} or None
        What is subtracted: the value at the first recorded epoch, or that at the arm's best epoch, as `rebound_map`
        does. None: nothing, the values themselves, in colours that leave epoch 0 out where it would flatten the rest.
    above_best : bool
        The same as ``since="best"``, for calls of older versions.

    Returns
    -------
    Plot
        One panel per arm.

    Raises
    ------
    InputError
        If the number of axes is not that of the arms, or for an unknown `since`.
    """
    if since not in (None, *get_args(Since)):
        raise InputError(f"since={since!r} is not known; use 'start', 'best' or None")
    maps = as_maps(data, value=value, split=split, buckets=buckets)
    chosen: Since | None = "best" if above_best else since
    return in_panels(lambda found: _draw_maps(maps, found, chosen), len(maps), ax, axes, "arms")


def rebound_map(
    data: Maps,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    value: Value = "loss",
    split: str = "validation",
    buckets: Bucketing | int = 10,
) -> Plot:
    """Draw how far each bucket has moved since the arm's best epoch: which tokens rebound, and when.

    An arm has one best epoch, that of its lowest mean over the tokens of all buckets (of ``correct`` and ``certainty``:
    the highest). Epochs before it are hatched. Red buckets have risen since; blue ones, with a minus sign, still fall.
    The best epoch is that of the curve averaged over seeds, which is chosen and measured on the same documents:
    differences of a few hundredths of a nat may be noise. `rebound` has numbers without that bias, with intervals.

    Parameters
    ----------
    data : Study, Run, iterable of them, BucketMap, or a sequence of these
    ax, axes
        As for `bucket_map`.
    value, split, buckets
        For records, as for `bucket_map`.

    Returns
    -------
    Plot
        One panel per arm.

    Raises
    ------
    InputError
        If the number of axes is not that of the arms.
    """
    return bucket_map(data, ax=ax, axes=axes, value=value, split=split, buckets=buckets, since="best")


def loss_landscape(
    data: Maps,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    split: str = "validation",
    n_buckets: int = 30,
) -> Plot:
    """Draw the loss over (reference entropy, epoch) as a surface; deprecated: `bucket_map` shows what changes.

    The surface shows that tokens of high entropy have high losses, at every epoch, and little else.

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
    warnings.warn(
        "loss_landscape shows levels, which hide what changes, and will be removed; use dynamics.plots.bucket_map",
        DeprecationWarning,
        stacklevel=2,
    )
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
    """Return the numbers, one row an arm, epoch and bucket.

    ``above_best`` is the distance from the bucket's own best epoch, ``since_best`` the change since the arm's best
    epoch, empty before it, and ``since_start`` that since the first epoch.
    """
    rows = []
    at = epoch_columns(maps)
    for each in maps:
        best, above, start, since = each.best, each.above_best, each.since_start, each.since_best
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
                        "since_start": start[e, k],
                        "since_best": since[e, k],
                    }
                )
    return rows


def _draw_maps(maps: Sequence[BucketMap], axes: Sequence[Axes], since: Since | None) -> list[Axes]:
    shown = [_shown(each, since) for each in maps]
    extend = "neither"
    if since is None:
        low, high, extend = _range(maps, shown)
    else:
        high = _furthest(shown)
        low = -high
    mesh: Any = None
    marked = False
    for ax, each, values in zip(axes, maps, shown, strict=True):
        n = len(each.labels)
        # White is no change, and so nothing else may be white: cells without a value are hatched.
        ax.patch.set(**_EMPTY)
        mesh = ax.pcolormesh(
            _borders(each.at),
            np.arange(n + 1) - 0.5,
            np.ma.masked_invalid(values.T),
            cmap=_COLORS if since is None else _DIVERGING,
            vmin=low,
            vmax=high,
            # Without edges of its own colour, viewers show seams between cells.
            edgecolors="face",
            linewidth=0.2,
        )
        # The lowest value of an arm that diverged would look as if training had stopped there.
        known = np.flatnonzero((each.best >= 0) & (not each.diverged))
        ax.plot(each.at[each.best[known]], known, linestyle="none", **_CIRCLE)
        if since is not None:
            e, k = np.nonzero((values if since == "start" else -values) > _NOTICEABLE * high)
            ax.plot(each.at[e], k, marker=_MARKS[since], **_SIGN)
            marked |= len(e) > 0
        step = -(-n // 12)
        ax.set_yticks(range(0, n, step), each.labels[::step])
        ax.set_title(wrap_name(each.arm, 20) + ("\n(diverged)" if each.diverged else ""))
        if is_first(ax, axes):
            ax.set_ylabel(f"{_signal(each)} bucket" if n > 2 else _signal(each))
        _epochs(ax, each)
        if is_last(ax, axes):
            ax.set_xlabel("Training (epochs)")
    color_bar(axes, mesh, _bar_label(maps, since), extend=extend)
    _legend(axes, since, marked)
    return list(axes)


def _shown(each: BucketMap, since: Since | None) -> Floats:
    if since is None:
        return each.values.estimate
    return each.since_start if since == "start" else each.since_best


def _legend(axes: Sequence[Axes], since: Since | None, marked: bool) -> None:
    handles: list[Any] = [Line2D([], [], linestyle="none", **_CIRCLE, label="best epoch of the bucket")]
    if since is not None and marked:
        words = {"start": "above the first epoch", "best": "below the best epoch of all tokens"}
        handles.append(Line2D([], [], marker=_MARKS[since], **_SIGN, label=words[since]))
    if since == "best":
        handles.append(Patch(**_EMPTY, label="before the best epoch of all tokens"))
    if len(axes) > 1:
        legend_over(axes, handles)
    else:
        legend_over_title(axes[0], handles)


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


def _furthest(shown: Sequence[Floats]) -> float:
    """Return the largest distance from 0 of all that is drawn; 1 if nothing is, or nothing moves."""
    values = np.concatenate([np.abs(each).ravel() for each in shown])
    values = values[np.isfinite(values)]
    return float(values.max(initial=0.0)) or 1.0


def _bar_label(maps: Sequence[BucketMap], since: Since | None) -> str:
    first = maps[0]
    if since is None:
        return _unit(first)
    starts = {f"{each.at[0]:g}" for each in maps}
    start = f"epoch {starts.pop()}" if len(starts) == 1 else "the first epoch"
    what, unit = _unit(first).split("\n")
    return f"{what}\nsince {start if since == 'start' else 'best epoch'}\n{unit}"


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
