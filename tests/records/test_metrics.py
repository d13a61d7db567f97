"""Scalars by step: appended, read back, rewound, and torn lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dynamics.errors import DamagedRecordError
from dynamics.records.metrics import append_metrics, read_metrics, rewind_metrics


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [{"step": 0, "training_loss": 4.5}])
    append_metrics(path, [{"step": 1, "training_loss": np.float32(0.5)}, {"step": 1, "note": "x"}])
    assert read_metrics(path, running=False) == [
        {"step": 0, "training_loss": 4.5},
        {"step": 1, "training_loss": 0.5},
        {"step": 1, "note": "x"},
    ]


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl", running=True) == []


def test_numbers_that_json_lacks_are_strings_on_disk_and_floats_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [{"step": 0, "a": math.nan, "b": math.inf, "c": np.float64("-inf")}])
    on_disk = json.loads(path.read_text())
    assert on_disk == {"step": 0, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    (row,) = read_metrics(path, running=False)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_a_row_needs_a_step(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="needs a step"):
        append_metrics(tmp_path / "metrics.jsonl", [{"loss": 1.0}])
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_torn_last_line_is_left_out_while_running_and_damage_after(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n{"st')
    assert [row["step"] for row in read_metrics(path, running=True)] == [0, 1]
    with pytest.raises(DamagedRecordError, match=r"metrics\.jsonl, line 3"):
        read_metrics(path, running=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"step": 0}\n{"step" 1}\n', "line 2: not valid JSON"),
        (b'{"step": 0}\n\n', "line 2: not valid JSON"),
        (b"[0]\n", "line 1: no object"),
        (b'{"step": "0"}\n', "line 1: no object"),
        (b'{"loss": 1}\n', "line 1: no object"),
        (b'{"step": 5}\n{"step": 5}\n{"step": 4}\n', "line 3: step 4 after step 5"),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_damage_names_the_line(tmp_path: Path, content: bytes, message: str, running: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(DamagedRecordError, match=message):
        read_metrics(path, running=running)


def test_rewinding_drops_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [{"step": step} for step in (0, 5, 10, 15)])
    with path.open("ab") as file:
        file.write(b'{"step": 2')
    assert rewind_metrics(path, step=10) == 2
    assert [row["step"] for row in read_metrics(path, running=False)] == [0, 5, 10]
    append_metrics(path, [{"step": 11}])
    assert [row["step"] for row in read_metrics(path, running=False)] == [0, 5, 10, 11]


def test_rewinding_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert rewind_metrics(path, step=3) == 0
    assert not path.exists()
    append_metrics(path, [{"step": 3}])
    before = path.stat().st_mtime_ns
    assert rewind_metrics(path, step=3) == 0
    assert path.stat().st_mtime_ns == before
