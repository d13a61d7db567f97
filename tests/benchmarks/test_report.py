"""What docs/performance.md, docs/coverage.md and docs/gpu.md say was measured is what benchmarks/results holds."""

import json
from pathlib import Path

import pytest

from benchmarks import report

ROOT = Path(__file__).parents[2]


def results():
    return {path.name: json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")}


@pytest.mark.parametrize("name", report.DOCUMENTS)
def test_a_document_is_what_the_results_say(name):
    text = (ROOT / "docs" / name).read_text()
    assert report.filled(name, text, results()) == text, "run python -m benchmarks.report"


def test_a_changed_result_changes_the_document():
    text = (ROOT / "docs" / "performance.md").read_text()
    changed = results()
    name = next(name for name in sorted(changed) if name.startswith("head-"))
    changed[name]["results"][0]["over plain"]["fused"] = {"median": 0.123, "low": 0.1, "high": 7.25}
    assert "**0.12** (0.10-7.25)" in report.filled("performance.md", text, changed)


def test_what_was_not_measured_has_no_column():
    columns = [("a", lambda row: row["a"]), ("b", lambda row: report.ABSENT), ("c", lambda row: row["c"])]
    rows = [{"a": "1", "c": "-"}, {"a": "2", "c": "3"}]
    assert report.table(columns, rows) == ["| a | c |", "| --- | --- |", "| 1 | - |", "| 2 | 3 |"]


def test_marks_must_be_there():
    with pytest.raises(SystemExit, match="0 pairs of marks of head"):
        report.filled("performance.md", "# Performance\n", {})
