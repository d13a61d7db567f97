"""Every kind of study that is simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.coverage import choices, crossed
from benchmarks.coverage.designs import Crossed, Documents

#: So many times as many studies where the first ones come out below what is promised.
ANEW = 20

Kind = tuple[str, Callable[..., Any], tuple[Any, ...]]


def kinds(n_studies: int) -> list[Kind]:
    """Return what is simulated, so many studies each: the part of the results, a function, and what it takes."""
    found: list[Kind] = [("crossed", crossed_cell, (cell, n_studies)) for cell in crossed.crossed_cells()]
    found += [("documents", document_cell, (cell, n_studies)) for cell in crossed.document_cells()]
    found += [
        ("flat curves", choices.flat_curves, (n, jitter, n_studies)) for n in (1, 2, 3, 5) for jitter in choices.JITTERS
    ]
    found += [
        ("identical arms", identical_arms, (n, n_studies, paired)) for n, paired in ((3, True), (5, True), (3, False))
    ]
    found += [("power", choices.found_at_promised_size, (design, 5 * n_studies)) for design in choices.DESIGNS]
    # The long ones first, so that no process waits for another at the end.
    return sorted(found, key=lambda kind: kind[0] in ("crossed", "documents", "power"))


def crossed_cell(cell: Crossed, n_studies: int) -> dict[str, Any]:
    return _settled(crossed.crossed_coverage, cell, n_studies)


def document_cell(cell: Documents, n_studies: int) -> dict[str, Any]:
    return _settled(crossed.document_coverage, cell, n_studies)


def identical_arms(n_seeds: int, n_studies: int, paired: bool) -> dict[str, Any]:
    return choices.false_findings(n_seeds, n_studies, paired=paired)


def _settled(coverage: Callable[..., dict[str, Any]], cell: Any, n_studies: int) -> dict[str, Any]:
    """Return the coverage of one kind of study, simulated anew at length where it came out below its bound."""
    found = coverage(cell, n_studies)
    bound = crossed.bound(cell)
    found["bound"] = bound
    if found["methods"][crossed.OURS]["coverage 0.95"] < bound:
        again = coverage(cell, ANEW * n_studies, again=1, others=False)
        found["anew"] = {"studies": again["studies"], **again["methods"][crossed.OURS]}
    return found


def done(kind: Kind) -> tuple[str, Any]:
    """Simulate one kind of study; return its part of the results, and the result."""
    part, function, given = kind
    return part, function(*given)
