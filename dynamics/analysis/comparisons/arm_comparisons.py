"""Comparing arms: differences, whether they are there or absent, many comparisons.

Two questions can be asked of a difference between two arms. Of the method: would it be there with other seeds, on other
documents? And of these trained models: would it be there on other documents? The first is the default; the second is
all that can be asked where an arm has one seed, and every comparison says which it answers.

Early stopping is a baseline of its own: the best epoch of the baseline, chosen on other seeds and other documents
(`dynamics.analysis.intervals.selection`). What does not beat it is no better than training for less long.

Shapes: K buckets.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from dynamics.analysis.comparisons.comparison import Comparison as Comparison
from dynamics.analysis.comparisons.limits import EARLY_STOPPING as EARLY_STOPPING
from dynamics.analysis.comparisons.limits import limits as limits
from dynamics.analysis.comparisons.significance import benjamini_hochberg, holm
from dynamics.analysis.estimands.quantities import (
    ChosenOn,
    Compute,
    Quantity,
    arm_compute,
    arm_quantity,
    diverged_buckets,
    require_quantity,
)
from dynamics.analysis.intervals.bands import Over, require_over
from dynamics.analysis.intervals.contributions import Contributions
from dynamics.analysis.intervals.over_documents import over_documents
from dynamics.analysis.intervals.over_seeds_and_documents import (
    over_other_seeds_and_documents,
    over_seeds_and_documents,
)
from dynamics.analysis.intervals.uncertainty import Uncertainty
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, collect_arms, default_baseline
from dynamics.analysis.sums.document_sums import DocumentSums, Value, require_same_documents, require_same_passes
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.display.results import Results
from dynamics.errors import InputError, nearest


def compare_arms(
    data: Source | Iterable[Source],
    *,
    quantity: Quantity = "final",
    baseline: str | None = None,
    split: str = "validation",
    value: Value = "loss",
    buckets: Bucketing | int = 1,
    over: Over | None = None,
    level: float = 0.95,
    margin: float | None = None,
    chosen_on: ChosenOn = "cross_fitted",
    early_stopping: bool = True,
    matched: Compute | None = None,
) -> Results[Comparison]:
    """Compare arms pair by pair on the same tokens, with adjusted p-values.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    quantity : {"final", "best", "rebound", "area"}
        The best epoch of either arm, and where its rebound begins, is chosen elsewhere than it is measured.
    baseline : str, optional
        Compare every other arm with this one. Default: every arm with every later one.
    split : str
    value : as for `arm_quantity`; ``correct`` with ``buckets=task_tokens("gsm8k")`` is a task's accuracy
    buckets : Bucketing or int
        Frozen. One comparison for each bucket; an int asks for that many by reference entropy.
    over : {"documents", "seeds_and_documents"}, optional
        What might have been drawn otherwise. Default: seeds and documents where both arms have two seeds or more, else
        documents alone, with a warning. Where both arms have the same seeds these are paired.
    level : float
        Of the intervals.
    margin : float, optional
        In the value's unit: test also whether arms differ by less than this. State it before you look.
    chosen_on : as for `arm_quantity`
    early_stopping : bool
        With `quantity` final, compare every arm also with the best epoch of the baseline (without one, of the arm whose
        name says so, or the first), and that with the baseline's end.
    matched : {"passes", "steps", "tokens"}, optional
        Compare after as many of these as both arms of a pair had. Default: all arms must have the same epochs.

    Returns
    -------
    Results of Comparison
        The estimate, its interval and its p-values are NaN where an arm diverged (`Comparison.diverged`) and where a
        bucket is empty. Such a comparison still counts among those that the other p-values are adjusted for.

    Raises
    ------
    InputError
        For fewer than two arms, an unknown arm or quantity, a single seed where ``over`` asks for seeds, a margin that
        is not above 0, or arms with different epochs: `matched` and `at_common_epochs` help there.

    Warns
    -----
    UserWarning
        Where only documents are generalised over; of two seeds, fewer than 15 documents, best epochs of one seed.
    """
    require_quantity(quantity)
    arms = collect_arms(data)
    pairs = _pairs(arms, baseline)
    if quantity == "final" and early_stopping:
        stopped = EarlyStopped(arms[[arm.name for arm in arms].index(baseline or default_baseline(arms))])
        pairs += [(arm, stopped) for arm in arms if arm.name != stopped.arm.name] + [(stopped, stopped.arm)]
    rows = compare_pairs(
        pairs,
        quantity=quantity,
        split=split,
        value=value,
        buckets=as_buckets(arms, buckets),
        over=over,
        level=level,
        margin=margin,
        chosen_on=chosen_on,
        matched=matched,
    )
    for limit in limits(rows) if rows else []:
        warnings.warn(limit, UserWarning, stacklevel=2)
    return adjusted(rows)


def compare_pairs(
    pairs: Sequence[tuple[Arm, Arm]],
    *,
    quantity: Quantity,
    split: str,
    buckets: Bucketing,
    over: Over | None,
    level: float,
    margin: float | None,
    value: Value = "loss",
    chosen_on: ChosenOn = "cross_fitted",
    matched: Compute | None = None,
    known: dict[Any, Contributions] | None = None,
) -> list[Comparison]:
    """Compare pairs of arms in every bucket, as `compare_arms`, without adjusting p-values and without warnings.

    Parameters
    ----------
    pairs : sequence of (Arm, Arm)
        Each with the same epochs, unless they are matched.
    known : dict, optional
        Where quantities of arms are kept, for several calls with the same arms, split, value and buckets.

    Raises
    ------
    InputError
        As `compare_arms`.
    """
    require_over(over)
    if margin is not None and not 0.0 < margin < math.inf:
        raise InputError(f"margin {margin:g} is not above 0; state the difference that would not matter")
    known = {} if known is None else known
    rows: list[Comparison] = []
    for arm, other in pairs:
        require_comparable(arm, other, split, buckets, matched=matched is not None)
        until = None if matched is None else (matched, min(arm_compute(each, matched)[-1] for each in (arm, other)))
        sides = []
        for each in (arm, other):
            # Stopped early, an arm ends at its best epoch.
            of = each.arm if isinstance(each, EarlyStopped) else each
            asked: Quantity = quantity if of is each else "best"
            key = of.name, tuple(of.epochs), asked, until
            if key not in known:
                known[key] = arm_quantity(
                    of, asked, split=split, value=value, buckets=buckets, chosen_on=chosen_on, until=until
                )
            sides.append(known[key])
        made = _compare(arm, other, (sides[0], sides[1]), quantity, over, level, margin, buckets.labels)
        gone = [(each.name, diverged_buckets(each, split, value, buckets)) for each in (arm, other)]
        for k, row in enumerate(made):
            names = tuple(name for name, buckets_gone in gone if buckets_gone[k]) if math.isnan(row.estimate) else ()
            epoch = None if matched else int(arm.epochs[-1])
            rows.append(replace(row, value=value, epoch=epoch, diverged=names))
    return rows


class EarlyStopped(Arm):
    """An arm as if it had been stopped at its best epoch."""

    def __init__(self, arm: Arm) -> None:
        super().__init__(arm.name + EARLY_STOPPING, arm.runs, epochs=arm._chosen)
        self.arm = arm

    def seed_sums(self, split: str, **options: Any) -> list[DocumentSums]:
        return self.arm.seed_sums(split, **options)


def difference(
    arm: Arm, other: Arm, sides: tuple[Contributions, Contributions], over: Over | None
) -> tuple[Uncertainty, Over]:
    """Return the uncertainty of one arm minus another, and what it generalises over."""
    first, second = sides
    if over is None:
        over = "seeds_and_documents" if min(first.n_seeds, second.n_seeds) > 1 else "documents"
    if over == "documents":
        return over_documents(first.minus_other_seeds(second)), over
    if same_seeds(arm, other):
        return over_seeds_and_documents(minus_seed_by_seed(arm, other, sides)), over
    return over_other_seeds_and_documents(first, second), over


def same_seeds(arm: Arm, other: Arm) -> bool:
    """Whether the runs of two arms have the same seeds, in any order, and so can be paired."""
    seeds = [sorted(map(str, _seeds(each))) for each in (arm, other)]
    return seeds[0] == seeds[1]


def minus_seed_by_seed(arm: Arm, other: Arm, sides: tuple[Contributions, Contributions]) -> Contributions:
    """Return the difference of two arms with the same seeds, each seed's value minus that of the same seed."""
    in_order = []
    for each, side in zip((arm, other), sides, strict=True):
        seeds = list(map(str, _seeds(each)))
        in_order.append(side.with_seeds(sorted(range(len(seeds)), key=seeds.__getitem__)))
    return in_order[0].minus(in_order[1])


