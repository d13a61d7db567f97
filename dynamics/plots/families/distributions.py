"""The entropy figure: how the entropy of tokens is distributed, and the pool of tokens that may be dropped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dynamics.analysis.estimands.entropy_distributions import EntropyDistribution, entropy_distributions
from dynamics.analysis.sums.arms import Source
from dynamics.errors import InputError
from dynamics.plots.drawing.labels import epoch_columns, moments, named_after, wrap_name
from dynamics.plots.drawing.panels import given, in_panels, is_first, is_last, legend_over
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import FAINT, INK, NOTE_SIZE

Distributions = Source | Iterable[Source] | EntropyDistribution | Sequence[EntropyDistribution]

# Greys: colours are those of arms and of buckets.
_REFERENCE, _DROPPED, _NOW = "#C9C9C9", "#6B6B6B", INK


def entropy_distribution(
    data: Distributions,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    epoch: int | None = None,
    split: str = "train",
    n_bins: int = 40,
) -> Plot:
    """Draw the distribution of entropy over tokens with the drop pool, one panel an arm.

    Grey is the reference entropy, which decides what may be dropped; hatched the part of it that was dropped in the
    epoch; the bracket above it spans the pool. The line is the model's own entropy in that epoch.

    Parameters
    ----------
    data : Study, Run, iterable of them, EntropyDistribution, or a sequence of these
    ax : Axes, optional
        Where to draw a single arm.
    axes : sequence of Axes, optional
        Where to draw several arms, one each; a new figure otherwise.
    epoch : int, optional
        Default: the last of each arm.
    split : str
        For records, as is `n_bins`.
    n_bins : int

    Returns
    -------
    Plot
        One panel per arm.

    Raises
    ------
    InputError
        If an arm has no such epoch, or the number of axes is not that of the arms.
    """
    rows = as_distributions(data, split=split, n_bins=n_bins)
    return in_panels(lambda found: _draw(rows, found, epoch), len(rows), ax, axes, "arms")


def as_distributions(data: Distributions, *, split: str = "train", n_bins: int = 40) -> list[EntropyDistribution]:
    """Return the numbers of the entropy figure."""
    items, ready = given(data, EntropyDistribution)
    return items if ready else entropy_distributions(items, split=split, n_bins=n_bins)


def distribution_rows(rows: Sequence[EntropyDistribution], epoch: int | None = None) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm and bin; `dropped_share` is of the bin's tokens."""
    table = []
    at = epoch_columns(rows)
    for row in rows:
        e = _at(row, epoch)
        share = _dropped(row, int(row.epochs[e]))
        for x in range(len(row.reference)):
            table.append(
                {
                    "arm": row.arm,
                    "seeds": row.n_seeds,
                    "split": row.split,
                    **at(row, e),
                    "entropy_from": row.edges[x],
                    "entropy_to": row.edges[x + 1],
                    "reference_density": row.reference[x],
                    "density": row.density[e, x],
                    "dropped_share": math.nan if share is None else share[x],
                    "pool": row.pool,
                    "pool_low": row.pool_low,
                    "pool_high": row.pool_high,
                }
            )
    return table


def _at(row: EntropyDistribution, epoch: int | None) -> int:
    if epoch is None:
        return len(row.epochs) - 1
    found = np.flatnonzero(row.epochs == epoch)
    if not len(found):
        raise InputError(f"arm {row.arm!r} has no epoch {epoch}; it has {', '.join(map(str, row.epochs))}")
    return int(found[0])


def _dropped(row: EntropyDistribution, epoch: int) -> Any:
    """Return the share dropped by bin in an epoch, or None where it is not recorded."""
    found = np.flatnonzero(row.dropped_epochs == epoch)
    return row.dropped[found[0]] if len(found) else None


def _draw(rows: Sequence[EntropyDistribution], axes: Sequence[Axes], epoch: int | None) -> list[Axes]:
    at = [_at(row, epoch) for row in rows]
    # One height for all, and room above it for the pool's bracket.
    top = 1.25 * max(float(np.nanmax([*row.reference, *row.density[e]])) for row, e in zip(rows, at, strict=True))
    any_dropped = False
    passes = [float(row.at[e]) for row, e in zip(rows, at, strict=True)]
    names = named_after([row.arm for row in rows], passes)
    for ax, row, e, name in zip(axes, rows, at, names, strict=True):
        ax.stairs(row.reference, row.edges, fill=True, color=_REFERENCE, zorder=1)
        share = _dropped(row, int(row.epochs[e]))
        if share is not None and np.nansum(share) > 0:
            any_dropped = True
            ax.stairs(
                row.reference * np.nan_to_num(share),
                row.edges,
                fill=True,
                facecolor="white",
                edgecolor=_DROPPED,
                linewidth=0.5,
                hatch="//////",
                zorder=2,
            )
        ax.stairs(row.density[e], row.edges, color=_NOW, linewidth=1.2, baseline=None, zorder=3)
        if math.isfinite(row.pool_low) and math.isfinite(row.pool_high):
            height = 0.88 * top
            # What lies beyond the axis, where not all sequences were recorded, ends with it.
            ends = np.clip([row.pool_low, row.pool_high], row.edges[0], row.edges[-1])
            bracket = ax.plot(ends, [height, height], color=INK, linewidth=0.8, marker="|", markersize=4, zorder=4)
            bracket[0].set_clip_on(False)
            # A narrow pool at an end of the axis has its words beside the frame, not across it.
            place = ((row.pool_low + row.pool_high) / 2 - row.edges[0]) / (row.edges[-1] - row.edges[0])
            x, side = (0.02, "left") if place < 0.2 else (0.98, "right") if place > 0.8 else (place, "center")
            words = f"pool: {100 * row.pool:g} %"
            ax.text(x, 0.915, words, transform=ax.transAxes, ha=side, va="bottom", fontsize=NOTE_SIZE)
        elif math.isfinite(row.pool):
            text = f"pool: {100 * row.pool:g} %, ranked otherwise"
            ax.text(0.5, 0.96, text, transform=ax.transAxes, ha="center", va="top", fontsize=NOTE_SIZE, color=FAINT)
        ax.set_xlim(row.edges[0], row.edges[-1])
        ax.set_ylim(0.0, top)
        ax.set_title(wrap_name(name, 20))
        if is_first(ax, axes):
            ax.set_ylabel("Share of tokens per nat")
        if is_last(ax, axes):
            ax.set_xlabel("Entropy (nats)")
    _legend(axes, moments(passes), any_dropped)
    return list(axes)


def _legend(axes: Sequence[Axes], epoch: str, any_dropped: bool) -> None:
    handles: list[Any] = [Patch(color=_REFERENCE, label="reference entropy")]
    if any_dropped:
        handles.append(
            Patch(
                facecolor="white", edgecolor=_DROPPED, hatch="//////", linewidth=0.5, label=f"dropped in epoch {epoch}"
            )
        )
    handles.append(Line2D([], [], color=_NOW, linewidth=1.2, label=f"entropy in epoch {epoch}"))
    legend_over(axes, handles)
