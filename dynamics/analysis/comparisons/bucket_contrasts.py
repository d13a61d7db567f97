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

from dynamics.analysis.comparisons.arm_comparisons import difference, require_comparable
from dynamics.analysis.comparisons.limits import about_best_of_one_model, about_fixed
from dynamics.analysis.comparisons.significance import holm
from dynamics.analysis.estimands.quantities import ChosenOn, Quantity, arm_quantity
from dynamics.analysis.intervals.bands import Over, uncertainty_over
from dynamics.analysis.intervals.contributions import Contributions
from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.intervals.over_seeds_and_documents import about_seeds
from dynamics.analysis.intervals.uncertainty import Uncertainty
from dynamics.analysis.sums.arms import Source, as_buckets, collect_arms, default_baseline
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.errors import InputError, nearest


@dataclass(frozen=True, slots=True)
class BucketContrast:
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
) -> list[BucketContrast]:
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
    list of BucketContrast
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

    labels = how.labels
    within = []
    for arm, side in zip(arms, sides, strict=True):
        within.append(_row(arm.name, "", labels, quantity, *uncertainty_over(side, over), level))
    between = []
    for a, (arm, side) in enumerate(zip(arms, sides, strict=True)):
        if a != reference:
            require_comparable(arm, arms[reference], split, how)
            compared = difference(arm, arms[reference], (side, sides[reference]), over)
            between.append(_row(arm.name, names[reference], labels, quantity, *compared, level))
    for note in _limits(within, sides, quantity):
        warnings.warn(note, UserWarning, stacklevel=2)
    return [*_adjusted(within), *_adjusted(between)]


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
    interval = uncertainty.interval(level)
    estimate, low, high = (float(values[0]) for values in (interval.estimate, interval.low, interval.high))
    p_value = float(uncertainty.p_value()[0])
    return BucketContrast(arm, other, labels[-1], labels[0], quantity, over, estimate, low, high, p_value)


def _adjusted(rows: list[BucketContrast]) -> list[BucketContrast]:
    if not rows:
        return []
    adjusted = holm([row.p_value for row in rows])
    return [replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]