def _seeds(arm: Arm) -> list[Any]:
    return [run.manifest.get("seeds", {}).get("seed") for run in arm.runs]


def _pairs(arms: Sequence[Arm], baseline: str | None) -> list[tuple[Arm, Arm]]:
    by_name = {arm.name: arm for arm in arms}
    if len(arms) < 2:
        raise InputError(f"{', '.join(by_name)} is alone; comparing needs two arms or runs")
    if baseline is None:
        return list(combinations(arms, 2))
    if baseline not in by_name:
        raise InputError(f"no arm {baseline!r}; there are {', '.join(by_name)}{nearest(baseline, by_name)}")
    return [(arm, by_name[baseline]) for arm in arms if arm.name != baseline]


def _compare(
    arm: Arm,
    other: Arm,
    sides: tuple[Contributions, Contributions],
    quantity: Quantity,
    over: Over | None,
    level: float,
    margin: float | None,
    labels: Sequence[str],
) -> list[Comparison]:
    uncertainty, answered = difference(arm, other, sides, over)
    interval = uncertainty.interval(level)
    p_value = uncertainty.p_value()
    lower = np.where(interval.estimate < 0, 1.0 - p_value / 2.0, p_value / 2.0)
    inside = np.full(len(labels), np.nan)
    if margin is not None:
        inside = np.maximum(uncertainty.p_below(margin), uncertainty.p_above(-margin))
    return [
        Comparison(
            arm=arm.name,
            other=other.name,
            bucket=label,
            quantity=quantity,
            over=answered,
            estimate=float(interval.estimate[k]),
            low=float(interval.low[k]),
            high=float(interval.high[k]),
            probability=float(lower[k]),
            p_value=float(p_value[k]),
            n_documents=sides[0].n_documents,
            n_seeds=(sides[0].n_seeds, sides[1].n_seeds),
            same_seeds=same_seeds(arm, other),
            margin=math.nan if margin is None else margin,
            p_equivalent=float(inside[k]),
        )
        for k, label in enumerate(labels)
    ]


