"""Trajectories of tokens, counted: shares of classes by bucket, validated on other seeds, and the cartography map.

A class is chosen by a run's own losses, so it suffers from the winner's curse: "rebounding" also picks tokens whose
lowest loss was low by luck. Another seed draws order and dropout again, so its change at the same tokens, between the
same epochs, is free of that luck. Seeds share two things that no seed removes: the realised token, which has a high
loss where the text is unlikely, and the starting model.

Shapes: S sequences, P positions, D documents, K buckets, C classes, X and Y bins of the map.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import curve_interval
from dynamics.analysis.intervals.columns import ARM, OVER_IN_WORDS, SEEDS, SPLIT
from dynamics.analysis.intervals.interval import Interval, within_shares
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, at_common_epochs, collect_arms
from dynamics.analysis.sums.curves import ratio
from dynamics.analysis.sums.document_buckets import group_by_document_bucket
from dynamics.analysis.sums.document_sums import DocumentSums, average_sums
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.signals import correlation
from dynamics.analysis.tokens.token_records import Floats
from dynamics.analysis.tokens.trajectories import CLASSES, SeedClasses, token_trajectories
from dynamics.display.layouts import Column, Layout, text_column
from dynamics.display.numbers import decimals, interval, percent, percent_interval, whole
from dynamics.display.results import Results, Shown
from dynamics.errors import InputError

#: What is said where classes stand on one seed alone.
ONE_SEED = "classes that one seed chose by its own losses are not validated: shares and changes hold the winner's curse"


def _of_class(values: Interval, i: int) -> Any:
    return tuple(float(each.flat[i]) for each in (values.estimate, values.low, values.high))


@dataclass(frozen=True, slots=True, repr=False)
class ClassShares(Shown):
    """Shares of the trajectory classes of one arm, and what other seeds confirm of them.

    Each seed chooses the classes of its tokens and is compared with every other seed; the pairs are averaged. Intervals
    are over documents, with the trained models held fixed. NaN with one seed, without tokens, or if an arm diverged.

    Attributes
    ----------
    arm, n_seeds, split
    level : float
        Nats: where low ends and high begins.
    labels : tuple of str, length K
        Buckets.
    classes : tuple of str, length C
        `dynamics.analysis.tokens.trajectories.CLASSES`.
    share : Interval of arrays of shape (K, C)
        Raw share of the bucket's tokens. The shares sum to 1, less the tokens without a finite loss.
    share_in_two : Interval of arrays of shape (K, C)
        Share of the bucket's tokens that are of the class in the seed that chose and in another one.
    confirmed : Interval of arrays of shape (K, C)
        Which share of the class's tokens is of the same class in another seed.
    by_chance : ndarray, shape (K, C)
        What `confirmed` would be if the classes of one seed knew nothing of those of another.
    change : Interval of arrays of shape (K, C)
        Nats: the mean change by which the class's tokens were chosen (`TokenTrajectories.change`): of rebounding ones
        the rise from each token's lowest epoch to the last, of others that of the fitted line.
    change_elsewhere : Interval of arrays of shape (K, C)
        Nats: the same tokens between the same epochs in the other seeds.
    """

    arm: str
    n_seeds: int
    split: str
    level: float
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    share: Interval
    share_in_two: Interval
    confirmed: Interval
    by_chance: Floats
    change: Interval
    change_elsewhere: Interval

    layout: ClassVar[Layout | None] = Layout(
        "arms: classes of trajectories",
        (
            ARM,
            text_column("bucket", lambda c, i: c.labels[i // len(c.classes)], once=True),
            text_column("class", lambda c, i: c.classes[i % len(c.classes)]),
            Column("share", lambda c, i: _of_class(c.share, i), percent_interval, "% of tokens"),
            Column(
                "confirmed by another seed", lambda c, i: _of_class(c.confirmed, i), percent_interval, "% of the class"
            ),
            Column("by chance", lambda c, i: c.by_chance.flat[i], percent, "%"),
            Column("change", lambda c, i: _of_class(c.change, i), interval, "nats"),
            Column("change in other seeds", lambda c, i: _of_class(c.change_elsewhere, i), interval, "nats"),
            Column("low up to", "level", decimals, "nats", once=True),
            SPLIT,
            SEEDS,
            text_column("intervals generalise over", lambda *_: OVER_IN_WORDS["documents"], once=True),
        ),
        rows=lambda c: range(len(c.labels) * len(c.classes)),
        axes={"bucket": "labels", "class": "classes"},
        arrays={
            name: (name, "bucket", "class")
            for name in ("share", "share_in_two", "confirmed", "by_chance", "change", "change_elsewhere")
        },
        notes=lambda rows: list(dict.fromkeys(row.note for row in rows if row.note)),
    )

    @property
    def note(self) -> str | None:
        """What is to be said beside the shares; None where they are validated."""
        return ONE_SEED if self.n_seeds == 1 else None


def _mean(result: CartographyMap, values: Floats) -> float:
    total = float(result.n_tokens.sum())
    return float(np.nansum(values * result.n_tokens)) / total if total else math.nan


def _middles(edges: Floats) -> Floats:
    middles: Floats = (edges[:-1] + edges[1:]) / 2.0
    return middles


@dataclass(frozen=True, slots=True, repr=False)
class CartographyMap(Shown):
    """Tokens of one arm by variability (x) and confidence (y), after Swayamdipta et al. 2020.

    Attributes
    ----------
    arm, n_seeds, split
    variability_edges : ndarray, shape (X + 1,)
        From 0 to 0.5, the greatest standard deviation that a probability can have.
    confidence_edges : ndarray, shape (Y + 1,)
        From 0 to 1.
    n_tokens : ndarray, shape (X, Y)
        Tokens in each bin, the mean over seeds.
    correctness : ndarray, shape (X, Y)
        Mean share of epochs in which they were the most probable ones; NaN for an empty bin.
    variability_agreement, confidence_agreement : float
        Correlation over tokens of a token's place in one seed with its place in another, the mean over pairs of seeds:
        how much of the map another training would draw again. NaN with one seed, and where seeds recorded other
        sequences.
    """

    arm: str
    n_seeds: int
    split: str
    variability_edges: Floats
    confidence_edges: Floats
    n_tokens: Floats
    correctness: Floats
    variability_agreement: float = math.nan
    confidence_agreement: float = math.nan

    layout: ClassVar[Layout | None] = Layout(
        "maps: tokens by variability and confidence",
        (
            ARM,
            Column("tokens", lambda m, _: round(float(m.n_tokens.sum())), whole),
            Column("mean correctness", lambda m, _: _mean(m, m.correctness), percent, "% of epochs"),
            Column("agreement of variability between seeds", "variability_agreement", lambda r: decimals(r, 2), "r"),
            Column("agreement of confidence between seeds", "confidence_agreement", lambda r: decimals(r, 2), "r"),
            SPLIT,
            SEEDS,
        ),
        axes={
            "variability": lambda m: _middles(m.variability_edges),
            "confidence": lambda m: _middles(m.confidence_edges),
        },
        arrays={
            "n_tokens": ("n_tokens", "variability", "confidence"),
            "correctness": ("correctness", "variability", "confidence"),
        },
    )


def class_shares(
    data: Source | Iterable[Source],
    *,
    split: str = "validation",
    buckets: Bucketing | int = 1,
    level: float | None = None,
    coverage: float = 0.95,
) -> Results[ClassShares]:
    """Return the share of tokens of every arm and bucket in each class of trajectory, and what confirms it.

    Tokens are followed over the epochs that all arms recorded after the same passes over the data. Classes are chosen
    by each seed's own losses and validated on the other seeds of the arm (see the top of this module). A split within
    one seed would not do: losses of neighbouring epochs share the model's jitter (docs/analysis.md).

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    buckets : Buckets, TwoWayBuckets or int
        Frozen; an int asks for that many by reference entropy.
    level : float, optional
        Nats, the end of low. Default: that of the first arm's first run, for all, so that arms can be compared.
    coverage : float
        Of the intervals, over documents.

    Raises
    ------
    InputError
        For moving buckets, buckets that hold no token, seeds that recorded other sequences, and as `token_trajectories`
        does.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, where epochs of some arms are left out, and where an arm has one seed, whose
        classes nothing validates.
    """
    arms = _followed_alike(data)
    if not isinstance(buckets, int) and buckets.moving:
        raise InputError("a trajectory crosses moving buckets; count classes in frozen ones")
    how = as_buckets(arms, buckets)
    alone = [arm.name for arm in arms if len(arm.runs) == 1]
    if alone:
        warnings.warn(f"{', '.join(alone)}: {ONE_SEED}; train another seed", UserWarning, stacklevel=2)
    rows: Results[ClassShares] = Results()
    for arm in arms:
        rows.append(_validated(arm, split, how, level, coverage))
        level = rows[0].level
    return rows


def _validated(arm: Arm, split: str, how: Bucketing, low_to: float | None, coverage: float) -> ClassShares:
    """Return the row of an arm; `low_to` is where low ends."""
    seeds = []
    for run in arm.runs:
        records = run.records(split)
        found = token_trajectories(records, epochs=arm.epochs, level=low_to)
        low_to = found.level
        seeds.append(SeedClasses.of(records, found))
    _require_same_sequences(arm, split, seeds)
    parts = [
        _validated_sums(one, [other for other in seeds if other is not one], how.index(one.records), how.labels)
        for one in seeds
    ]
    share, in_two, confirmed, change, elsewhere = _over_documents(parts, coverage)
    assert low_to is not None
    return ClassShares(
        arm=arm.name,
        n_seeds=len(seeds),
        split=split,
        level=low_to,
        labels=how.labels,
        classes=CLASSES,
        share=within_shares(share),
        share_in_two=within_shares(in_two),
        confirmed=within_shares(confirmed),
        by_chance=_by_chance(parts),
        change=change,
        change_elsewhere=elsewhere,
    )


def _require_same_sequences(arm: Arm, split: str, seeds: Sequence[SeedClasses]) -> None:
    for run, each in zip(arm.runs[1:], seeds[1:], strict=True):
        if not np.array_equal(each.records.sequence_id, seeds[0].records.sequence_id):
            raise InputError(
                f"{arm.runs[0].path} and {run.path} recorded other sequences of {split!r}, so that one cannot validate "
                "the classes of the other; record the same ones"
            )


def _validated_sums(
    chosen: SeedClasses, others: Sequence[SeedClasses], bucket: NDArray[np.int16], labels: tuple[str, ...]
) -> DocumentSums:
    """Return what `ClassShares` holds of one seed that chose, as sums and counts of shape (5 C, D, K).

    In the place of epochs stand the classes, five times: shares, shares in two seeds, what is confirmed, changes, and
    changes elsewhere.
    """
    n_kinds = len(CLASSES) + 1  # The last is that of tokens without a class, whose loss was NaN.
    of = bucket.astype(np.int32) * n_kinds + np.where(chosen.kind < 0, n_kinds - 1, chosen.kind)
    counted = np.asarray(chosen.records.predicted, dtype=bool) & (bucket >= 0)
    if not counted.any():
        raise InputError("no predicted token is in any of the buckets; there is nothing to count")
    grouped = group_by_document_bucket(chosen.records.document_id, counted, of, len(labels) * n_kinds)

    def by_class(sums: Floats) -> Floats:
        return np.moveaxis(sums.reshape(len(sums), len(labels), n_kinds)[..., :-1], -1, 0)

    counts = grouped.counts()
    members = by_class(counts)
    tokens = np.broadcast_to(counts.reshape(len(counts), len(labels), n_kinds).sum(axis=-1), members.shape)
    same = elsewhere = np.full(members.shape, np.nan)
    if others:
        same = np.mean([by_class(grouped.sums(other.kind == chosen.kind)) for other in others], axis=0)
        elsewhere = np.mean([by_class(grouped.sums(other.change_of(chosen))) for other in others], axis=0)
    return DocumentSums(
        np.concatenate([members, same, same, by_class(grouped.sums(chosen.change)), elsewhere]),
        np.concatenate([tokens, tokens, members, members, members]),
        np.arange(5 * len(CLASSES)),
        labels,
        grouped.documents,
    )


def _over_documents(parts: Sequence[DocumentSums], coverage: float) -> list[Interval]:
    """Return the five parts of `_validated_sums`, averaged over the seeds that chose, with intervals: (K, C) each."""
    average, n = average_sums(parts), len(CLASSES)
    # Without a token of any class in any seed, as where an arm diverged, the shares are unknown and not 0.
    classless = ~np.any([part.counts[2 * n : 3 * n].any(axis=(0, 1)) for part in parts], axis=0)
    average.sums[:n, :, classless] = np.nan
    band = curve_interval([average], level=coverage)
    ends = [np.split(end, 5) for end in (band.low, band.high, band.estimate)]
    return [Interval(low.T, high.T, estimate.T) for low, high, estimate in zip(*ends, strict=True)]


def _by_chance(parts: Sequence[DocumentSums]) -> Floats:
    """Return `ClassShares.by_chance`: over pairs of seeds, the share in the one at the tokens of the other."""
    n = len(CLASSES)
    members = np.stack([part.counts[2 * n : 3 * n].sum(axis=1) for part in parts])  # (seed, C, K)
    share = ratio(members, np.stack([part.counts[:n].sum(axis=1) for part in parts]))
    if len(parts) == 1:
        return np.full(share[0].T.shape, np.nan)
    elsewhere = (share.sum(axis=0) - share) / (len(parts) - 1)
    return ratio((members * elsewhere).sum(axis=0), members.sum(axis=0)).T


def cartography(
    data: Source | Iterable[Source], *, split: str = "train", bins: tuple[int, int] = (50, 50)
) -> Results[CartographyMap]:
    """Return the map of every arm's tokens by variability and confidence.

    Tokens are followed over the epochs that all arms recorded after the same passes over the data.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
        The paper maps what is trained on.
    bins : (int, int)
        Along variability and confidence.

    Raises
    ------
    InputError
        As `token_trajectories` does, and if no epoch but 0 is recorded.

    Warns
    -----
    UserWarning
        Where epochs of some arms are left out.
    """
    maps: Results[CartographyMap] = Results()
    for arm in _followed_alike(data):
        if arm.epochs[-1] == 0:
            raise InputError(f"arm {arm.name!r} has epoch 0 alone; the map needs epochs of training")
        total = np.zeros(bins)
        correct = np.zeros(bins)
        edges = np.linspace(0.0, 0.5, bins[0] + 1), np.linspace(0.0, 1.0, bins[1] + 1)
        places = []
        for run in arm.runs:
            records = run.records(split)
            found = token_trajectories(records, epochs=arm.epochs)
            places.append((records.sequence_id, found.variability, found.confidence))
            known = ~np.isnan(found.confidence)
            # float32 may put a deviation a hair above 0.5.
            place = np.minimum(found.variability[known], 0.5), np.minimum(found.confidence[known], 1.0)
            total += np.histogram2d(*place, bins=edges)[0]
            correct += np.histogram2d(*place, bins=edges, weights=found.correctness[known])[0]
        correctness = np.divide(correct, total, out=np.full(bins, np.nan), where=total > 0)
        n_seeds = len(arm.runs)
        maps.append(CartographyMap(arm.name, n_seeds, split, *edges, total / n_seeds, correctness, *_agreement(places)))
    return maps


def _agreement(places: Sequence[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]]) -> list[float]:
    """Return the correlation of variabilities and of confidences between seeds, the mean over pairs."""
    pairs = [(one, other) for one, other in combinations(places, 2) if np.array_equal(one[0], other[0])]
    return [float(np.mean([correlation(one[k], other[k]) for one, other in pairs] or [math.nan])) for k in (1, 2)]


def _followed_alike(data: Source | Iterable[Source]) -> list[Arm]:
    """Return the arms at common epochs: what became of a token depends on how long it is followed."""
    arms = collect_arms(data)
    alike = at_common_epochs(arms)
    if any(arm.epochs != each.epochs for arm, each in zip(arms, alike, strict=True)):
        epochs = alike[0].epochs
        warnings.warn(
            f"arms were recorded after different passes over the data: tokens are followed over epochs {epochs[0]} to "
            f"{epochs[-1]}, which all arms have",
            UserWarning,
            stacklevel=3,
        )
    return alike
