"""Calibration from what the records hold: loss, entropy, and whether the token was the most probable one.

The usual expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3) compares the accuracy of the argmax
with its probability. That probability is not recorded (it would be a third number for every token and epoch), so that
error cannot be computed, and anything that looks like it would be made up. Two things can be said exactly.

*Entropy calibration.* If a model's probabilities are right, its expected loss at every token is its entropy there:
E[-log p(y)] = H(p) for y drawn from p. In a bin of tokens of like predicted entropy, mean loss minus mean entropy is
therefore 0 in expectation, positive where the model is too sure, negative where it is not sure enough. Over all tokens
this is the overconfidence; over bins, weighted by their tokens, the mean absolute difference is an error in the manner
of the usual one, but of the whole distribution and in nats:

    ECE_H = sum_b n_b / n |mean loss_b - mean entropy_b|.

Comparing a language model's loss with its entropy goes back to Braverman et al. 2020 (arXiv 1906.05664) and, under this
name, Cao, Valiant and Liang 2025 (arXiv 2511.11966), there over generated text; here token by token on real text. Bins
are of equal size in every epoch (as Nixon et al. 2019, arXiv 1904.01685, argue for the usual error).

*A floor under the argmax's error.* The entropy bounds the probability of the argmax: H = E[-log p] >= -log max p, so
max p >= exp(-H), the *certainty*. Where a bin's accuracy is below its mean certainty, its mean argmax probability is
above its accuracy by at least the difference. Summed over bins as above, this is a lower bound of the usual error with
the same bins, the part of it that is overconfidence and that the records prove. It can be far below the error itself.

Like every mean of absolute values, ECE_H is biased upward by noise: with b bins of perfectly calibrated tokens it is
not 0. Its interval says how uncertain it is, not that it is above 0; the signed overconfidence has no such bias.

Shapes: R resamples, E epochs, K bins or buckets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over, curve_interval, generalises_over
from dynamics.analysis.intervals.bootstrap import (
    Resampling,
    document_weights,
    percentiles,
    resampler,
    resampling_of,
    warn_few,
)
from dynamics.analysis.intervals.columns import (
    ARM,
    BUCKET,
    EPOCHS_AND_BUCKETS,
    OVER,
    OVER_IN_WORDS,
    PASSES,
    SEEDS,
    SPLIT,
    diverged,
    ends,
    last_of,
)
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, collect_arms
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing, moving_buckets
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.layouts import Column, Layout, curve_column, text_column
from dynamics.display.numbers import decimals, interval, percent_interval, whole
from dynamics.display.results import Results


@dataclass(frozen=True, slots=True, repr=False)
class Overconfidence(OverEpochs):
    """Mean loss minus mean entropy of an arm, by bucket and epoch.

    Attributes
    ----------
    arm, n_seeds, split
    epochs : ndarray of int64, shape (E,)
    labels : tuple of str, length K
    value : Interval of arrays of shape (E, K)
        Nats per token; positive where the model is surer than it should be.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    over : {"documents", "seeds_and_documents"}
        What the intervals generalise over.
    """

    arm: str
    n_seeds: int
    split: str
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    value: Interval
    passes: Floats | None = None
    over: Over = "documents"

    layout: ClassVar[Layout | None] = Layout(
        "curves: overconfidence, mean loss minus mean entropy",
        (
            ARM,
            BUCKET,
            Column("first epoch", lambda o, k: o.value.estimate[0, k], decimals, "nats per token"),
            Column("last epoch", lambda o, k: last_of(o.value, k), interval, "nats per token"),
            curve_column("by epoch", lambda o, k: o.value.estimate[:, k]),
            SPLIT,
            SEEDS,
            OVER,
        ),
        rows="labels",
        axes=EPOCHS_AND_BUCKETS,
        arrays={**PASSES, "value": ("value", "epoch", "bucket")},
        left_out=("passes",),
    )


def _at_end(result: Calibration, error: Interval) -> Any:
    numbers = (float(each[-1]) for each in (error.estimate, error.low, error.high))
    return ends(*numbers, diverged=diverged(result.error.estimate))


@dataclass(frozen=True, slots=True, repr=False)
class Calibration(OverEpochs):
    """Reliability of an arm in bins of predicted entropy, by epoch.

    Attributes
    ----------
    arm, n_seeds, split
    epochs : ndarray of int64, shape (E,)
    entropy : ndarray, shape (E, K)
        Mean predicted entropy of each bin, nats: the x axis of a reliability diagram.
    loss, accuracy, difference : Interval of arrays of shape (E, K)
        Mean loss (nats; calibrated where it equals `entropy`), share of tokens that were the most probable, and mean
        loss minus mean entropy.
    certainty : ndarray, shape (E, K)
        Mean of exp(-entropy): calibrated accuracy is not below it.
    share : ndarray, shape (E, K)
        Share of the tokens that are in the bin.
    error : Interval of arrays of shape (E,)
        ECE_H, nats.
    argmax_error_floor : Interval of arrays of shape (E,)
        Lower bound of the usual expected calibration error with these bins, a probability.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    arm: str
    n_seeds: int
    split: str
    epochs: NDArray[np.int64]
    entropy: Floats
    loss: Interval
    accuracy: Interval
    difference: Interval
    certainty: Floats
    share: Floats
    error: Interval
    argmax_error_floor: Interval
    passes: Floats | None = None

    layout: ClassVar[Layout | None] = Layout(
        "calibrations",
        (
            ARM,
            Column("ECE_H, first epoch", lambda c, _: c.error.estimate[0], decimals, "nats"),
            Column("ECE_H, last epoch", lambda c, _: _at_end(c, c.error), interval, "nats"),
            Column(
                "floor of the usual ECE, last epoch",
                lambda c, _: _at_end(c, c.argmax_error_floor),
                percent_interval,
                "%",
            ),
            curve_column("ECE_H by epoch", lambda c, _: c.error.estimate),
            Column("bins", lambda c, _: c.share.shape[-1], whole, once=True),
            SPLIT,
            SEEDS,
            text_column("intervals generalise over", lambda *_: OVER_IN_WORDS["documents"], once=True),
        ),
        axes={"epoch": "epochs", "bin": lambda c: range(1, c.share.shape[-1] + 1)},
        arrays={
            **PASSES,
            **{
                name: (name, "epoch", "bin")
                for name in ("share", "entropy", "certainty", "loss", "accuracy", "difference")
            },
            "error": ("error", "epoch"),
            "argmax_error_floor": ("argmax_error_floor", "epoch"),
        },
        left_out=("passes",),
    )