def adjusted(rows: Sequence[Comparison]) -> Results[Comparison]:
    """Return comparisons with p-values adjusted for all of them, whatever they were adjusted for before."""
    if not rows:
        return Results()
    p_values = [row.p_value for row in rows]
    found = [holm(p_values), benjamini_hochberg(p_values)]
    equivalent = [row.p_equivalent for row in rows]
    found.append(holm(equivalent))
    return Results(
        replace(row, p_holm=float(p_holm), p_bh=float(p_bh), p_equivalent_holm=float(inside))
        for row, p_holm, p_bh, inside in zip(rows, *found, strict=True)
    )


def require_comparable(
    arm: Arm,
    other: Arm,
    split: str,
    buckets: Bucketing,
    *,
    matched: bool = False,
    or_else: str = ', or ask matched="passes", "steps" or "tokens"',
) -> None:
    """Raise InputError unless two arms have the same tokens, and the same epochs if they are not matched.

    Parameters
    ----------
    or_else : str
        What the message advises beside common epochs: a setting of the function that was called.
    """
    first, second = (each.seed_sums(split, buckets=buckets)[0] for each in (arm, other))
    if not matched and not np.array_equal(first.epochs, second.epochs):
        raise InputError(
            f"{arm.name!r} and {other.name!r} have different epochs, and only the same ones can be compared: cut both "
            f"to common epochs with dynamics.analysis.at_common_epochs(study){or_else}"
        )
    if not matched:
        require_same_passes(first, second)
    require_same_documents(first, second)
