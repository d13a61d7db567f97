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

Shape suffixes: E epochs, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over, curve_interval, gap_interval
from dynamics.analysis.intervals.bootstrap import (
    document_weights,
    resampled_curves,
    warn_few,
)
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Source, as_buckets, collect_arms
from dynamics.analysis.sums.curves import epochs_to_reach, mean_curve
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class EpochsToReach:
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


def learning_curves(
    data: Source | Iterable[Source],
    *,
    buckets: Bucketing | int = 2,
    over: Over | None = None,
    level: float = 0.95,
) -> list[LearningCurves]:
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
    rows = []
    for arm in arms:
        train, validation = (arm.seed_sums(split, buckets=how, value="correct") for split in ("train", "validation"))
        rows.append(
            LearningCurves(
                arm=arm.name,
                n_seeds=len(arm.runs),
                epochs=train[0].epochs,
                labels=train[0].labels,
                train=curve_interval(train, **options),
                validation=curve_interval(validation, **options),
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
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[EpochsToReach]:
    """Return after how many epochs every arm's mean loss first came down to `loss` nats, by bucket.

    See `epochs_to_reach`. The interval's ends are values that occurred in a resample, since between a number and
    infinity nothing can be interpolated.

    Parameters
    ----------
    data : Study, Run, Arm, or sequence of these
    loss : float
        Nats per token.
    split : str, default "validation"
    buckets : Bucketing or int, default 1
        Frozen or moving buckets, or that many by reference entropy.
    n_resamples : int, default 1000
        Resamples of documents.
    level : float, default 0.95
        Level of confidence, in (0, 1).
    seed : int, default 0
        Of the resamples.

    Warns
    -----
    UserWarning
        With fewer than 50 documents.
    """
    arms = collect_arms(data)
    how = as_buckets(arms, buckets)
    rows = []
    for arm in arms:
        sums = arm.sums(split, buckets=how)
        warn_few(sums.n_documents)
        weights = document_weights(sums.n_documents, n_resamples, seed)
        resampled = epochs_to_reach(resampled_curves(sums, weights), arm.passes, loss, axis=1)
        low, high = _observed_percentiles(resampled, level)
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
