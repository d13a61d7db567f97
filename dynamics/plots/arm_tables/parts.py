"""Parts of the table of arms: differences from the baseline, and the accuracy on a task's results."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dynamics.analysis.comparisons.arm_comparisons import Comparison
from dynamics.analysis.comparisons.family import task_comparisons
from dynamics.analysis.estimands.value_curves import ValueCurve, task_curves
from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.sums.arms import Arm


@dataclass(frozen=True, slots=True)
class Difference:
    """Loss of an arm minus that of another, in nats per token (or accuracy), after `epoch`, the last that both have.

    Attributes
    ----------
    epoch : int
    over : {"documents", "seeds_and_documents"}
        What interval and p-value generalise over.
    estimate, low, high : float
        With the interval of this difference by itself.
    probability : float
        Confidence that the arm has the lower value.
    p_value, p_holm : float
        Two-sided; the second adjusted after Holm (1979) for the study's family of comparisons
        (`dynamics.analysis.comparisons.family`). 1 where a loss is NaN.
    """

    epoch: int
    over: Over
    estimate: float
    low: float
    high: float
    probability: float
    p_value: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class TaskTable:
    """Accuracy on the tokens that carry a task's results.

    Attributes
    ----------
    task : str
        Its name, or the pattern of these tokens.
    curves : dict of str to ValueCurve
        By arm; `ValueCurve.final` is in the table.
    differences : dict of str to Difference
        Final accuracy minus that of the baseline, by arm (`task_comparisons`): above 0 the arm is the better one.
    """

    task: str
    curves: dict[str, ValueCurve]
    differences: dict[str, Difference]

    def note(self, baseline: str | None) -> str:
        """Return what a reader must know of it."""
        of = next(iter(self.curves.values()))
        left_out = f"; {of.n_left_out:,} without results are left out" if of.n_left_out else ""
        note = (
            f"Accuracy on results: share of the tokens that carry the results of {self.task} that are the most "
            f"probable ones given the text before them, after the last epoch ({of.n_documents:,} documents{left_out})."
        )
        if self.differences:
            note += (
                f" Against {baseline}: above 0 the arm is better; p is adjusted after Holm for these "
                f"{len(self.differences)}."
            )
        few = about_documents(of.n_documents)
        return note if few is None else f"{note} Warning: {few}."


def task_table(arms: Sequence[Arm], task: str, baseline: str, over: Over | None, level: float) -> TaskTable:
    """Return the accuracies of arms on a task's results, and their differences from the baseline's."""
    with warnings.catch_warnings():
        # As of losses, it is said beneath the table.
        warnings.simplefilter("ignore", UserWarning)
        curves = task_curves(arms, task, over=over, level=level)
        differences = task_comparisons(arms, task, baseline=baseline, over=over, level=level)
    return TaskTable(task, {curve.arm: curve for curve in curves}, by_arm(differences))


def by_arm(rows: Iterable[Comparison]) -> dict[str, Difference]:
    """Return the differences of comparisons by their arm."""
    return {
        row.arm: Difference(
            int(row.epoch or 0),
            row.over,
            row.estimate,
            row.low,
            row.high,
            row.probability,
            row.p_value,
            row.p_holm,
        )
        for row in rows
    }


def difference_columns(prefix: str, difference: Difference | None) -> dict[str, Any]:
    """Return the columns of a difference, empty where there is none."""
    return {
        prefix: difference.estimate if difference else math.nan,
        f"{prefix}_low": difference.low if difference else math.nan,
        f"{prefix}_high": difference.high if difference else math.nan,
        f"{prefix}_epoch": difference.epoch if difference else "",
        f"{prefix}_over": difference.over if difference else "",
        f"{prefix}_p": difference.p_value if difference else math.nan,
        f"{prefix}_p_holm": difference.p_holm if difference else math.nan,
    }


def task_columns(task: TaskTable | None, arm: str) -> dict[str, Any]:
    """Return the columns of an arm's accuracy on a task's results; none without a task."""
    if task is None:
        return {}
    curve = task.curves[arm]
    return {
        "task": task.task,
        "task_final": float(curve.final.estimate[0]),
        "task_final_low": float(curve.final.low[0]),
        "task_final_high": float(curve.final.high[0]),
        "task_documents": curve.n_documents,
        "task_documents_left_out": curve.n_left_out,
        **difference_columns("task_difference", task.differences.get(arm)),
    }
