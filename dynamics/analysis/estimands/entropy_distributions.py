"""Distributions of entropy over tokens, epoch by epoch, with the pool of tokens that may be dropped.

Shapes: E epochs, X bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.columns import ARM, PASSES, SEEDS, SPLIT
from dynamics.analysis.sums.arms import Source, collect_arms
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.token_records import Floats, TokenRecords, known_values
from dynamics.display.layouts import Column, Layout, curve_column
from dynamics.display.numbers import decimals, percent
from dynamics.display.results import Results
from dynamics.errors import InputError
from dynamics.records.reader import Run
from dynamics.regularizers.registry import METHODS, setting

# What a recipe says where its pool is an interval of reference entropy.
_BY_REFERENCE_ENTROPY = {
    "signal": "entropy",
    "distribution": "of_token",
    "source": "reference",
    "ranks": "dataset",
}


def _mean(result: EntropyDistribution, density: Floats) -> float:
    """Return the mean of a density, nats, with every token in the middle of its bin."""
    if not density.any():
        return math.nan
    middles = (result.edges[:-1] + result.edges[1:]) / 2.0
    return float((density * np.diff(result.edges) * middles).sum())


def _dropped_at_all(result: EntropyDistribution) -> Floats:
    """Return the shares dropped at all epochs, shape (E, X); NaN where they are not recorded."""
    shares = np.full(result.density.shape, np.nan)
    shares[np.isin(result.epochs, result.dropped_epochs)] = result.dropped
    return shares


@dataclass(frozen=True, slots=True, repr=False)
class EntropyDistribution(OverEpochs):
    """How the entropy of an arm's tokens is distributed.

    Attributes
    ----------
    arm, n_seeds, split
    edges : ndarray, shape (X + 1,)
        Nats. What lies above the last edge is in the last bin.
    epochs : ndarray of int64, shape (E,)
    density : ndarray, shape (E, X)
        Share of predicted tokens per nat, by their entropy in that epoch; the mean over seeds.
    reference : ndarray, shape (X,)
        The same by reference entropy, which does not change.
    dropped_epochs : ndarray of int64, shape (F,)
        Epochs whose dropped tokens are recorded; none outside of training tokens.
    dropped : ndarray, shape (F, X)
        Share of the tokens of each bin of *reference* entropy that were dropped in that epoch; NaN for an empty bin.
    pool : float
        Share of the predicted training tokens that may be dropped, as the recipe says; NaN without a pool.
    pool_low, pool_high : float
        The pool in the reference entropy of the training tokens, nats: from the lowest value up to an edge for
        EntroDrop, from an edge to the highest value for its inverse. NaN without a pool, and where the recipe ranks
        tokens by another signal or within groups: the pool is no interval here then.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    arm: str
    n_seeds: int
    split: str
    edges: Floats
    epochs: NDArray[np.int64]
    density: Floats
    reference: Floats
    dropped_epochs: NDArray[np.int64]
    dropped: Floats
    pool: float
    pool_low: float
    pool_high: float
    passes: Floats | None = None

    layout: ClassVar[Layout | None] = Layout(
        "distributions: entropy of tokens",
        (
            ARM,
            Column("mean of the reference model", lambda d, _: _mean(d, d.reference), decimals, "nats"),
            Column("mean at the first epoch", lambda d, _: _mean(d, d.density[0]), decimals, "nats"),
            Column("mean at the last epoch", lambda d, _: _mean(d, d.density[-1]), decimals, "nats"),
            curve_column("density at the last epoch", lambda d, _: d.density[-1]),
            Column("pool", "pool", percent, "% of tokens"),
            Column("pool from", "pool_low", decimals, "nats"),
            Column("pool to", "pool_high", decimals, "nats"),
            SPLIT,
            SEEDS,
        ),
        axes={"epoch": "epochs", "entropy": lambda d: (d.edges[:-1] + d.edges[1:]) / 2.0},
        arrays={
            **PASSES,
            "density": ("density", "epoch", "entropy"),
            "reference": ("reference", "entropy"),
            "dropped": (_dropped_at_all, "epoch", "entropy"),
        },
        left_out=("passes",),
    )


