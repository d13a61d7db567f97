"""Trajectories of tokens, counted: shares of classes by bucket, and the cartography map, for every arm.

Shape suffixes: K buckets, C classes, X and Y bins of the map.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bootstrap import bootstrap_curve
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, at_common_epochs, collect_arms
from dynamics.analysis.sums.document_buckets import group_by_document_bucket
from dynamics.analysis.sums.document_sums import DocumentSums, average_sums
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats
from dynamics.analysis.tokens.trajectories import CLASSES, TokenTrajectories, token_trajectories
from dynamics.errors import InputError


@dataclass(frozen=True, slots=True)
class ClassShares:
    """Shares of the trajectory classes of one arm.

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
        Of the bucket's tokens; they sum to 1 but for tokens whose loss was NaN.
    """

    arm: str
    n_seeds: int
    split: str
    level: float
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    share: Interval


@dataclass(frozen=True, slots=True)
class CartographyMap:
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
    """

    arm: str
    n_seeds: int
    split: str
    variability_edges: Floats
    confidence_edges: Floats
    n_tokens: Floats
    correctness: Floats


def class_shares(
    data: Source | Iterable[Source],
    *,
    split: str = "validation",
    buckets: Bucketing | int = 1,
    level: float | None = None,
    n_resamples: int = 1000,
    coverage: float = 0.95,
    seed: int = 0,
) -> list[ClassShares]:
    """Return which share of the tokens of every arm and bucket follows each class of trajectory.

    Tokens are followed over the epochs that all arms recorded after the same passes over the data.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    buckets : Buckets, TwoWayBuckets or int
        Frozen; an int asks for that many by reference entropy.
    level : float, optional
        Nats, the end of low. Default: that of the first arm's first run, for all, so that arms can be compared.
    n_resamples, seed
        As for `bootstrap_curve`.
    coverage : float
        Of the intervals, over documents.

    Raises
    ------
    InputError
        For moving buckets, and as `token_trajectories` does.

    Warns
    -----
    UserWarning
        With fewer than 50 documents, and where epochs of some arms are left out.
    """
    arms = _followed_alike(data)
    how = as_buckets(arms, buckets)
    if how.moving:
        raise InputError("a trajectory crosses moving buckets; count classes in frozen ones")
    rows = []
    for arm in arms:
        parts = []
        for run in arm.runs:
            records = run.records(split)
            found = token_trajectories(records, epochs=arm.epochs, level=level)
            level = found.level if level is None else level
            index = how.index(records)
            chosen = np.asarray(records.predicted, dtype=bool) & (index >= 0)
            parts.append(class_sums(found, records.document_id, chosen, index, how.labels))
        sums = average_sums(parts)
        # Classes lie where epochs do elsewhere: (C, K), turned.
        band = bootstrap_curve(sums, n_resamples=n_resamples, level=coverage, seed=seed)
        share = Interval(band.low.T, band.high.T, band.estimate.T)
        assert level is not None
        rows.append(ClassShares(arm.name, len(arm.runs), split, level, sums.labels, CLASSES, share))
    return rows


def class_sums(
    found: TokenTrajectories,
    document_id: NDArray[np.int32],
    chosen: NDArray[np.bool_],
    bucket: NDArray[np.int16],
    labels: tuple[str, ...],
) -> DocumentSums:
    """Return how many tokens of each class each document and bucket has, classes in the place of epochs."""
    grouped = group_by_document_bucket(document_id, chosen, bucket, len(labels))
    kind = found.kind
    sums = np.stack([grouped.sums(kind == each) for each in range(len(CLASSES))])
    return DocumentSums(sums, grouped.counts(), np.arange(len(CLASSES)), labels, grouped.documents)


def cartography(
    data: Source | Iterable[Source], *, split: str = "train", bins: tuple[int, int] = (50, 50)
) -> list[CartographyMap]:
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
    maps = []
    for arm in _followed_alike(data):
        if arm.epochs[-1] == 0:
            raise InputError(f"arm {arm.name!r} has epoch 0 alone; the map needs epochs of training")
        total = np.zeros(bins)
        correct = np.zeros(bins)
        edges = np.linspace(0.0, 0.5, bins[0] + 1), np.linspace(0.0, 1.0, bins[1] + 1)
        for found in _followed(arm, split):
            known = ~np.isnan(found.confidence)
            # float32 may put a deviation a hair above 0.5.
            place = np.minimum(found.variability[known], 0.5), np.minimum(found.confidence[known], 1.0)
            total += np.histogram2d(*place, bins=edges)[0]
            correct += np.histogram2d(*place, bins=edges, weights=found.correctness[known])[0]
        correctness = np.divide(correct, total, out=np.full(bins, np.nan), where=total > 0)
        n_seeds = len(arm.runs)
        maps.append(CartographyMap(arm.name, n_seeds, split, *edges, total / n_seeds, correctness))
    return maps


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


def _followed(arm: Arm, split: str) -> Iterable[TokenTrajectories]:
    for run in arm.runs:
        yield token_trajectories(run.records(split), epochs=arm.epochs)
