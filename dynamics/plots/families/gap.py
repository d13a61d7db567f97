"""The gap figure: validation loss minus training loss over epochs, arm by arm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes

from dynamics.analysis.estimands.bucket_dynamics import BucketDynamics, bucket_dynamics
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.plots.drawing.bucket_lines import BucketLines, best_epochs, draw_bucket_lines
from dynamics.plots.drawing.labels import epoch_columns
from dynamics.plots.drawing.panels import given, in_panels
from dynamics.plots.drawing.plot import Plot

Gaps = Source | Iterable[Source] | BucketDynamics | Sequence[BucketDynamics]


def gap(
    data: Gaps,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    buckets: Bucketing | int = 1,
) -> Plot:
    """Draw the generalisation gap over epochs, one line an arm and one panel a bucket.

    A large marker is at the best epoch of each arm, that of the lowest validation loss of the bucket's tokens. An arm
    that diverged is drawn until there, and the legend says at which epoch. Bands are 95 % intervals, over seeds and
    the documents of both splits where an arm has two seeds or more.

    Parameters
    ----------
    data : Study, Run, iterable of them, BucketDynamics, or a sequence of these
    ax : Axes, optional
        Where to draw a single bucket.
    axes : sequence of Axes, optional
        Where to draw several buckets, one each; a new figure otherwise.
    buckets : Bucketing or int
        For records: 1 for all tokens, 2 for the low and high half by reference entropy.

    Returns
    -------
    Plot
        One panel per bucket.

    Raises
    ------
    InputError
        If the number of axes is not that of the buckets.
    """
    dynamics = as_gaps(data, buckets=buckets)
    return in_panels(lambda found: _draw(dynamics, found), len(dynamics[0].labels), ax, axes, "buckets")


def as_gaps(data: Gaps, *, buckets: Bucketing | int = 1) -> list[BucketDynamics]:
    """Return the numbers of the gap figure."""
    items, ready = given(data, BucketDynamics)
    return items if ready else bucket_dynamics(items, buckets=buckets)


def gap_rows(dynamics: Sequence[BucketDynamics]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm, bucket and epoch."""
    at = epoch_columns(dynamics)
    return [
        {
            "arm": arm.arm,
            "seeds": arm.n_seeds,
            "bucket": label,
            **at(arm, e),
            "gap": arm.gap.estimate[e, k],
            "low": arm.gap.low[e, k],
            "high": arm.gap.high[e, k],
            "over": arm.over,
        }
        for arm in dynamics
        for k, label in enumerate(arm.labels)
        for e in range(len(arm.epochs))
    ]


def _draw(dynamics: Sequence[BucketDynamics], axes: Sequence[Axes]) -> list[Axes]:
    lines = [
        BucketLines(arm.arm, arm.over, arm.at, arm.labels, arm.gap, best_epochs(arm.validation.estimate))
        for arm in dynamics
    ]
    return draw_bucket_lines(lines, axes, "Generalisation gap\n(nats per token)")