def entropy_distributions(
    data: Source | Iterable[Source], *, split: str = "train", n_bins: int = 60, highest: float | None = None
) -> Results[EntropyDistribution]:
    """Return the distribution of entropy of every arm in every epoch, and what was dropped of it.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    n_bins : int
        Of equal width from 0.
    highest : float, optional
        Nats, the last edge. Default: the highest reference entropy, the same for all arms.

    Raises
    ------
    InputError
        If `highest` is not above 0, or no token has a reference entropy.
    """
    arms = collect_arms(data)
    first = arms[0].runs[0].records(split)
    known = first.reference_entropy[first.predicted & ~np.isnan(first.reference_entropy)]
    if highest is None:
        if not known.size:
            raise InputError("no token has a reference entropy; run the reference pass, or give highest")
        highest = float(known.max())
    if not highest > 0:
        raise InputError(f"highest={highest:g} leaves no room for bins; give a number of nats above 0")
    edges = np.linspace(0.0, highest, n_bins + 1)
    reference = _bins(first.reference_entropy, edges)
    rows: Results[EntropyDistribution] = Results()
    for arm in arms:
        epochs = arm.epochs
        density = np.zeros((len(epochs), n_bins))
        for run in arm.runs:
            records = run.records(split)
            for i, epoch in enumerate(epochs):
                density[i] += _density(records, _bins(known_values(records, "entropy", epoch), edges), edges)
        dropped_epochs, dropped = _dropped(arm.runs, split, epochs, reference, n_bins)
        pool, pool_low, pool_high = _pool(arm.runs[0])
        rows.append(
            EntropyDistribution(
                arm=arm.name,
                n_seeds=len(arm.runs),
                split=split,
                edges=edges,
                epochs=np.asarray(epochs, dtype=np.int64),
                density=density / len(arm.runs),
                reference=_density(first, reference, edges),
                dropped_epochs=dropped_epochs,
                dropped=dropped,
                pool=pool,
                pool_low=pool_low,
                pool_high=pool_high,
                passes=np.asarray([arm.runs[0].passes(epoch) for epoch in epochs], dtype=np.float64),
            )
        )
    return rows


def _bins(values: NDArray[Any], edges: Floats) -> NDArray[np.intp]:
    """Return the bin of every value, the last one for all above; -1 for NaN."""
    scaled = np.asarray(values, dtype=np.float32) * np.float32((len(edges) - 1) / edges[-1])
    found = np.where(np.isnan(scaled), -1.0, np.clip(scaled, 0, len(edges) - 2))
    return found.astype(np.intp)


def _density(records: TokenRecords, bins: NDArray[np.intp], edges: Floats) -> Floats:
    inside = bins[np.asarray(records.predicted, dtype=bool) & (bins >= 0)]
    counts = np.bincount(inside, minlength=len(edges) - 1).astype(np.float64)
    density: Floats = counts / max(counts.sum(), 1.0) / np.diff(edges)
    return density


def _dropped(
    runs: list[Run], split: str, epochs: list[int], reference: NDArray[np.intp], n_bins: int
) -> tuple[NDArray[np.int64], Floats]:
    trained = [epoch for epoch in epochs if epoch > 0] if split == "train" else []
    share = np.zeros((len(trained), n_bins))
    for run in runs:
        records = run.records(split) if trained else None
        for i, epoch in enumerate(trained):
            assert records is not None
            chosen = records.predicted & (reference >= 0)
            among = np.bincount(reference[chosen], minlength=n_bins).astype(np.float64)
            hit = np.bincount(reference[chosen & records.dropped(epoch)], minlength=n_bins)
            share[i] += np.divide(hit, among, out=np.full(n_bins, np.nan), where=among > 0)
    return np.asarray(trained, dtype=np.int64), share / len(runs)


def _pool(run: Run) -> tuple[float, float, float]:
    """Return share, lowest and highest reference entropy of the pool of a run's recipe."""
    for settings in run.config.get("regularizers") or []:
        method = METHODS.get(settings.get("name"))
        if method is None or method.pool_end not in ("lowest", "highest"):
            continue
        threshold = setting(settings, "threshold")
        # Where the lowest are dropped first, the pool grows with the curriculum, up to its peak.
        pool = setting(settings, "ratio" if setting(settings, "choice") == "lowest" else "pool")
        share = math.nan if pool is None else float(pool)
        ranked = [setting(settings, key) == wanted for key, wanted in _BY_REFERENCE_ENTROPY.items()]
        if not all(ranked) or "train" not in run.splits:
            return share, math.nan, math.nan
        # Ranks are taken over all training sequences, recorded or not.
        whole = run.records("train").whole
        values = whole.reference_entropy[whole.predicted]
        ordered = np.sort(values[~np.isnan(values)])
        if threshold is None:
            size = round(share * len(ordered))
        else:
            size = int((ordered <= threshold if method.pool_end == "lowest" else ordered >= threshold).sum())
            share = size / max(1, len(ordered))
        if not size:
            return share, math.nan, math.nan
        inside = ordered[:size] if method.pool_end == "lowest" else ordered[-size:]
        return share, float(inside[0]), float(inside[-1])
    return math.nan, math.nan, math.nan
