"""What two runs must have in common to be the same: bytes, and JSON without its wall-clock fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynamics.records import schema

# Rows of metrics carry this one field of wall-clock time, and manifests theirs.
_OF_METRICS = ("tokens_per_second",)
_OF_MANIFESTS = ("timing", schema.SELF_HASH, "metrics_file")


def contents(folder: Path) -> dict[str, Any]:
    """Return everything of a finished run that must be the same, by file."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            continue
        if name == schema.METRICS_FILE:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key not in _OF_METRICS} for row in rows]
        elif name == schema.MANIFEST_FILE:
            manifest = schema.read_manifest(path)
            found[name] = {key: value for key, value in manifest.items() if key not in _OF_MANIFESTS}
        else:
            found[name] = schema.sha256_file(path)
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the files that differ between two runs' contents, or that one of them lacks."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
