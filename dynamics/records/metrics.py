"""``metrics.jsonl``: scalars by step, one JSON object a line, appended while training goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.errors import DamagedRecordError
from dynamics.records import schema

#: JSON has no such numbers, so these strings stand for them.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def append_metrics(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows of scalars; each row has an integer ``step``, which never goes backwards.

    JSON has no NaN and no infinity: they are written as the strings "NaN", "Infinity" and
    "-Infinity", which `read_metrics` turns back into floats.
    """
    lines = []
    for row in rows:
        assert isinstance(row.get("step"), int), f"a row of metrics needs a step: {row}"
        plain = {key: _to_json(value) for key, value in row.items()}
        lines.append(json.dumps(plain, allow_nan=False) + "\n")
    # Bytes, so that lines end alike on every system; one write, so that what a killed process
    # leaves is torn at the very end only.
    with open(path, "ab") as file:
        file.write("".join(lines).encode("ascii"))


def rewind_metrics(path: str | os.PathLike[str], *, step: int) -> int:
    """Drop the rows after `step` and a torn last line, and return how many lines went.

    A resumed run calls this with the step of its checkpoint, so that steps never go backwards.
    """
    path = Path(path)
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        schema.atomic_write_bytes(path, b"".join(kept))
    return len(lines) - len(kept)


def read_metrics(path: str | os.PathLike[str], *, running: bool) -> list[dict[str, Any]]:
    """Read the rows; [] when there is no file.

    Parameters
    ----------
    running
        Whether the run may still be writing: a torn last line is then left out.

    Raises
    ------
    DamagedRecordError
        Naming the line that is no JSON object, has no integer ``step``, or goes backwards.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    lines = raw.split(b"\n")
    torn = lines.pop()  # What follows the last line end: nothing, in a whole file.
    if torn and not running:
        raise DamagedRecordError(f"{path}, line {len(lines) + 1}: the line is torn")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise DamagedRecordError(f"{path}, line {number}: not valid JSON") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DamagedRecordError(f"{path}, line {number}: no object with an integer 'step'")
        if rows and row["step"] < rows[-1]["step"]:
            raise DamagedRecordError(f"{path}, line {number}: step {row['step']} after step {rows[-1]['step']}")
        rows.append({key: _from_json(value) for key, value in row.items()})
    return rows


def _to_json(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_json(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