def overconfidence(
    data: Source | Iterable[Source],
    *,
    split: str = "validation",
    buckets: Bucketing | int = 1,
    over: Over | None = None,
    level: float = 0.95,
) -> Results[Overconfidence]:
    """Return mean loss minus mean entropy of every arm by bucket and epoch, with intervals.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    buckets : Bucketing or int
        An int asks for that many by reference entropy.
    over, level
        As for `curve_interval`.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, or two seeds.
    """
    arms = collect_arms(data)
    how = as_buckets(arms, buckets)
    rows: Results[Overconfidence] = Results()
    for arm in arms:
        arm.load(split, ("loss", "entropy"), buckets=how)
        parts = difference_sums(arm, split, how)
        value = curve_interval(parts, over=over, level=level)
        first = parts[0]
        answered = over or generalises_over(parts)
        rows.append(
            Overconfidence(arm.name, len(arm.runs), split, first.epochs, first.labels, value, arm.passes, answered)
        )
    return rows


def difference_sums(arm: Arm, split: str, buckets: Bucketing | None) -> list[DocumentSums]:
    """Return the sums per document of loss minus entropy, one a seed."""
    losses, entropies = (arm.seed_sums(split, buckets=buckets, value=value) for value in ("loss", "entropy"))
    return [replace(loss, sums=loss.sums - entropy.sums) for loss, entropy in zip(losses, entropies, strict=True)]


