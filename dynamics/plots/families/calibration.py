"""Calibration figures: loss against predicted entropy, and overconfidence over epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dynamics.analysis.estimands.calibration import Calibration, Overconfidence
from dynamics.analysis.estimands.calibration import calibration as _calibration
from dynamics.analysis.estimands.calibration import overconfidence as _overconfidence
from dynamics.analysis.intervals.bootstrap import Resampling
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.errors import InputError
from dynamics.plots.drawing.bucket_lines import BucketLines, draw_bucket_lines
from dynamics.plots.drawing.labels import divergence, epoch_columns, legend_above, moments, named_after
from dynamics.plots.drawing.panels import given, in_panel, in_panels
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import INK, arm_styles

# ECE_H, in words.
_NUMBER = "number: mean distance from the diagonal (nats)"

Calibrations = Source | Iterable[Source] | Calibration | Sequence[Calibration]
Overconfidences = Source | Iterable[Source] | Overconfidence | Sequence[Overconfidence]


def calibration(
    data: Calibrations,
    *,
    ax: Axes | None = None,
    epoch: int | None = None,
    split: str = "validation",
    n_bins: int = 15,
    n_resamples: int = 1000,
) -> Plot:
    """Draw mean loss against mean predicted entropy, bin by bin of equal size: a reliability diagram in nats.

    On the diagonal a model is calibrated, above it too sure, below it not sure enough. Bars are 95 % intervals
    over documents; the legend gives ECE_H, the mean distance from the diagonal in nats.

    Parameters
    ----------
    data : Study, Run, iterable of them, Calibration, or a sequence of these
    ax : Axes, optional
        Where to draw; a new figure of one column's width otherwise.
    epoch : int, optional
        Default: the last of each arm.
    split : str
        For records, as are the following.
    n_bins : int
    n_resamples : int
        Of the documents, for the interval of ECE_H.

    Returns
    -------
    Plot
        One panel.

    Raises
    ------
    InputError
        If an arm has no such epoch.
    """
    rows = as_calibrations(data, split=split, n_bins=n_bins, n_resamples=n_resamples)
    return in_panel(lambda found: _draw_calibration(rows, found, epoch), ax, height=2.6)


def overconfidence(
    data: Overconfidences,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    split: str = "validation",
    buckets: Bucketing | int = 1,
) -> Plot:
    """Draw mean loss minus mean entropy over epochs, one line an arm and one panel a bucket.

    Parameters
    ----------
    data : Study, Run, iterable of them, Overconfidence, or a sequence of these
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
    rows = as_overconfidences(data, split=split, buckets=buckets)
    return in_panels(lambda found: _draw_overconfidence(rows, found), len(rows[0].labels), ax, axes, "buckets")


def as_calibrations(
    data: Calibrations, *, split: str = "validation", n_bins: int = 15, n_resamples: int = 1000
) -> list[Calibration]:
    """Return the numbers of the reliability diagram."""
    items, ready = given(data, Calibration)
    return items if ready else _calibration(items, split=split, n_bins=n_bins, resampling=Resampling(n=n_resamples))


def as_overconfidences(
    data: Overconfidences, *, split: str = "validation", buckets: Bucketing | int = 1
) -> list[Overconfidence]:
    """Return the numbers of the overconfidence figure."""
    items, ready = given(data, Overconfidence)
    return items if ready else _overconfidence(items, split=split, buckets=buckets)


def calibration_rows(rows: Sequence[Calibration], epoch: int | None = None) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm and bin of the drawn epoch."""
    table = []
    at = epoch_columns(rows)
    for row in rows:
        e = _at(row, epoch)
        for k in range(row.entropy.shape[1]):
            table.append(
                {
                    "arm": row.arm,
                    "seeds": row.n_seeds,
                    "split": row.split,
                    **at(row, e),
                    "bin": k + 1,
                    "share": row.share[e, k],
                    "entropy": row.entropy[e, k],
                    "loss": row.loss.estimate[e, k],
                    "low": row.loss.low[e, k],
                    "high": row.loss.high[e, k],
                    "over": "documents",
                    "accuracy": row.accuracy.estimate[e, k],
                    "certainty": row.certainty[e, k],
                    "entropy_calibration_error": row.error.estimate[e],
                    "argmax_error_floor": row.argmax_error_floor.estimate[e],
                }
            )
    return table


def overconfidence_rows(rows: Sequence[Overconfidence]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm, bucket and epoch."""
    at = epoch_columns(rows)
    return [
        {
            "arm": row.arm,
            "seeds": row.n_seeds,
            "split": row.split,
            "bucket": label,
            **at(row, e),
            "overconfidence": row.value.estimate[e, k],
            "low": row.value.low[e, k],
            "high": row.value.high[e, k],
            "over": row.over,
        }
        for row in rows
        for k, label in enumerate(row.labels)
        for e in range(len(row.epochs))
    ]


def _at(row: Calibration, epoch: int | None) -> int:
    if epoch is None:
        return len(row.epochs) - 1
    found = np.flatnonzero(row.epochs == epoch)
    if not len(found):
        raise InputError(f"arm {row.arm!r} has no epoch {epoch}; it has {', '.join(map(str, row.epochs))}")
    return int(found[0])


def _draw_calibration(rows: Sequence[Calibration], ax: Axes, epoch: int | None) -> Axes:
    styles = arm_styles([row.arm for row in rows])
    handles = []
    ends: list[float] = []
    at = [_at(row, epoch) for row in rows]
    passes = [float(row.at[e]) for row, e in zip(rows, at, strict=True)]
    for row, e, name in zip(rows, at, named_after([row.arm for row in rows], passes), strict=True):
        style = styles[row.arm]
        entropy, loss = row.entropy[e], row.loss.estimate[e]
        low, high = row.loss.low[e], row.loss.high[e]
        there = np.isfinite(entropy) & np.isfinite(loss)
        if np.isfinite(low).any():
            ax.vlines(entropy[there], low[there], high[there], color=style.color, linewidth=0.7, zorder=2)
        ax.plot(
            entropy[there],
            loss[there],
            color=style.color,
            linestyle=style.linestyle,
            linewidth=1.0,
            marker=style.marker,
            markersize=3.4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )
        handles.append(
            Line2D(
                [],
                [],
                color=style.color,
                linestyle=style.linestyle,
                linewidth=1.0,
                marker=style.marker,
                markersize=3.4,
                label=f"{name}: {_number(row, e)}",
            )
        )
        ends += [float(value) for value in np.concatenate([entropy, loss, low, high]) if np.isfinite(value)]
    top = 1.04 * max(ends, default=1.0)
    line = ax.plot([0, top], [0, top], color=INK, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1, label="calibrated")
    ax.set_xlim(0, top)
    ax.set_ylim(0, top)
    ax.set_xlabel("Mean predicted entropy (nats)")
    ax.set_ylabel(f"Mean {'validation' if rows[0].split == 'validation' else 'training'} loss (nats)")
    legend_above(ax, [*handles, *line], title=f"after epoch {moments(passes)}; {_NUMBER}\nbar: 95 % over documents")
    return ax


def _number(row: Calibration, e: int) -> str:
    error = float(row.error.estimate[e])
    if math.isfinite(error):
        return f"{error:.2f}"
    return divergence(row.at, row.error.estimate) or "not known"


def _draw_overconfidence(rows: Sequence[Overconfidence], axes: Sequence[Axes]) -> list[Axes]:
    lines = [BucketLines(row.arm, row.over, row.at, row.labels, row.value) for row in rows]
    return draw_bucket_lines(lines, axes, "Loss minus entropy\n(nats per token)")
