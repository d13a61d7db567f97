"""A study's table: one row an arm with its best and final loss and its rebound, and what is wrong with which run."""

from __future__ import annotations

import warnings
from dataclasses import replace

from dynamics.analysis.cards.run_card import MOST_VALUES, status, values_to_read
from dynamics.analysis.estimands.summary import ArmSummary, arm_summary
from dynamics.analysis.sums.arms import Arm
from dynamics.display.described import first_line
from dynamics.display.layouts import Column, Layout, table_of, text_column
from dynamics.display.tables import Table
from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.reader import Run, Study, open_run, study_run_path
from dynamics.records.summaries.reading import Summary

#: More lines than this on runs are counted, not listed.
_MOST_LINES = 8
_LISTED = Layout("arms", (text_column("arm", lambda row, _: row[0]), Column("runs", lambda row, _: row[1])))


def study_table(study: Study) -> Table:
    """Return the table of a study's arms: cross-fitted numbers, as `arm_summary` gives them."""
    runs, notes = _runs(study)
    rows, wrong = _summaries(study, runs)
    notes += wrong
    if len(notes) > _MOST_LINES:
        notes = [*notes[:_MOST_LINES], f"and {len(notes) - _MOST_LINES} more"]
    if rows:
        assert ArmSummary.layout is not None
        table = table_of(rows, ArmSummary.layout)
    else:
        table = table_of([(arm, sum(key[0] == arm for key in runs)) for arm in study.arms], _LISTED)
    return replace(table, title=study._title(), notes=[*table.notes, *notes])


def _runs(study: Study) -> tuple[dict[tuple[str, int], Run], list[str]]:
    """Return the runs that can be opened, and a line for each that is missing, damaged or not finished."""
    if isinstance(study, Summary):
        return dict(study.runs), []
    runs: dict[tuple[str, int], Run] = {}
    notes = []
    for arm in study.arms:
        missing = []
        for seed in study.seeds:
            folder = study_run_path(study.path, arm, seed)
            if not (folder / schema.MANIFEST_FILE).is_file():
                missing.append(seed)
                continue
            try:
                run = open_run(folder)
                runs[arm, seed] = run
                if status(run) != "complete":
                    notes.append(f"{arm}, seed {seed}: {status(run)}")
            except (InputError, DamagedRecordError, OSError) as error:
                notes.append(f"{arm}, seed {seed}: cannot be opened: {first_line(error)}")
        if missing:
            notes.append(f"{arm}, seed{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}: not begun")
    return runs, notes


def _summaries(study: Study, runs: dict[tuple[str, int], Run]) -> tuple[list[ArmSummary], list[str]]:
    """Return the summaries of the arms that have one, and why the others have none."""
    if not isinstance(study, Summary) and values_to_read(runs.values()) > MOST_VALUES:
        return [], ["the records are too large to be summed up here: dynamics.analysis.arm_summary(study) does it"]
    rows: list[ArmSummary] = []
    notes = []
    for arm in study.arms:
        with_epochs = [run for (name, _), run in runs.items() if name == arm and run.epochs]
        if not with_epochs:
            if any(name == arm for name, _ in runs):
                notes.append(f"{arm}: no epoch is recorded")
            continue
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                rows += arm_summary(Arm(arm, with_epochs))
            about = [str(each.message) for each in said]
            notes += dict.fromkeys(each for each in about if "later ones are left out" in each)
        except (InputError, DamagedRecordError, OSError) as error:
            notes.append(f"{arm}: {first_line(error)}")
    return rows, notes
