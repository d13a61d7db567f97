"""What is asked of an arm: where it ended, its best epoch, the rebound from there, the area under its curve.

Each is a number in the unit of the value, nats per token for a loss, with the contributions of seeds and documents to
it (`dynamics.analysis.intervals.contributions`), from which its interval and every comparison come:

========  =========================================================================================================
final     the last value
best      the value at the best epoch, chosen on other seeds and other documents: what early stopping would have given
rebound   final minus best
area      the mean over training, straight lines between recorded epochs (the area under the curve over its length)
========  =========================================================================================================

Shape suffixes: E epochs, K buckets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.contributions import Contributions, curve_contributions
from dynamics.analysis.intervals.selection import best_contributions
from dynamics.analysis.sums.accuracy import accuracy_sums
from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.sums.document_sums import DocumentSums, Value
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError, nearest

Quantity = Literal["final", "best", "rebound", "area"]
ChosenOn = Literal["cross_fitted", "tuning"]
#: What arms are matched on: passes over the data, optimiser steps, or predicted tokens that the optimiser saw.
Compute = Literal["passes", "steps", "tokens"]
# What was computed in another order may differ in it: steps or tokens of a cut epoch.
_LAST_DIGIT = 1e-12


def arm_quantity(
    arm: Arm,
    quantity: Quantity,
    *,
    split: str = "validation",
    value: Value = "loss",
    buckets: Bucketing | None = None,
    chosen_on: ChosenOn = "cross_fitted",
    until: tuple[Compute, float] | None = None,
) -> Contributions:
    """Return one quantity of an arm in every bucket, Q = (K,), with the contributions of seeds and documents.

    Parameters
    ----------
    arm : Arm
    quantity : {"final", "best", "rebound", "area"}
    split : str
    value : {"loss", "entropy", "correct", "certainty"}
        The best epoch is that of the lowest value, of ``correct`` that of the highest.
    buckets : Bucketing, optional
        Frozen; without, all tokens.
    chosen_on : {"cross_fitted", "tuning"}
        Where the best epoch is chosen: on the other half of the documents, or on the `tuning` part; by the other seeds
        either way.
    until : (str, float), optional
        Look at training up to so many passes, steps or tokens alone, between recorded epochs on a straight line.
        Default: all of it.

    Raises
    ------
    InputError
        For an unknown quantity, an arm that was not trained for so long, or moving buckets.
    """
    require_quantity(quantity)
    if chosen_on not in get_args(ChosenOn):
        raise InputError(f"the best epoch is not chosen on {chosen_on!r}; use {' or '.join(get_args(ChosenOn))}")
    parts = _parts(arm, split, buckets, value)
    at = parts[0].at if until is None else arm_compute(arm, until[0])
    end = float(at[-1]) if until is None else until[1]
    weights = value_at(at, end, arm.name)
    if quantity in ("final", "area"):
        wanted = weights if quantity == "final" else mean_until(at, end, weights)
        return curve_contributions(parts).over_epochs(wanted)
    recorded = at <= end * (1.0 + _LAST_DIGIT)
    apart = None if chosen_on == "cross_fitted" else _cut(_parts(arm, "tuning", buckets, value), recorded)
    best = _best(_cut(parts, recorded), apart, highest=value == "correct")
    if quantity == "best":
        return best
    return curve_contributions(parts).over_epochs(weights).minus(best)


def require_quantity(quantity: str) -> None:
    """Raise InputError for a quantity that is not known."""
    if quantity not in get_args(Quantity):
        known = ", ".join(get_args(Quantity))
        raise InputError(f"no quantity {quantity!r}; use one of {known}{nearest(quantity, get_args(Quantity))}")


def arm_compute(arm: Arm, compute: Compute) -> Floats:
    """Return the passes, optimiser steps or predicted tokens that each epoch of an arm stands for, shape (E,).

    Tokens are those that the optimiser saw the losses of, a token in each pass anew.

    Parameters
    ----------
    arm : Arm
    compute : {"passes", "steps", "tokens"}
        What is counted; tokens are those that are predicted.

    Raises
    ------
    InputError
        For another word, or a run whose manifest does not say.
    """
    if compute not in get_args(Compute):
        raise InputError(f"arms are not matched by {compute!r}; use {', '.join(get_args(Compute))}")
    if compute == "passes":
        return arm.passes
    run = arm.runs[0]
    try:
        each = run.manifest["steps_per_epoch"] if compute == "steps" else run.manifest["tokens"]["train"]["n_predicted"]
    except (KeyError, TypeError):
        raise InputError(f"{run.path}: its manifest does not say how many {compute} an epoch has") from None
    steps = [run.step(epoch) if compute == "steps" else None for epoch in arm.epochs]
    return np.array(
        [passes * each if step is None else step for passes, step in zip(arm.passes, steps, strict=True)],
        dtype=np.float64,
    )


def value_at(at: Floats, end: float, arm: str = "the arm") -> Floats:
    """Return the weights of recorded epochs in the value at `end`, on a straight line between two: shape (E,).

    Raises
    ------
    InputError
        If `end` lies before the first or behind the last.
    """
    if not at[0] <= end <= at[-1] * (1.0 + _LAST_DIGIT):
        raise InputError(f"{arm!r} is recorded from {at[0]:g} to {at[-1]:g}, which {end:g} is not within")
    weights = np.zeros(len(at))
    after = min(int(np.searchsorted(at, end)), len(at) - 1)
    if at[after] <= end or after == 0:
        weights[after] = 1.0
        return weights
    share = (end - at[after - 1]) / (at[after] - at[after - 1])
    weights[after - 1], weights[after] = 1.0 - share, share
    return weights


def mean_until(at: Floats, end: float, last: Floats) -> Floats:
    """Return the weights of recorded epochs in the mean over training up to `end` (the trapezoidal rule), shape (E,).

    Parameters
    ----------
    at : ndarray, shape (E,)
    end : float
    last : ndarray, shape (E,)
        Those of the value at `end`.
    """
    if end <= at[0]:
        return last
    within = np.flatnonzero(at < end)
    weights = np.zeros(len(at))
    for here, there in zip(within[:-1], within[1:], strict=True):
        weights[[here, there]] += (at[there] - at[here]) / 2.0
    rest = end - at[within[-1]]
    weights[within[-1]] += rest / 2.0
    mean: Floats = (weights + last * rest / 2.0) / (end - at[0])
    return mean


def _parts(arm: Arm, split: str, buckets: Bucketing | None, value: Value) -> list[DocumentSums]:
    if value == "correct":
        return accuracy_sums(arm, split, buckets=buckets)
    return arm.seed_sums(split, buckets=buckets, value=value)


def _best(parts: list[DocumentSums], apart: list[DocumentSums] | None, *, highest: bool) -> Contributions:
    """Return the value at the best epoch, that of the lowest value or of the highest."""
    if not highest:
        return best_contributions(parts, chosen_on=apart)
    below = [None if each is None else [replace(part, sums=-part.sums) for part in each] for each in (parts, apart)]
    assert below[0] is not None
    return best_contributions(below[0], chosen_on=below[1]).negated()


def _cut(parts: list[DocumentSums], recorded: NDArray[np.bool_]) -> list[DocumentSums]:
    if recorded.all():
        return parts
    return [
        replace(
            part,
            sums=part.sums[recorded],
            counts=part.counts if part.counts.ndim == 2 else part.counts[recorded],
            epochs=part.epochs[recorded],
            passes=part.at[recorded],
        )
        for part in parts
    ]
