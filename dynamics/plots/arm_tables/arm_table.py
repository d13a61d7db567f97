"""The table of arms: what each reached and where it ended, in numbers and as rows for CSV.

Losses are validation losses in nats per token, averaged over seeds. Best and rebound are cross-fitted: the plain ones
are biased. Differences are paired, since both arms are measured on the same tokens; every arm is compared with the end
of the baseline and with its best epoch, which is what early stopping would have given, and all comparisons of a study
are one family (`dynamics.analysis.comparisons.family`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.limits import EARLY_STOPPING, about_best_of_one_model, limits
from dynamics.analysis.estimands.summary import ArmSummary, arm_summary, note_on_passes
from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.intervals.over_seeds_and_documents import about_seeds
from dynamics.analysis.sums.arms import Source, collect_arms, default_baseline
from dynamics.errors import InputError, nearest
from dynamics.plots.arm_tables.parts import Difference as Difference
from dynamics.plots.arm_tables.parts import TaskTable, by_arm, difference_columns, task_columns, task_table
from dynamics.plots.drawing.labels import in_words
from dynamics.records.reader import BESIDE


@dataclass(frozen=True, slots=True)
class ArmTable:
    """The table of arms.

    Attributes
    ----------
    rows : tuple of ArmSummary
        In the order of the recipe.
    differences : dict of str to Difference
        Final loss minus that of the baseline, by arm, early stopping of the baseline among them; none of the baseline,
        nor of an arm that has no epoch in common with it.
    from_early_stopping : dict of str to Difference
        Final loss minus that of the baseline's best epoch, by arm.
    of_bests : dict of str to Difference
        Loss at the arm's best epoch minus that at the baseline's, by arm: both stopped early.
    baseline : str or None
        The arm that the others are compared with; None where there is one arm alone.
    level : float
        Of all intervals.
    limits : tuple of str
        What the intervals cannot cover, or do not speak of.
    n_comparisons : int
        How many p-values are adjusted for: those of every pair of arms too (`study_comparisons`).
    tuned : dict of str to mapping
        By arm, how its settings were chosen, as its runs' manifests say; none of an arm that was not tuned.
    task : TaskTable or None
        Where it was asked for.
    """

    rows: tuple[ArmSummary, ...]
    differences: dict[str, Difference]
    from_early_stopping: dict[str, Difference]
    of_bests: dict[str, Difference]
    baseline: str | None
    level: float
    limits: tuple[str, ...] = ()
    n_comparisons: int = 0
    tuned: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    task: TaskTable | None = None

    @property
    def stopped(self) -> str | None:
        """What early stopping of the baseline is called; None where it is not compared."""
        name = f"{self.baseline}{EARLY_STOPPING}"
        return name if name in self.differences else None

    def significant(self, difference: Difference) -> bool:
        """Whether there is a difference: the chance of any such finding being false is below 1 - level."""
        # Not "< 1 - level", which is a little above 0.05 for a level of 0.95.
        return difference.p_holm + self.level < 1.0

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the table, one sentence or two each."""
        n_documents = self.rows[0].n_documents
        several = {row.n_seeds > 1 for row in self.rows}
        elsewhere = "other seeds and documents" if True in several else "other documents"
        if len(several) == 2:
            elsewhere += " (with one seed: other documents alone)"
        percent = f"{100 * self.level:g} %"
        overs = in_words([row.over for row in self.rows])
        notes = [
            "Validation loss in nats per token, averaged over seeds.",
            f"Intervals: {percent}, {overs} ({n_documents:,} validation documents).",
            f"Best: at the best epoch, chosen on {elsewhere} than it is measured on; what early stopping would have "
            "given. Epoch: that of the lowest mean. Rebound: final minus best.",
            "Dropped: share of the predicted tokens dropped, mean over training.",
        ]
        compared = [
            each for found in (self.differences, self.from_early_stopping, self.of_bests) for each in found.values()
        ]
        if compared:
            overs = in_words([each.over for each in compared])
            notes.append(
                f"Against {self.baseline}: final loss minus its final loss; against early stopping: final loss minus "
                f"its best; best against best: both stopped early. Paired, {overs}; each interval by itself. p: two-"
                f"sided, adjusted after Holm for the study's {self.n_comparisons} comparisons (every pair of arms by "
                f"final and best loss, and early stopping); * where p < {1 - self.level:.2g}: a difference that "
                f"generalises {overs}."
            )
        if self.task is not None:
            notes.append(self.task.note(self.baseline))
        if self.tuned:
            notes.append(_tuning_note(self.tuned))
        passes = note_on_passes(self.rows)
        if passes is not None:
            notes.append(passes)
        finals = {row.arm: row.final_epoch for row in self.rows}
        early = {
            arm: each.epoch
            for arm, each in self.differences.items()
            if arm in finals and {finals[arm], finals[str(self.baseline)]} != {each.epoch}
        }
        if early:
            listed = ", ".join(f"{arm} ({epoch})" for arm, epoch in early.items())
            notes.append(f"Arms differ in their last epoch; compared at the last common one: {listed}.")
        return [*notes, *(f"Warning: {limit}." for limit in self.limits)]


