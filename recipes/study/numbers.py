"""Every number that docs/findings.md and README state of a study, from its records or its summaries.

Words are a person's, numbers are not: `recipes.study.findings` puts these into the texts by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.comparisons.family import study_comparisons, task_comparisons
from dynamics.analysis.comparisons.power import detectable_difference, pilot_design, seeds_needed
from dynamics.analysis.estimands.forgetting import forgetting
from dynamics.analysis.estimands.quantities import arm_quantity
from dynamics.analysis.estimands.summary import arm_summary
from dynamics.analysis.estimands.value_curves import ValueCurve, reported_splits, task_curves, value_curves
from dynamics.analysis.intervals.bands import uncertainty_over
from dynamics.analysis.sums.arms import Arm, as_buckets, collect_arms, default_baseline
from dynamics.records.reader import Study

# A difference that would matter, in nats per token: what a design is asked to find.
MATTERS = 0.02

# Text of another kind, of which each study holds some out.
GENERAL = "validation-general"

Numbers = dict[str, Any]


def study_numbers(study: Study, *, task: str | None = None) -> Numbers:
    """Return the numbers of a study as nested mappings: ``arm`` by name, ``compare`` by "ARM QUANTITY OTHER".

    Intervals are of 95 %, over seeds and documents. `p` is Holm's, over the family of comparisons
    (`dynamics.analysis.comparisons.family`) or over all contrasts of its kind.
    """
    arms = collect_arms(study)
    baseline = default_baseline(arms)
    with warnings.catch_warnings():
        # What they say of few documents stands in the text itself, beside the numbers.
        warnings.simplefilter("ignore", UserWarning)
        return {
            "seeds": len(arms[0].runs),
            "epochs": arms[0].epochs[-1],
            "documents": arm_summary(arms[:1])[0].n_documents,
            "arm": _arms(arms),
            "compare": {f"{row.arm} {row.quantity} {row.other}": _row(row) for row in _both_ways(arms)},
            "contrast": _contrasts(arms, baseline),
            "power": _powers(arms),
            **({} if task is None else {"task": _task(arms, task)}),
        }


def _arms(arms: Sequence[Arm]) -> dict[str, Numbers]:
    found: dict[str, Numbers] = {}
    halves = as_buckets(arms, 2)
    summaries = {row.arm: row for row in arm_summary(arms)}
    accuracy = {row.arm: row for row in value_curves(arms, "accuracy", buckets=2)}
    losses = {row.arm: row for row in value_curves(arms, "loss", buckets=2)}
    bits = {row.arm: row for row in value_curves(arms, "bits_per_byte")}
    forgotten = {row.arm: _last(row) for row in forgetting(arms)} if GENERAL in reported_splits(arms) else {}
    for arm in arms:
        row = summaries[arm.name]
        curve = arm_curve(arm)
        found[arm.name] = {
            "start": curve[0],
            "best epoch": row.best_epoch,
            "best": _interval(row.best_cross_fitted, row.best_cross_fitted_low, row.best_cross_fitted_high),
            "final": _interval(row.final, row.final_low, row.final_high),
            "rebound": _interval(row.rebound_cross_fitted, row.rebound_cross_fitted_low, row.rebound_cross_fitted_high),
            "dropped": row.dropped_share,
            "forgotten": forgotten.get(arm.name),
            "bits": {"start": bits[arm.name].values.estimate[0, 0], "final": _last(bits[arm.name])},
        }
        rebounds = arm_quantity(arm, "rebound", buckets=halves)
        uncertainty, _ = uncertainty_over(rebounds)
        between = uncertainty.interval(0.95)
        for k, label in enumerate(halves.labels):
            found[arm.name][label] = {
                "rebound": _interval(between.estimate[k], between.low[k], between.high[k]),
                "start": losses[arm.name].values.estimate[0, k],
                "lowest": losses[arm.name].values.estimate[:, k].min(),
                "final": losses[arm.name].values.estimate[-1, k],
                "highest accuracy": accuracy[arm.name].values.estimate[:, k].max(),
                "final accuracy": accuracy[arm.name].values.estimate[-1, k],
            }
    return found


def _task(arms: Sequence[Arm], task: str) -> dict[str, Numbers]:
    """Return by arm the share of a task's result tokens that are the most probable ones, given the text before them."""
    found: dict[str, Numbers] = {}
    for row in task_curves(arms, task):
        curve = row.values.estimate[:, 0]
        found[row.arm] = {"start": curve[0], "highest": curve.max(), "final": _last(row), "documents": row.n_documents}
    for change in task_comparisons(arms, task) if len(arms) > 1 else ():
        found[change.arm]["against baseline"] = _row(change)
    return found


def arm_curve(arm: Arm, split: str = "validation") -> list[float]:
    """Return the mean loss after every epoch, nats per token."""
    sums = arm.sums(split)
    return [float(value) for value in sums.sums.sum(axis=(1, 2)) / sums.counts.sum()]


def _both_ways(arms: Sequence[Arm]) -> list[Any]:
    rows = study_comparisons(arms, margin=MATTERS)
    return [*rows, *(row.turned() for row in rows)]


def _row(row: Any) -> Numbers:
    return {
        **_interval(row.estimate, row.low, row.high),
        "p": row.p_holm,
        "p equivalent": row.p_equivalent_holm,
    }


def _contrasts(arms: Sequence[Arm], baseline: str) -> dict[str, Numbers]:
    """Return the high half's rebound minus the low half's: by arm, and "ARM minus OTHER" for what an arm changes."""
    rows = bucket_contrasts(arms, baseline=baseline)
    return {
        f"{row.arm} minus {row.other}" if row.other else row.arm: {
            **_interval(row.estimate, row.interval_low, row.interval_high),
            "p": row.p_holm,
        }
        for row in rows
    }


def _powers(arms: Sequence[Arm]) -> dict[str, Numbers]:
    """Return what the design finds in four of five studies, by "ARM QUANTITY OTHER", each comparison by itself."""
    found = {}
    for other, arm in combinations(arms, 2):
        if min(len(arm.runs), len(other.runs)) > 1:
            for quantity in ("final", "best"):
                design = pilot_design([other, arm], arm.name, other.name, quantity=quantity)
                found[f"{arm.name} {quantity} {other.name}"] = {
                    "detectable": detectable_difference(design),
                    "seeds needed": seeds_needed(design, MATTERS),
                }
    return found


def _interval(estimate: float, low: float, high: float) -> Numbers:
    return {"is": float(estimate), "low": float(low), "high": float(high)}


def _last(curve: ValueCurve) -> Numbers:
    final = curve.final
    return _interval(*(float(np.asarray(value)[0]) for value in (final.estimate, final.low, final.high)))
