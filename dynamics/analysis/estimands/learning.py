"""What was learned, what of it was memorised, and how long it took, by bucket.

*Share learned* of a split, bucket and epoch: the share of its predicted tokens that are the most probable ones given
the text before them. On training text this is the memorisation M(f) of Tirumala et al. 2022 (arXiv 2205.10770, section
3), who note that it counts what was understood with what was merely remembered.

*Share memorised*: share learned of the training set minus share learned of the validation set in the same bucket. It is
the mean over a bucket of what Feldman and Zhang 2020 (arXiv 2008.03703, equation 1) and Zhang et al. 2021 (arXiv
2112.12938) call the memorisation of an example, P(right | trained on it) - P(right | not), with one difference: those
train many models on random subsets and compare an example with itself, while here tokens of the validation set stand
in for "not trained on it". It is right in so far as the two splits are alike at equal reference entropy; epoch 0,
before any training, shows how far they are, since nothing can have been memorised then.

Shapes: E epochs, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over, curve_interval, gap_interval
from dynamics.analysis.intervals.bootstrap import (
    Resampling,
    document_weights,
    resampled_curves,
    resampling_of,
    warn_few,
)
from dynamics.analysis.intervals.columns import (
    ARM,
    BUCKET,
    EPOCHS_AND_BUCKETS,
    OVER_IN_WORDS,
    PASSES,
    SEEDS,
    SPLIT,
    last_of,
)
from dynamics.analysis.intervals.interval import Interval, within_shares
from dynamics.analysis.sums.arms import Source, as_buckets, collect_arms
from dynamics.analysis.sums.curves import epochs_to_reach, mean_curve
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.layouts import Column, Layout, curve_column, text_column
from dynamics.display.numbers import decimals, epochs_interval, percent_interval
from dynamics.display.results import Results, Shown


@dataclass(frozen=True, slots=True, repr=False)
class LearningCurves(OverEpochs):
    """Shares learned and memorised of one arm.

    Attributes
    ----------
    arm, n_seeds
    epochs : ndarray of int64, shape (E,)
    labels : tuple of str, length K
    train, validation : Interval of arrays of shape (E, K)
        Share learned of each split.
    memorised : Interval of arrays of shape (E, K)
        Their difference; documents of the two splits are resampled apart.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    arm: str
    n_seeds: int
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    train: Interval
    validation: Interval
    memorised: Interval
    passes: Floats | None = None

    layout: ClassVar[Layout | None] = Layout(
        "arms: shares learned and memorised after the last epoch",
        (
            ARM,
            BUCKET,
            Column("training, learned", lambda c, k: last_of(c.train, k), percent_interval, "% of tokens"),
            Column("validation, learned", lambda c, k: last_of(c.validation, k), percent_interval, "% of tokens"),
            Column("memorised", lambda c, k: last_of(c.memorised, k), percent_interval, "percentage points"),
            curve_column("memorised by epoch", lambda c, k: c.memorised.estimate[:, k]),
            SEEDS,
        ),
        rows="labels",
        axes=EPOCHS_AND_BUCKETS,
        arrays={**PASSES, **{name: (name, "epoch", "bucket") for name in ("train", "validation", "memorised")}},
        left_out=("passes",),
    )


def _epochs(result: EpochsToReach, k: int) -> Any:
    around = result.epochs
    return tuple(float(each[k]) for each in (around.estimate, around.low, around.high))


@dataclass(frozen=True, slots=True, repr=False)
class EpochsToReach(Shown):
    """How long an arm took to come down to a loss.

    Attributes
    ----------
    arm, n_seeds, split
    level : float
        Nats per token.
    labels : tuple of str, length K
    epochs : Interval of arrays of shape (K,)
        Epochs, straight lines between recorded ones; infinity where the level is never reached (in the upper end: not
        in so many of the resamples).
    """

    arm: str
    n_seeds: int
    split: str
    level: float
    labels: tuple[str, ...]
    epochs: Interval

    layout: ClassVar[Layout | None] = Layout(
        "arms: epochs until a loss is reached",
        (
            ARM,
            BUCKET,
            Column("loss to reach", "level", decimals, "nats per token", once=True),
            Column("after", _epochs, epochs_interval, "epochs"),
            SPLIT,
            SEEDS,
            text_column("intervals generalise over", lambda *_: OVER_IN_WORDS["documents"], once=True),
        ),
        rows="labels",
        axes={"bucket": "labels"},
        arrays={"epochs": ("epochs", "bucket")},
    )


