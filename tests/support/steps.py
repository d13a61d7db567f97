"""The GPU command's steps, run tiny on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from benchmarks.gpu.protocol import Check, Where

TINY = Where("cpu", True)


def measured_and_checks(step: ModuleType) -> tuple[dict[str, Any], list[Check]]:
    """Run a step and return what it found; its claims must differ in words."""
    found = step.run(TINY)
    by_what(found.checks)
    return found.measured, found.checks


def by_what(checks: Iterable[Check]) -> dict[str, Check]:
    """Return checks by what they claim."""
    found = {check.what: check for check in checks}
    assert len(found) == len(list(checks)), "two checks claim the same"
    return found
