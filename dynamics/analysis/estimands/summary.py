"""What a study says in numbers: one row an arm.

Curves are averages over seeds. Intervals are over seeds and documents where an arm has two seeds or more, and over
documents alone, with the trained model held fixed, where it has one; every row says which.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.estimands.quantities import Quantity, arm_quantity
from dynamics.analysis.intervals.bands import Over, curve_interval, generalises_over, uncertainty_over
from dynamics.analysis.intervals.columns import ARM, OVER, PASSES, SEEDS, diverged, ends, value_or_diverged
from dynamics.analysis.sums.arms import Arm, Source, collect_arms
from dynamics.analysis.sums.curves import best_epoch, mean_curve, rebound
from dynamics.analysis.sums.document_sums import DocumentSums, Value
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.layouts import Column, Layout, curve_column
from dynamics.display.numbers import UNKNOWN, decimals, interval, percent, whole
from dynamics.display.results import Results, Shown
from dynamics.errors import InputError, nearest
from dynamics.records.reader import Run


def _last(curve: ArmCurve, _: int) -> Any:
    return ends(curve.loss[-1], curve.low[-1], curve.high[-1], diverged=diverged(curve.loss))


def _lowest(curve: ArmCurve) -> float:
    finite = curve.loss[np.isfinite(curve.loss)]
    return float(finite.min()) if len(finite) else math.nan


def _epoch(epoch: float) -> str:
    return UNKNOWN if epoch < 0 else f"{epoch:g}"


def _best_at(row: ArmSummary, _: int) -> float:
    """Return the best epoch in passes; -1 for an arm that diverged, of which no best value is given."""
    return row.best_at if math.isfinite(row.final) else -1.0


def _ends(name: str) -> Callable[[ArmSummary, int], Any]:
    """Return what reads an interval of a summary: NAME, NAME_low and NAME_high."""

    def read(row: ArmSummary, _: int) -> Any:
        numbers = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
        return ends(*numbers, diverged=not math.isfinite(row.final))

    return read


@dataclass(frozen=True, slots=True, repr=False)
class ArmCurve(OverEpochs):
    """The validation loss of an arm over epochs: arrays of shape (E,), in nats per token.

    `rebound_cross_fitted` is that of `ArmSummary`, NaN where no documents are known. `passes` are those over the data
    at each epoch, as in `Arm.passes`; None: the epochs' own numbers. `over` is what the band generalises over.

    Attributes
    ----------
    arm : str
    n_seeds : int
    epochs : ndarray of int64, shape (E,)
    loss, low, high : ndarray of float64, shape (E,)
        The mean loss and the ends of its interval, nats per token.
    rebound_cross_fitted : float
        Final loss minus the best, whose epoch other seeds and documents chose, nats.
    passes : ndarray of float64, shape (E,), optional
        Passes over the data at each epoch; None where they are the epochs' numbers.
    over : str
        What the interval generalises over.
    """

    arm: str
    n_seeds: int
    epochs: NDArray[np.int64]
    loss: Floats
    low: Floats
    high: Floats
    rebound_cross_fitted: float = math.nan
    passes: Floats | None = None
    over: Over = "documents"

    layout: ClassVar[Layout | None] = Layout(
        "loss curves",
        (
            ARM,
            Column("first epoch", lambda c, _: c.loss[0], decimals, "nats per token"),
            Column("lowest", lambda c, _: _lowest(c), decimals, "nats per token"),
            Column("at epoch", lambda c, _: best_epoch(c.loss, c.epochs), _epoch),
            Column("last epoch", _last, interval, "nats per token"),
            Column(
                "rebound",
                lambda c, _: value_or_diverged(c.rebound_cross_fitted, diverged(c.loss)),
                unit="nats per token",
            ),
            curve_column("by epoch", lambda c, _: c.loss),
            SEEDS,
            OVER,
        ),
        axes={"epoch": "epochs"},
        arrays={**PASSES, "loss": ("loss", "epoch"), "low": ("low", "epoch"), "high": ("high", "epoch")},
        left_out=("passes",),
    )


@dataclass(frozen=True, slots=True, repr=False)
class ArmSummary(Shown):
    """One arm of a study, or one run. Losses are validation losses in nats per token.

    Attributes
    ----------
    arm : str
    n_seeds, n_documents : int
        Seeds averaged over, and validation documents.
    over : {"documents", "seeds_and_documents"}
        What the intervals generalise over.
    best, best_epoch, final, final_epoch
        Lowest and last value of the curve averaged over seeds. `best` and `best_epoch` are NaN and
        -1 if the whole curve is NaN.
    final_low, final_high : float
        Interval of `final`.
    best_cross_fitted, best_cross_fitted_low, best_cross_fitted_high : float
        The value at the best epoch chosen elsewhere, with its interval: what early stopping would have given
        (`dynamics.analysis.intervals.selection`). `best` is a little lower, by the noise that it was chosen by.
    rebound : float
        `final` minus `best`; biased upward where the curve is flat against its noise.
    rebound_cross_fitted, rebound_cross_fitted_low, rebound_cross_fitted_high : float
        `final` minus `best_cross_fitted`, with its interval: what figures and tables report.
    dropped_share : float
        Measured share of predicted tokens dropped, the mean over training; 0 without token dropout,
        NaN without metrics.
    mean_ratio : float
        The share that the recipe asks for, the mean over training: what arms are matched on.
    final_by_seed, rebound_by_seed : tuple of float
        The same of each seed's own curve, in the order of the seeds.
    best_passes, final_passes : float or None
        Passes over the data at those epochs; None: their numbers.
    start : float
        The loss before training, at epoch 0; NaN where that was not recorded.
    """

    arm: str
    n_seeds: int
    n_documents: int
    over: Over
    best: float
    best_epoch: int
    final: float
    final_epoch: int
    final_low: float
    final_high: float
    rebound: float
    dropped_share: float
    mean_ratio: float
    final_by_seed: tuple[float, ...]
    rebound_by_seed: tuple[float, ...]
    best_cross_fitted: float = math.nan
    best_cross_fitted_low: float = math.nan
    best_cross_fitted_high: float = math.nan
    rebound_cross_fitted: float = math.nan
    rebound_cross_fitted_low: float = math.nan
    rebound_cross_fitted_high: float = math.nan
    best_passes: float | None = None
    final_passes: float | None = None
    start: float = math.nan

    layout: ClassVar[Layout | None] = Layout(
        "arms: validation loss",
        (
            ARM,
            Column("before training", "start", decimals, "nats per token"),
            Column("best", _ends("best_cross_fitted"), interval, "nats per token"),
            Column("best epoch", _best_at, _epoch),
            Column("final", _ends("final"), interval, "nats per token"),
            Column("rebound", _ends("rebound_cross_fitted"), interval, "nats per token"),
            Column("dropped", "dropped_share", percent, "% of tokens"),
            Column("last epoch", "final_at", _epoch, once=True),
            SEEDS,
            Column("documents", "n_documents", whole, once=True),
            OVER,
        ),
        arrays={"best_passes": ("best_at",), "final_passes": ("final_at",)},
    )

    @property
    def best_at(self) -> float:
        """The passes over the data at the best epoch; -1 if the whole curve is NaN."""
        return float(self.best_epoch) if self.best_passes is None else self.best_passes

    @property
    def final_at(self) -> float:
        """The passes over the data at the last epoch."""
        return float(self.final_epoch) if self.final_passes is None else self.final_passes


def arm_sums(
    data: Source | Iterable[Source],
    arm: str,
    *,
    split: str = "validation",
    buckets: Bucketing | None = None,
    value: Value = "loss",
) -> DocumentSums:
    """Return an arm's sums per document, averaged over its seeds.

    Parameters
    ----------
    data : Study, Run, Arm, or sequence of these
    arm : str
    split, buckets, value
        As for `Arm.seed_sums`.

    Raises
    ------
    InputError
        If there is no such arm, or no epoch complete in all its seeds.
    """
    arms = {each.name: each for each in collect_arms(data)}
    if arm not in arms:
        raise InputError(f"no arm {arm!r}; there are {', '.join(arms)}{nearest(arm, arms)}")
    return arms[arm].sums(split, buckets=buckets, value=value)


def arm_curves(
    data: Source | Iterable[Source], *, split: str = "validation", over: Over | None = None, level: float = 0.95
) -> Results[ArmCurve]:
    """Return the loss of every arm over epochs, with intervals, in the order of the recipe.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    over, level
        As for `curve_interval`.
    """
    curves: Results[ArmCurve] = Results()
    for arm in collect_arms(data):
        parts = arm.seed_sums(split)
        band = curve_interval(parts, over=over, level=level)
        curves.append(
            ArmCurve(
                arm.name,
                len(arm.runs),
                parts[0].epochs,
                band.estimate[:, 0],
                band.low[:, 0],
                band.high[:, 0],
                float(arm_quantity(arm, "rebound", split=split).estimate[0]),
                arm.passes,
                over or generalises_over(parts),
            )
        )
    return curves


def arm_summary(
    data: Source | Iterable[Source], *, over: Over | None = None, level: float = 0.95
) -> Results[ArmSummary]:
    """Return one row an arm: what it reached, where it ended, and how much was dropped.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
        A run counts as one arm.
    over : {"documents", "seeds_and_documents"}, optional
        What intervals generalise over. Default: both where an arm has two seeds or more, else documents.
    level : float
        Of the intervals.

    Returns
    -------
    Results of ArmSummary
        In the order of the recipe.

    Raises
    ------
    InputError
        If no epoch is complete, or the tokens of the runs differ.

    Warns
    -----
    UserWarning
        With fewer than 15 validation documents, with two seeds, or when seeds have different epochs.
    """
    return Results(_summary(arm, over, level) for arm in collect_arms(data))


def _summary(arm: Arm, over: Over | None, level: float) -> ArmSummary:
    parts = arm.seed_sums("validation")
    sums = arm.sums("validation")
    curve = mean_curve(sums)[:, 0]
    by_seed = [mean_curve(part)[:, 0] for part in parts]
    over = over or generalises_over(parts)
    band = curve_interval(parts, over=over, level=level)
    ends = {}
    asked_for: tuple[Quantity, ...] = ("best", "rebound")
    for quantity in asked_for:
        interval = uncertainty_over(arm_quantity(arm, quantity), over)[0].interval(level)
        ends[quantity] = [float(values[0]) for values in (interval.estimate, interval.low, interval.high)]
    share, asked = dropout_means(arm)
    best = best_epoch(curve, sums.epochs)
    return ArmSummary(
        arm=arm.name,
        n_seeds=len(arm.runs),
        n_documents=sums.n_documents,
        over=over,
        best=float(np.nanmin(curve)) if not np.isnan(curve).all() else math.nan,
        best_epoch=best,
        best_cross_fitted=ends["best"][0],
        best_cross_fitted_low=ends["best"][1],
        best_cross_fitted_high=ends["best"][2],
        final=float(curve[-1]),
        final_epoch=int(sums.epochs[-1]),
        final_low=float(band.low[-1, 0]),
        final_high=float(band.high[-1, 0]),
        rebound=float(rebound(curve)),
        rebound_cross_fitted=ends["rebound"][0],
        rebound_cross_fitted_low=ends["rebound"][1],
        rebound_cross_fitted_high=ends["rebound"][2],
        dropped_share=share,
        mean_ratio=asked,
        final_by_seed=tuple(float(values[-1]) for values in by_seed),
        rebound_by_seed=tuple(float(rebound(values)) for values in by_seed),
        best_passes=float(sums.at[sums.epochs == best][0]) if best >= 0 else None,
        final_passes=float(sums.at[-1]),
        start=float(curve[0]) if sums.epochs[0] == 0 else math.nan,
    )


def note_on_passes(rows: Sequence[ArmSummary]) -> str | None:
    """Return after how many passes over the data arms ended, if not all after the same whole ones; else None."""
    ends = {row.final_at for row in rows}
    if len(ends) > 1:
        listed = ", ".join(f"{row.arm} {row.final_at:g}" for row in rows)
        return (
            f"Arms ended after different passes over the data ({listed}): their final losses and rebounds are not to "
            "be compared."
        )
    if rows[0].final_at != rows[0].final_epoch:
        return f"Training was cut within an epoch, after {rows[0].final_at:g} passes over the data."
    return None


def dropout_means(arm: Arm) -> tuple[float, float]:
    """Return the measured share dropped and the ratio asked for, means over training and seeds."""
    logs = [step_log(run) for run in arm.runs]
    shares = [float(log[:, 1].mean()) for log in logs if len(log)]
    ratios = [float(log[:, 2].mean()) for log in logs if len(log)]
    return (float(np.mean(shares)), float(np.mean(ratios))) if shares else (math.nan, math.nan)


def dropped_share_by_epoch(arm: Arm) -> Floats:
    """Return the measured share of tokens dropped in each epoch of training, averaged over seeds.

    Parameters
    ----------
    arm : Arm

    Returns
    -------
    ndarray, shape (E, 2)
        The middle of the epoch (0.5 for the first; of one that was cut, of what there is of it), and the mean share
        over its steps. Epochs that no run has begun are left out, and one that was not cut alike in all that have it.
    """
    shares: dict[tuple[int, float], list[float]] = {}
    for run in arm.runs:
        log = step_log(run)
        if not len(log):
            continue
        # Rows count the optimiser steps done, from 1; a row 0, before the first, belongs to the
        # first epoch.
        epoch = (np.maximum(log[:, 0] - 1, 0) // run.manifest["steps_per_epoch"]).astype(int)
        for each in np.unique(epoch):
            end = run.partial_epochs.get(int(each) + 1, each + 1.0)
            shares.setdefault((int(each), end), []).append(float(log[epoch == each, 1].mean()))
    times = Counter(each for each, _ in shares)
    points = [((each + end) / 2, np.mean(shares[each, end])) for each, end in sorted(shares) if times[each] == 1]
    return np.array(points).reshape(-1, 2)


def step_log(run: Run) -> Floats:
    """Return step, share dropped and ratio asked for of every optimiser step, shape (steps, 3).

    A run without token dropout logs null or nothing for the last two; that is a share of 0. Rows that tell of the part
    for tuning, one an epoch, are no steps.
    """
    steps = [row for row in run.metrics() if "tuning_loss" not in row]
    rows = [(row["step"], row.get("dropped_share") or 0.0, row.get("ratio") or 0.0) for row in steps]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