def learning_curves(
    data: Source | Iterable[Source],
    *,
    buckets: Bucketing | int = 2,
    over: Over | None = None,
    level: float = 0.95,
) -> Results[LearningCurves]:
    """Return the shares learned and memorised of every arm by bucket and epoch.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    buckets : Bucketing or int
        An int asks for that many by reference entropy.
    over, level
        As for `curve_interval`.

    Warns
    -----
    UserWarning
        With fewer than 15 documents in either split, or two seeds.
    """
    arms = collect_arms(data)
    how = as_buckets(arms, buckets)
    options: dict[str, Any] = {"over": over, "level": level}
    rows: Results[LearningCurves] = Results()
    for arm in arms:
        train, validation = (arm.seed_sums(split, buckets=how, value="correct") for split in ("train", "validation"))
        rows.append(
            LearningCurves(
                arm=arm.name,
                n_seeds=len(arm.runs),
                epochs=train[0].epochs,
                labels=train[0].labels,
                train=within_shares(curve_interval(train, **options)),
                validation=within_shares(curve_interval(validation, **options)),
                memorised=gap_interval(train, validation, **options),
                passes=train[0].passes,
            )
        )
    return rows


def epochs_to_reach_loss(
    data: Source | Iterable[Source],
    loss: float,
    *,
    split: str = "validation",
    buckets: Bucketing | int = 1,
    resampling: Resampling | None = None,
    n_resamples: int | None = None,
    level: float | None = None,
    seed: int | None = None,
) -> Results[EpochsToReach]:
    """Return after how many epochs every arm's mean loss first came down to `loss` nats, by bucket.

    See `epochs_to_reach`. The interval's ends are values that occurred in a resample, since nothing can be interpolated
    between a number and infinity.

    Parameters
    ----------
    data : Study, Run, Arm, or sequence of these
    loss : float
        Nats per token.
    split : str, default "validation"
    buckets : Bucketing or int, default 1
        Frozen or moving buckets, or that many by reference entropy.
    resampling : Resampling, optional
        Of the documents.
    n_resamples, level, seed : int, float, int, optional
        Deprecated: use `resampling`.

    Warns
    -----
    UserWarning
        With fewer than 50 documents.
    """
    draws = resampling_of(resampling, n_resamples=n_resamples, level=level, seed=seed)
    arms = collect_arms(data)
    how = as_buckets(arms, buckets)
    rows: Results[EpochsToReach] = Results()
    for arm in arms:
        sums = arm.sums(split, buckets=how)
        warn_few(sums.n_documents)
        weights = document_weights(sums.n_documents, draws)
        resampled = epochs_to_reach(resampled_curves(sums, weights), arm.passes, loss, axis=1)
        low, high = _observed_percentiles(resampled, draws.level)
        interval = Interval(low, high, epochs_to_reach(mean_curve(sums), arm.passes, loss))
        rows.append(EpochsToReach(arm.name, len(arm.runs), split, loss, sums.labels, interval))
    return rows


def _observed_percentiles(values: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the ends of the middle share of (R, K) values, infinity among them; NaN where all are NaN."""
    ordered = np.sort(values, axis=0)  # NaN last
    known = (~np.isnan(values)).sum(axis=0)
    ends = []
    for tail in ((1.0 - level) / 2.0, (1.0 + level) / 2.0):
        place = np.clip(np.ceil(tail * known).astype(np.intp) - 1, 0, None)
        ends.append(np.take_along_axis(ordered, place[None], axis=0)[0])
    return ends[0], ends[1]