def calibration(
    data: Source | Iterable[Source],
    *,
    split: str = "validation",
    n_bins: int = 15,
    resampling: Resampling | None = None,
    n_resamples: int | None = None,
    level: float | None = None,
    seed: int | None = None,
) -> Results[Calibration]:
    """Return how well the entropy of every arm predicts its loss, in bins of equal size in every epoch.

    Bins are those of the single run: with several seeds, a bin holds every seed's tokens of that rank together.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    n_bins : int
    resampling : Resampling, optional
        Of the documents, for the errors; bins are not cut again in a resample.
    n_resamples, level, seed : int, float, int, optional
        Deprecated: use `resampling`.

    Warns
    -----
    UserWarning
        With fewer than 50 documents.
    """
    how = resampling_of(resampling, n_resamples=n_resamples, level=level, seed=seed)
    bins = moving_buckets(n_bins)
    return Results(_calibration(arm, split, bins, how) for arm in collect_arms(data))


def entropy_calibration_error(difference: Floats, share: Floats) -> Floats:
    """Return ECE_H: the mean absolute difference of loss and entropy over bins, (..., K) to (...), nats.

    Parameters
    ----------
    difference, share : ndarray of float64, shape (..., K)
        Of each bin: mean loss minus mean entropy, nats, and the bin's share of all tokens.
    """
    return _weighted(np.abs(difference), share)


def argmax_error_floor(certainty: Floats, accuracy: Floats, share: Floats) -> Floats:
    """Return the least that the argmax's expected calibration error can be, (..., K) to (...).

    Parameters
    ----------
    certainty, accuracy, share : ndarray of float64, shape (..., K)
        Of each bin: the mean of exp(-entropy), the share of correct tokens, and the bin's share of all tokens.
    """
    return _weighted(np.maximum(certainty - accuracy, 0.0), share)


def _weighted(values: Floats, share: Floats) -> Floats:
    # An empty bin has no value and no weight; NaN in a bin with tokens stays.
    total: Floats = np.where(share > 0, values * share, 0.0).sum(axis=-1)
    return total


def _calibration(arm: Arm, split: str, bins: Bucketing, how: Resampling) -> Calibration:
    arm.load(split, ("loss", "entropy", "correct", "certainty"), buckets=bins)
    loss = arm.sums(split, buckets=bins)
    entropy, correct, certainty = (
        arm.sums(split, buckets=bins, value=value) for value in ("entropy", "correct", "certainty")
    )
    warn_few(loss.n_documents)
    weights = document_weights(loss.n_documents, how)
    difference = replace(loss, sums=loss.sums - entropy.sums)

    def interval(resampled: Floats, estimate: Floats) -> Interval:
        return Interval(*percentiles(resampled, how.level), estimate)

    def both(ds: DocumentSums) -> tuple[Floats, Floats]:
        return resampler(ds)(weights), mean_curve(ds)

    # A bin's share of all tokens, as a curve: every document counts with all its tokens below the line.
    tokens = replace(
        loss, sums=loss.counts, counts=np.repeat(loss.counts.sum(-1, keepdims=True), loss.counts.shape[-1], -1)
    )
    shares, share = both(tokens)
    differences, mean_difference = both(difference)
    accuracies, accuracy = both(correct)
    certainties, mean_certainty = both(certainty)
    return Calibration(
        arm=arm.name,
        n_seeds=len(arm.runs),
        split=split,
        epochs=loss.epochs,
        entropy=mean_curve(entropy),
        loss=curve_interval([loss], level=how.level),
        accuracy=curve_interval([correct], level=how.level),
        difference=curve_interval([difference], level=how.level),
        certainty=mean_certainty,
        share=share,
        error=interval(
            entropy_calibration_error(differences, shares), entropy_calibration_error(mean_difference, share)
        ),
        argmax_error_floor=interval(
            argmax_error_floor(certainties, accuracies, shares), argmax_error_floor(mean_certainty, accuracy, share)
        ),
        passes=loss.passes,
    )
