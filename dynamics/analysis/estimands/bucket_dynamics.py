"""The losses of entropy buckets over epochs: in both splits, with their gap and rebound, and since the best epoch.

Shape suffixes: E epochs, K buckets.
"""

from __future__ import annotations

import warnings
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
from dynamics.analysis.intervals.contributions import curve_contributions
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.intervals.over_seeds_and_documents import about_seeds
from dynamics.analysis.intervals.selection import about_one_seed, best_contributions
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, collect_arms
from dynamics.analysis.sums.curves import best_epoch, ratio
from dynamics.analysis.sums.document_sums import average_sums
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.layouts import Column, Layout, curve_column
from dynamics.display.numbers import UNKNOWN, interval, whole
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


@dataclass(frozen=True, slots=True, repr=False)
class RiseCurve(OverEpochs):
    """By how much the loss of each bucket lies above its value at the best epoch.

    Attributes
    ----------
    arm, n_seeds, n_documents, split
    epochs : ndarray of int64, shape (E,)
        All of them, those before the best epoch too.
    labels : tuple of str, length K
    best : int
        The epoch with the lowest mean loss over the tokens of all buckets and seeds: where a figure begins. -1 if a
        value is not finite.
    rise : Interval of arrays of shape (E, K)
        Nats per token. NaN everywhere if a value of the arm is not finite: it diverged.
    over : {"documents", "seeds_and_documents"}
        What the intervals generalise over.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    arm: str
    n_seeds: int
    n_documents: int
    split: str
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    best: int
    rise: Interval
    over: Over
    passes: Floats | None = None

    layout: ClassVar[Layout | None] = Layout(
        "arms: rise of the validation loss since the best epoch, by bucket",
        (
            ARM,
            BUCKET,
            Column("best epoch", "best", whole),
            Column("rise at the end", lambda r, k: last_of(r.rise, k), interval, "nats per token"),
            curve_column("by epoch", lambda r, k: r.rise.estimate[:, k]),
            SEEDS,
            OVER,
        ),
        rows="labels",
        axes=EPOCHS_AND_BUCKETS,
        arrays={**PASSES, "rise": ("rise", "epoch", "bucket")},
        left_out=("passes",),
    )

    @property
    def since_best(self) -> NDArray[np.bool_]:
        """Which epochs are the best one or later, shape (E,); none where the arm diverged."""
        return (self.epochs >= self.best) & (self.best >= 0)


def rise_curves(
    data: Source | Iterable[Source],
    *,
    split: str = "validation",
    buckets: Bucketing | int = 2,
    over: Over | None = None,
    level: float = 0.95,
) -> Results[RiseCurve]:
    """Return by how much each bucket's loss lies above its value at the arm's best epoch, with intervals.

    An arm has *one* best epoch for all its buckets, since training stops once: that of the lowest mean loss over all
    their tokens. So the numbers say what the tokens of a bucket would have been spared by early stopping, and may be
    below 0 for a bucket that still improves.

    The lowest value of a noisy curve is low by its very noise, and a rise above it is too high. The value that is
    subtracted is therefore cross-fitted (`dynamics.analysis.intervals.selection`): each seed's value on one half of
    the documents is taken at the epoch that is best for the other seeds on the other half, averaged over many halves.
    With one bucket the last value is the quantity ``rebound`` of `arm_quantity`, with the same interval. At `best` the
    rise is 0 where every half chooses that epoch, and a little below 0 where some do not. The difference is taken
    within documents and seeds: the interval is of the change, not of the level.

    With one seed the epoch is chosen on other documents alone, by the same model: its fluctuation from epoch to epoch
    cannot be told from a rise.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    buckets : Bucketing or int
        Frozen; an int asks for that many by the reference entropy of the training tokens: 2 for halves.
    over, level
        As for `curve_interval`.

    Returns
    -------
    Results of RiseCurve
        In the order of the recipe.

    Raises
    ------
    InputError
        For moving buckets, or a single seed where seeds are asked for.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, with two seeds, and for the best epoch of one seed.
    """
    arms = collect_arms(data)
    how = as_buckets(arms, buckets)
    curves = Results(_rise_curve(arm, split, how, over, level) for arm in arms)
    seeds = [curve.n_seeds for curve in curves if curve.over == "seeds_and_documents"]
    for limit in (
        about_documents(curves[0].n_documents),
        about_seeds(min(seeds)) if seeds else None,
        about_one_seed(min(curve.n_seeds for curve in curves)),
    ):
        if limit is not None:
            warnings.warn(limit, UserWarning, stacklevel=2)
    return curves


def _rise_curve(arm: Arm, split: str, buckets: Bucketing, over: Over | None, level: float) -> RiseCurve:
    parts = arm.seed_sums(split, buckets=buckets)
    at_best = best_contributions(parts, together=True)
    n_epochs = len(parts[0].epochs)
    rise = curve_contributions(parts).minus(at_best.at_each_epoch(n_epochs))
    uncertainty, answered = uncertainty_over(rise, over)
    mean = average_sums(parts)
    curve = ratio(mean.sums.sum(axis=(1, 2)), np.full(n_epochs, mean.counts.sum()))
    return RiseCurve(
        arm=arm.name,
        n_seeds=len(parts),
        n_documents=mean.n_documents,
        split=split,
        epochs=mean.epochs,
        labels=mean.labels,
        best=best_epoch(curve, mean.epochs) if np.isfinite(curve).all() else -1,
        rise=uncertainty.interval(level),
        over=answered,
        passes=mean.passes,
    )
