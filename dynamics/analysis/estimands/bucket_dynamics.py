"""The losses of every arm's entropy buckets over epochs, in both splits, with their gap and rebound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.estimands.quantities import arm_quantity
from dynamics.analysis.intervals.bands import Over, curve_interval, gap_interval, generalises_over, uncertainty_over
from dynamics.analysis.intervals.columns import (
    ARM,
    BUCKET,
    EPOCHS_AND_BUCKETS,
    OVER,
    PASSES,
    SEEDS,
    diverged,
    ends,
    last_of,
)
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Source, as_buckets, collect_arms
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.layouts import Column, Layout, curve_column
from dynamics.display.numbers import UNKNOWN, interval
from dynamics.display.results import Results


def _rebound(result: BucketDynamics, k: int) -> Any:
    if result.rebound is None:
        return UNKNOWN
    around = result.rebound
    gone = diverged(result.validation.estimate[:, k])
    return ends(float(around.estimate[k]), float(around.low[k]), float(around.high[k]), diverged=gone)


@dataclass(frozen=True, slots=True, repr=False)
class BucketDynamics(OverEpochs):
    """Losses of the entropy buckets of one arm.

    Attributes
    ----------
    arm, n_seeds
    epochs : ndarray of int64, shape (E,)
    labels : tuple of str, length K
    train, validation, gap : Interval of arrays of shape (E, K)
        Nats per token; the gap is validation minus training.
    rebound : Interval of arrays of shape (K,), optional
        Cross-fitted, of the validation loss (`dynamics.analysis.estimands.quantities`); None in moving buckets, which
        hold other tokens in each epoch.
    over : {"documents", "seeds_and_documents"}
        What the intervals generalise over.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    arm: str
    n_seeds: int
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    train: Interval
    validation: Interval
    gap: Interval
    rebound: Interval | None = None
    passes: Floats | None = None
    over: Over = "documents"

    layout: ClassVar[Layout | None] = Layout(
        "arms: after the last epoch, by bucket",
        (
            ARM,
            BUCKET,
            Column("training", lambda b, k: last_of(b.train, k), interval, "nats per token"),
            Column("validation", lambda b, k: last_of(b.validation, k), interval, "nats per token"),
            Column("gap", lambda b, k: last_of(b.gap, k), interval, "nats per token"),
            Column("rebound", _rebound, interval, "nats per token"),
            curve_column("validation by epoch", lambda b, k: b.validation.estimate[:, k]),
            SEEDS,
            OVER,
        ),
        rows="labels",
        axes=EPOCHS_AND_BUCKETS,
        arrays={
            **PASSES,
            "train": ("train", "epoch", "bucket"),
            "validation": ("validation", "epoch", "bucket"),
            "gap": ("gap", "epoch", "bucket"),
            "rebound": ("rebound", "bucket"),
        },
        left_out=("passes",),
    )


def bucket_dynamics(
    data: Source | Iterable[Source],
    *,
    buckets: Bucketing | int = 2,
    over: Over | None = None,
    level: float = 0.95,
) -> Results[BucketDynamics]:
    """Return the losses of the entropy buckets of every arm, with intervals.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    buckets : Bucketing or int
        Buckets, or how many to make by the reference entropy of the training tokens: 2 for
        halves, 10 for deciles. The same buckets serve every arm and both splits.
    over, level
        As for `curve_interval`.

    Returns
    -------
    Results of BucketDynamics
        In the order of the recipe.
    """
    arms = collect_arms(data)
    buckets = as_buckets(arms, buckets)
    result: Results[BucketDynamics] = Results()
    for arm in arms:
        train, validation = (arm.seed_sums(split, buckets=buckets) for split in ("train", "validation"))
        answered = over or generalises_over(validation)
        rebound = None
        if not buckets.moving:
            contributions = arm_quantity(arm, "rebound", buckets=buckets)
            rebound = uncertainty_over(contributions, answered)[0].interval(level)
        result.append(
            BucketDynamics(
                arm=arm.name,
                n_seeds=len(arm.runs),
                epochs=validation[0].epochs,
                labels=validation[0].labels,
                train=curve_interval(train, over=answered, level=level),
                validation=curve_interval(validation, over=answered, level=level),
                gap=gap_interval(validation, train, over=answered, level=level),
                rebound=rebound,
                passes=arm.passes,
                over=answered,
            )
        )
    return result
