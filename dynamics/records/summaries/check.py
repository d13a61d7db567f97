"""Checking a summary: every byte of every file against ``study.json``, and what its tensors must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.check import CheckReport, Problem, check_path
from dynamics.records.summaries.files import SHARED_FILE, SUMMARY_FILE, is_summary, read_summary, run_file
from dynamics.records.summaries.reading import Summary, SummaryRun


def check_any(path: str | os.PathLike[str]) -> list[CheckReport]:
    """Check a run, a study, or the summary of one; as `dynamics.records.check.check_path`.

    Of a summary there is one report.
    """
    return [check_summary(path)] if is_summary(Path(path)) else check_path(path)


def check_summary(path: str | os.PathLike[str]) -> CheckReport:
    """Check everything that a summary's manifest vouches for, and that nothing else lies among it.

    Raises
    ------
    InputError
        If there is no summary at `path`, or one of another version.
    """
    path = Path(path)
    report = CheckReport(path)
    try:
        content = read_summary(path)
    except DamagedRecordError as error:
        report.problems.append(Problem(SUMMARY_FILE, None, str(error)))
        report.notes.append(f"nothing else was checked: only {SUMMARY_FILE} vouches for it")
        return report
    summary = Summary(path, verify=True)
    known = {SUMMARY_FILE, schema.TUNING_FILE, SHARED_FILE, *(run_file(arm, seed) for arm, seed in summary.held)}
    _try(report, SUMMARY_FILE, lambda: None)
    _try(report, SHARED_FILE, lambda: summary.shared)
    if (path / schema.TUNING_FILE).exists() or content.get("tuned"):
        _try(report, schema.TUNING_FILE, lambda: schema.read_manifest(path / schema.TUNING_FILE))
    runs = []
    for arm, seed in summary.held:
        found: list[SummaryRun] = []

        def opened(arm: str = arm, seed: int = seed, found: list[SummaryRun] = found) -> None:
            found.append(SummaryRun(summary, arm, seed))

        _try(report, run_file(arm, seed), opened)
        runs += found
    common = set.intersection(*(set(run.epochs) for run in runs)) if runs else set()
    report.good_epochs = sorted(common)
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_dir() or name in known:
            continue
        if name.endswith(schema.TEMPORARY_SUFFIX):
            report.notes.append(f"{name} is a leftover of an interrupted write")
        elif file.parent.name in content["arms"] and file.suffix == ".safetensors":
            report.notes.append(f"{name} is not in {SUMMARY_FILE}: summarising that was interrupted writes it again")
        else:
            report.notes.append(f"{name} is no part of a summary, and was not checked")
    return report


def _try(report: CheckReport, name: str, read: Callable[[], object]) -> None:
    """Count a file, and note what is wrong with it."""
    file = report.path / name
    if file.is_file():
        report.n_files += 1
        report.n_bytes += file.stat().st_size
    try:
        read()
    except (DamagedRecordError, InputError) as error:
        report.problems.append(Problem(name, None, str(error)))
