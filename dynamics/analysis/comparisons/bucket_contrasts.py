"""Does the high-entropy half rebound by more than the low, and does an arm take more from it? The paper's own claim.

The contrast is one bucket minus another within an arm; the interaction is an arm's contrast minus the baseline's: by
how much more the arm changes the high bucket than the low. Both are paired, by document and seed, and come with the
interval of a difference (`dynamics.analysis.comparisons.arm_comparisons`).

Buckets must not be chosen by what is measured: halves by a noisy loss show the regression of that noise to its mean.
Those by the reference model's entropy, the default, are free of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dynamics.analysis.comparisons.arm_comparisons import difference, require_comparable
from dynamics.analysis.comparisons.comparison import about_diverged
from dynamics.analysis.comparisons.limits import about_best_of_one_model, about_fixed
from dynamics.analysis.comparisons.significance import holm
from dynamics.analysis.estimands.quantities import ChosenOn, Quantity, arm_quantity, diverged_buckets
from dynamics.analysis.intervals.bands import Over, uncertainty_over
from dynamics.analysis.intervals.columns import ARM, OVER, ends
from dynamics.analysis.intervals.contributions import Contributions
from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.intervals.over_seeds_and_documents import about_seeds
from dynamics.analysis.intervals.uncertainty import Uncertainty
from dynamics.analysis.sums.arms import Source, as_buckets, collect_arms, default_baseline
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.display.layouts import Column, Layout, text_column
from dynamics.display.numbers import interval, significance
from dynamics.display.results import Results, Shown
from dynamics.errors import InputError, nearest


def _contrast(row: BucketContrast, _: int) -> Any:
    return ends(row.estimate, row.interval_low, row.interval_high, diverged=bool(row.diverged))


def _notes(rows: Sequence[BucketContrast]) -> list[str]:
    return about_diverged(name for row in rows for name in row.diverged)


@dataclass(frozen=True, slots=True, repr=False)
class BucketContrast(Shown):
    """One bucket minus another: within an arm, or compared with the same of another arm.

    Attributes
    ----------
    arm : str
    other : str
        The arm whose contrast is subtracted (an interaction); "" for the contrast within `arm`.
    high, low : str
        The buckets: high minus low.
    quantity : {"final", "best", "rebound", "area"}
    over : {"documents", "seeds_and_documents"}
    estimate, interval_low, interval_high : float
        Nats per token.
    p_value, p_holm : float
        Two-sided; adjusted for all contrasts, or all interactions, of the call.
    diverged : tuple of str
        Those of the arms that diverged, so that the numbers are NaN (`Comparison.diverged`).
    """

    arm: str
    other: str
    high: str
    low: str
    quantity: Quantity
    over: Over
    estimate: float
    interval_low: float
    interval_high: float
    p_value: float
    p_holm: float = math.nan
    diverged: tuple[str, ...] = ()

    layout: ClassVar[Layout | None] = Layout(
        "contrasts",
        (
            ARM,
            text_column("minus", lambda row, _: row.other or "nothing"),
            text_column("buckets", lambda row, _: f"{row.high} minus {row.low}", once=True),
            text_column("quantity", "quantity", once=True),
            Column("contrast", _contrast, interval, "nats per token"),
            Column("p", "p_value", significance),
            Column("p (Holm)", "p_holm", significance),
            OVER,
        ),
        arrays={"diverged": (lambda row: ", ".join(row.diverged),)},
        notes=_notes,
    )


def bucket_contrasts(
    data: Source | Iterable[Source],
    *,
    quantity: Quantity = "rebound",
    baseline: str | None = None,
    buckets: Bucketing | int = 2,
    split: str = "validation",
    over: Over | None = None,
    level: float = 0.95,
    chosen_on: ChosenOn = "cross_fitted",
) -> Results[BucketContrast]:
    """Return the highest bucket minus the lowest in every arm, and what each arm changes of it.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    quantity : {"rebound", "final", "best", "area"}
        The best epoch is chosen in each bucket by itself.
    baseline : str, optional
        The arm whose contrast is subtracted in interactions. Default: the one whose name says so, or the first.
    buckets : Bucketing or int
        Frozen; the last is compared with the first. An int asks for that many by reference entropy.
    split, over, level, chosen_on
        As for `compare_arms`.

    Returns
    -------
    Results of BucketContrast
        The contrast of every arm, then the interaction of every other arm with the baseline.

    Raises
    ------
    InputError
        For an unknown arm or quantity, or fewer than two buckets.

    Warns
    -----
    UserWarning
        As `compare_arms`.
    """
    arms = collect_arms(data)
    names = [arm.name for arm in arms]
    if baseline is not None and baseline not in names:
        raise InputError(f"no arm {baseline!r}; there are {', '.join(names)}{nearest(baseline, names)}")
    how = as_buckets(arms, buckets)
    if len(how.labels) < 2:
        raise InputError("a contrast needs two buckets or more")
    reference = names.index(baseline or default_baseline(arms))
    sides = [
        arm_quantity(arm, quantity, split=split, buckets=how, chosen_on=chosen_on).contrast(len(how.labels) - 1, 0)
        for arm in arms
    ]

    gone = {arm.name for arm in arms if diverged_buckets(arm, split, "loss", how)[[0, -1]].any()}
    labels = how.labels
    within = []
    for arm, side in zip(arms, sides, strict=True):
        within.append(_row(arm.name, "", labels, quantity, *uncertainty_over(side, over), level))
    between = []
    for a, (arm, side) in enumerate(zip(arms, sides, strict=True)):
        if a != reference:
            require_comparable(arm, arms[reference], split, how, or_else="")
            compared = difference(arm, arms[reference], (side, sides[reference]), over)
            between.append(_row(arm.name, names[reference], labels, quantity, *compared, level))
    for note in _limits(within, sides, quantity):
        warnings.warn(note, UserWarning, stacklevel=2)
    return Results([*_adjusted(within, gone), *_adjusted(between, gone)])


def _limits(within: Sequence[BucketContrast], sides: Sequence[Contributions], quantity: Quantity) -> list[str]:
    """Return what the intervals of contrasts cannot cover, or do not speak of."""
    found = [about_documents(sides[0].n_documents)]
    crossed = [side.n_seeds for row, side in zip(within, sides, strict=True) if row.over == "seeds_and_documents"]
    if crossed:
        found.append(about_seeds(min(crossed)))
    alone = [row.arm for row, side in zip(within, sides, strict=True) if side.n_seeds == 1]
    if alone:
        found.append(about_fixed(alone))
        if quantity in ("best", "rebound"):
            found.append(about_best_of_one_model(alone))
    return [each for each in found if each is not None]


def _row(
    arm: str, other: str, labels: Sequence[str], quantity: Quantity, uncertainty: Uncertainty, over: Over, level: float
) -> BucketContrast:
    around = uncertainty.interval(level)
    estimate, low, high = (float(values[0]) for values in (around.estimate, around.low, around.high))
    p_value = float(uncertainty.p_value()[0])
    return BucketContrast(arm, other, labels[-1], labels[0], quantity, over, estimate, low, high, p_value)


def _adjusted(rows: list[BucketContrast], gone: set[str]) -> list[BucketContrast]:
    """Return contrasts with adjusted p-values; where they have no estimate, with those of their arms that are gone."""
    if not rows:
        return []
    named = [
        tuple(name for name in (row.arm, row.other) if name in gone) if math.isnan(row.estimate) else () for row in rows
    ]
    adjusted = holm([row.p_value for row in rows])
    return [replace(row, p_holm=float(p), diverged=names) for row, p, names in zip(rows, adjusted, named, strict=True)]