def arm_table(
    data: Source | Iterable[Source],
    *,
    baseline: str | None = None,
    over: Over | None = None,
    level: float = 0.95,
    task: str | None = None,
) -> ArmTable:
    """Return the table of the arms of a study, or of runs side by side.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
        A run counts as one arm.
    baseline : str, optional
        The arm that the others are compared with. Default: the one whose name says so (``baseline``, ``none``,
        ``control``), or the first.
    over : {"documents", "seeds_and_documents"}, optional
        What intervals and p-values generalise over. Default: both where arms have two seeds or more.
    level : float
        Of all intervals.
    task : str, optional
        Add the accuracy on a task's results: ``gsm8k``, or a pattern (`task_curves`).

    Raises
    ------
    InputError
        If there is no arm `baseline`, no epoch is complete, the tokens of the runs differ, or no text has the task's
        results.

    Warns
    -----
    UserWarning
        As `arm_summary`. What intervals and comparisons cannot cover stands in `limits` besides.
    """
    arms = collect_arms(data)
    names = [arm.name for arm in arms]
    if baseline is not None and baseline not in names:
        raise InputError(f"no arm {baseline!r} to compare with; there are {', '.join(names)}{nearest(baseline, names)}")
    rows = tuple(arm_summary(arms, over=over, level=level))
    tuned = {arm.name: found for arm in arms if (found := arm.runs[0].manifest.get("tuned"))}
    chosen = arms[names.index(baseline or default_baseline(arms))]
    of_task = None if task is None else task_table(arms, task, chosen.name, over, level)
    if len(arms) == 1:
        return ArmTable(rows, {}, {}, {}, None, level, tuple(_limits_of_one(rows[0])), tuned=tuned, task=of_task)
    with warnings.catch_warnings():
        # What intervals cannot cover stands beneath the table.
        warnings.simplefilter("ignore", UserWarning)
        family = study_comparisons(arms, baseline=chosen.name, over=over, level=level)
    stopped = f"{chosen.name}{EARLY_STOPPING}"
    ends = [row for row in family if row.quantity == "final"]
    return ArmTable(
        rows,
        by_arm(row for row in ends if row.other == chosen.name),
        by_arm(row for row in ends if row.other == stopped),
        by_arm(row for row in family if row.quantity == "best" and row.other == chosen.name),
        chosen.name,
        level,
        tuple(limits(family)) if family else (),
        len(family),
        tuned,
        of_task,
    )


