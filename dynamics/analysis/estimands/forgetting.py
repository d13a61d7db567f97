"""Forgetting: how much worse a model has become on text that it was not trained on, since before training.

    forgetting at epoch e = loss on a set of general text at e - loss on the same text at epoch 0

Paired by token: both losses are of the same tokens, so documents that are hard throughout do not widen its interval.
Below 0 the training has helped there too.

Shapes: E epochs, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from dynamics.analysis.estimands.value_curves import ValueCurve, value_curve
from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.sums.arms import Source, as_buckets, collect_arms
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.display.results import Results
from dynamics.errors import InputError


def forgetting(
    data: Source | Iterable[Source],
    *,
    split: str = "validation-general",
    since: int = 0,
    buckets: Bucketing | int = 1,
    over: Over | None = None,
    level: float = 0.95,
) -> Results[ValueCurve]:
    """Return how much the loss on a split has risen since an epoch, of every arm, with intervals.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
        The validation set of general text, as it is recorded: ``validation-NAME``.
    since : int
        The epoch to compare with; 0 is before training.
    buckets : Bucketing or int
        Frozen ones, or groups. An int asks for that many by reference entropy.
    over, level
        As for `curve_interval`.

    Returns
    -------
    Results of ValueCurve
        In the order of the recipe; nats per token, 0 at epoch `since`. `ValueCurve.final` is the forgetting at the end.

    Raises
    ------
    InputError
        If there is no such split, an arm has no such epoch, or tokens move between buckets: then those of one epoch
        are not those of another.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, or two seeds.
    """
    arms = collect_arms(data)
    if not isinstance(buckets, int) and buckets.moving:
        raise InputError(
            "forgetting is of the same tokens at every epoch, and moving buckets have others; use frozen ones"
        )
    how = as_buckets(arms, buckets)
    rows: Results[ValueCurve] = Results()
    for arm in arms:
        if since not in arm.epochs:
            raise InputError(f"arm {arm.name!r} has no epoch {since} to compare with; choose since= of {arm.epochs}")
        parts = [change_since(part, since) for part in arm.seed_sums(split, buckets=how)]
        unit = f"nats per token above epoch {since}"
        rows.append(value_curve(arm, split, "loss", parts, unit=unit, over=over, level=level))
    return rows


def change_since(sums: DocumentSums, epoch: int) -> DocumentSums:
    """Return the sums of what has been added to each token's value since `epoch`, in frozen buckets."""
    assert sums.counts.ndim == 2 and epoch in sums.epochs, (sums.counts.shape, sums.epochs, epoch)
    return replace(sums, sums=sums.sums - sums.sums[np.flatnonzero(sums.epochs == epoch)])


def forgetting_table(curves: Iterable[ValueCurve], *, digits: int = 3) -> str:
    """Return forgetting as a Markdown table: a row an arm, a column an epoch, the final interval in the last.

    Parameters
    ----------
    curves : iterable of ValueCurve
        From `forgetting`; of several buckets each has a row of its own.
    digits : int
        After the point.
    """
    rows = list(curves)
    at = sorted({float(epoch) for row in rows for epoch in row.at})
    header = ["Arm", *(f"{epoch:g}" for epoch in at), "Final interval"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        for k, label in enumerate(row.labels):
            known = dict(zip(row.at.tolist(), row.values.estimate[:, k].tolist(), strict=True))
            cells = [_number(known.get(epoch), digits) for epoch in at]
            name = row.arm if len(row.labels) == 1 else f"{row.arm}, {label}"
            low, high = (float(end[k]) for end in (row.final.low, row.final.high))
            lines.append([name, *cells, f"{_number(low, digits)} to {_number(high, digits)}"])
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:+.{digits}f}"
