"""Every arm's curve minus that of the baseline, epoch by epoch, with paired intervals.

Bands about the levels of two curves hide how well their difference is known: both arms are measured on the same
documents, and what is hard in a document is hard for both. Here the difference is taken within each document (and
within each seed, where both arms have the same seeds), and the interval is of that difference.

Shape suffixes: E epochs, K buckets.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.comparisons.arm_comparisons import difference, require_comparable, same_seeds
from dynamics.analysis.comparisons.limits import about_fixed
from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.columns import ARM, BUCKET, EPOCHS_AND_BUCKETS, OVER, PASSES, last_of
from dynamics.analysis.intervals.contributions import Contributions, curve_contributions
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.intervals.over_seeds_and_documents import about_seeds
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, collect_arms, default_baseline, shared_epochs
from dynamics.analysis.sums.document_sums import Value
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.display.layouts import Column, Layout, curve_column, text_column
from dynamics.display.numbers import interval
from dynamics.display.results import Results
from dynamics.errors import InputError, nearest


@dataclass(frozen=True, slots=True, repr=False)
class DifferenceCurve(OverEpochs):
    """An arm minus the baseline, by epoch and bucket.

    Attributes
    ----------
    arm, baseline : str
    split : str
    value : {"loss", "entropy", "correct", "certainty"}
    epochs : ndarray of int64, shape (E,)
        Those that both arms recorded after the same passes over the data.
    labels : tuple of str, length K
    values : Interval of arrays of shape (E, K)
        `arm` minus `baseline`: nats per token, of ``correct`` a share of tokens. NaN where either curve is.
    over : {"documents", "seeds_and_documents"}
        What the intervals generalise over.
    n_documents : int
    n_seeds : tuple of int
        Of both arms.
    same_seeds : bool
        Whether the seeds of both arms are the same, and so paired.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    arm: str
    baseline: str
    split: str
    value: Value
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    values: Interval
    over: Over
    n_documents: int
    n_seeds: tuple[int, int]
    same_seeds: bool
    passes: NDArray[np.float64] | None = None

    layout: ClassVar[Layout | None] = Layout(
        "arms minus the baseline, by bucket",
        (
            ARM,
            text_column("minus", "baseline"),
            text_column("value", "value", once=True),
            BUCKET,
            Column(
                "difference at the end",
                lambda d, k: last_of(d.values, k),
                interval,
                lambda d: "share of tokens" if d.value in ("correct", "certainty") else "nats per token",
            ),
            curve_column("by epoch", lambda d, k: d.values.estimate[:, k]),
            OVER,
        ),
        rows="labels",
        axes=EPOCHS_AND_BUCKETS,
        arrays={**PASSES, "difference": ("values", "epoch", "bucket")},
        left_out=("passes",),
    )


def minus_baseline_curves(
    data: Source | Iterable[Source],
    *,
    baseline: str | None = None,
    split: str = "validation",
    value: Value = "loss",
    buckets: Bucketing | int = 1,
    over: Over | None = None,
    level: float = 0.95,
) -> Results[DifferenceCurve]:
    """Return every other arm's curve minus the baseline's, in the order of the recipe.

    At the last epoch the numbers are those of `compare_arms` for the quantity ``final``.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    baseline : str, optional
        The arm to subtract. Default: the one with a name that says so, or the first.
    split : str
    value : {"loss", "entropy", "correct", "certainty"}
        ``correct`` with ``buckets=task_tokens("gsm8k")`` is the accuracy on a task.
    buckets : Bucketing or int
        Frozen. An int asks for that many by reference entropy.
    over, level
        As for `compare_arms`.

    Returns
    -------
    Results of DifferenceCurve
        Empty for one arm. An arm without an epoch in common with the baseline is left out.

    Raises
    ------
    InputError
        If there is no arm `baseline`, or as `compare_arms`.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, with two seeds, and where only documents are generalised over.
    """
    arms = collect_arms(data)
    named = {arm.name: arm for arm in arms}
    if baseline is not None and baseline not in named:
        raise InputError(f"no arm {baseline!r} to subtract; there are {', '.join(named)}{nearest(baseline, named)}")
    reference = named[baseline or default_baseline(arms)]
    how = as_buckets(arms, buckets)
    curves: Results[DifferenceCurve] = Results()
    for arm in arms:
        common = shared_epochs((arm, reference)) if arm is not reference else []
        if not common:
            continue
        pair = [
            each if each.epochs == common else Arm(each.name, each.runs, epochs=common) for each in (arm, reference)
        ]
        curves.append(_difference_curve(pair[0], pair[1], split, value, how, over, level))
    for limit in _limits(curves):
        warnings.warn(limit, UserWarning, stacklevel=2)
    return curves


def _difference_curve(
    arm: Arm, reference: Arm, split: str, value: Value, buckets: Bucketing, over: Over | None, level: float
) -> DifferenceCurve:
    require_comparable(arm, reference, split, buckets)
    sides = (_curve(arm, split, value, buckets), _curve(reference, split, value, buckets))
    uncertainty, answered = difference(arm, reference, sides, over)
    return DifferenceCurve(
        arm=arm.name,
        baseline=reference.name,
        split=split,
        value=value,
        epochs=np.asarray(arm.epochs, dtype=np.int64),
        labels=buckets.labels,
        values=uncertainty.interval(level),
        over=answered,
        n_documents=sides[0].n_documents,
        n_seeds=(sides[0].n_seeds, sides[1].n_seeds),
        same_seeds=same_seeds(arm, reference),
        passes=arm.passes,
    )


def _curve(arm: Arm, split: str, value: Value, buckets: Bucketing) -> Contributions:
    return curve_contributions(arm.seed_sums(split, buckets=buckets, value=value))


def _limits(curves: list[DifferenceCurve]) -> list[str]:
    """Return what the intervals cannot cover, or do not speak of."""
    found = [about_documents(min(curve.n_documents for curve in curves))] if curves else []
    crossed = [min(curve.n_seeds) for curve in curves if curve.over == "seeds_and_documents"]
    if crossed:
        found.append(about_seeds(min(crossed)))
    alone = {
        name
        for curve in curves
        for name, n_seeds in zip((curve.arm, curve.baseline), curve.n_seeds, strict=True)
        if n_seeds == 1
    }
    if alone:
        found.append(about_fixed(alone))
    return [each for each in found if each is not None]