def _tuning_note(tuned: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what was tried for each arm and what was chosen, in a sentence or two."""
    first = next(iter(tuned.values()))
    arms, beside = [], []
    for arm, found in tuned.items():
        if arm.rpartition(BESIDE)[0] in tuned:
            beside.append(arm)
            continue
        chosen = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
        arms.append(f"{arm} {chosen or 'as it stands'} (of {found['budget']['trials']})")
    note = (
        f"Settings were chosen among trials by their {first['choose']} loss on documents that are kept for tuning, "
        f"with seed {first['seed']}, which is not reported: {'; '.join(arms)}."
    )
    if beside:
        note += f" Averaged weights ({', '.join(beside)}) have the settings that the trained ones were best with."
    unequal = first.get("unequal_budget")
    return note if not unequal else f"{note} Arms had unequal numbers of trials: {str(unequal).rstrip('.')}."


def _limits_of_one(row: ArmSummary) -> list[str]:
    """Return what the intervals of an arm that is compared with none cannot cover."""
    said = [about_documents(row.n_documents), about_best_of_one_model([row.arm] if row.n_seeds == 1 else [])]
    if row.over == "seeds_and_documents":
        said.append(about_seeds(row.n_seeds))
    return [each for each in said if each is not None]


def closing_table(table: ArmTable) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of the table that training ends with: short enough for a terminal.

    From left to right what happens to an arm: where it starts, its best epoch, its end, how far that is above the best.
    Of one arm alone the interval is that of its final loss; of several it is that of the difference from the
    baseline's, with the star of `ArmTable.significant`.
    """
    several = table.baseline is not None
    header = ("arm", "start", "best", "epoch", "final", "rebound", "dropped")
    rows: list[tuple[str, ...]] = []
    for row in table.rows:
        numbers = (row.start, row.best_cross_fitted, row.final, row.rebound_cross_fitted, row.dropped_share)
        start, best, final, rebound, dropped = (f"{number:.3f}" for number in numbers)
        cells = (row.arm, start, best, f"{row.best_at:g}", final, rebound, dropped)
        difference = table.differences.get(row.arm)
        if not several:
            rows.append((*cells, f"[{row.final_low:.3f}, {row.final_high:.3f}]"))
        elif difference is None:
            rows.append((*cells, "", ""))
        else:
            star = "*" if table.significant(difference) else ""
            interval = f"[{difference.low:+.3f}, {difference.high:+.3f}]"
            rows.append((*cells, f"{difference.estimate:+.3f}{star}", interval))
    return (*header, *((f"against {table.baseline}",) if several else ()), f"{100 * table.level:g} % interval"), rows


def table_rows(table: ArmTable) -> list[dict[str, Any]]:
    """Return the numbers of the table as they are, one row an arm; what does not exist is NaN or empty."""
    any_cut = any(row.best_at != row.best_epoch or row.final_at != row.final_epoch for row in table.rows)
    rows = [_row(table, row, any_cut) for row in table.rows]
    if table.stopped is not None:
        of = next(row for row in table.rows if row.arm == table.baseline)
        stopped = dict.fromkeys(rows[0], math.nan) | {
            "arm": table.stopped,
            "seeds": of.n_seeds,
            "documents": of.n_documents,
            "over": of.over,
            "best_epoch": "",
            "final": of.best_cross_fitted,
            "final_epoch": "",
            "final_low": of.best_cross_fitted_low,
            "final_high": of.best_cross_fitted_high,
        }
        rows.append(stopped | _columns(table, table.stopped))
    return rows


def _row(table: ArmTable, row: ArmSummary, any_cut: bool) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "seeds": row.n_seeds,
        "documents": row.n_documents,
        "over": row.over,
        "best": row.best,
        "best_epoch": row.best_epoch if row.best_epoch >= 0 else "",
        **({"best_passes": row.best_at if row.best_epoch >= 0 else ""} if any_cut else {}),
        "best_cross_fitted": row.best_cross_fitted,
        "best_cross_fitted_low": row.best_cross_fitted_low,
        "best_cross_fitted_high": row.best_cross_fitted_high,
        "final": row.final,
        "final_epoch": row.final_epoch,
        **({"final_passes": row.final_at} if any_cut else {}),
        "final_low": row.final_low,
        "final_high": row.final_high,
        "rebound_cross_fitted": row.rebound_cross_fitted,
        "rebound_cross_fitted_low": row.rebound_cross_fitted_low,
        "rebound_cross_fitted_high": row.rebound_cross_fitted_high,
        "dropped_share": row.dropped_share,
        **({"tuning_trials": table.tuned.get(row.arm, {}).get("budget", {}).get("trials", "")} if table.tuned else {}),
        **_columns(table, row.arm),
        **task_columns(table.task, row.arm),
    }


def _columns(table: ArmTable, arm: str) -> dict[str, Any]:
    """Return the columns of an arm's differences: from the baseline's end, and from its best epoch."""
    columns: dict[str, Any] = {"baseline": table.baseline or ""}
    for prefix, found in (
        ("difference", table.differences),
        ("from_early_stopping", table.from_early_stopping),
        ("of_bests", table.of_bests),
    ):
        difference = found.get(arm)
        columns |= difference_columns(prefix, difference)
        columns |= {
            f"{prefix}_probability_lower": difference.probability if difference else math.nan,
            f"{prefix}_significant": int(table.significant(difference)) if difference else "",
        }
    return columns
