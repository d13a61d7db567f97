"""The tables of docs/coverage.md from benchmarks/results/coverage.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.coverage.crossed import OURS
from benchmarks.coverage.designs import SEED_VARIANCES, VALUES
from benchmarks.markdown import table, wrapped

Result = dict[str, Any]

RIVALS = ("percentiles over documents", "pigeonhole percentiles", "Satterthwaite's t", "t over seeds")
SEED_NAMES = {"alike": "nothing", "0": "none", "unit": "a document's"}


def crossed_section(result: Result) -> str:
    """Return the table of intervals over seeds and documents: the lowest and the mean coverage of many kinds."""
    header = ["seeds", "seed variance", "**ours**", "at 99.5 %", "width", "**unpaired**", "width", *RIVALS]
    rows = []
    for n in sorted({cell["seeds"] for cell in result["crossed"]}):
        for variance in SEED_VARIANCES:
            cells = [c for c in result["crossed"] if (c["seeds"], c["seed_variance"]) == (n, variance)]
            paired, unpaired = ([c for c in cells if c["paired"] is side] for side in (True, False))
            ours = [_covered(paired), _covered(paired, level="0.995"), _width(paired)]
            others = [_covered(paired, name) for name in RIVALS]
            rows.append(
                [f"{n}", SEED_NAMES.get(variance, variance), *ours, _covered(unpaired), _width(unpaired), *others]
            )
    return "\n\n".join([_table(header, rows, 2), _settled(result, "crossed")])


def documents_section(result: Result) -> str:
    """Return the table of intervals over documents: coverage and width by their number and distribution."""
    names = (OURS, "percentiles over documents", "t over documents")
    header = ["documents", "lengths", *VALUES, "width", *names[1:]]
    rows = []
    for n in sorted({cell["documents"] for cell in result["documents"]}):
        for lengths in ("equal", "unequal"):
            cells = [c for c in result["documents"] if (c["documents"], c["lengths"]) == (n, lengths)]
            by_value = {c["values"]: _percent(_best_known(c)) for c in cells}
            others = [_covered(cells, name) for name in names[1:]]
            rows.append([f"{n}", lengths, *(by_value[v] for v in VALUES), _width(cells), *others])
    return "\n\n".join([_table(header, rows, 2), _settled(result, "documents")])


def findings_section(result: Result) -> str:
    """Return how often identical arms are found to differ, flat curves to rebound, and real differences are found."""
    arms = result["identical arms"]
    header = ["found in identical arms, %"]
    header += [
        f"{r['seeds']} seeds{'' if r['paired'] else ', unpaired'}, p < {p}" for r in arms for p in ("0.05", "0.005")
    ]
    names = list(arms[0]["rates"])
    rows = [[name, *(_percent(r["rates"][name][p]) for r in arms for p in ("0.05", "0.005"))] for name in names]
    flat = [
        [
            f"{r['seeds']}",
            f"{r['jitter']:g}",
            f"{r['bias']:+.4f} ± {r['bias, standard error']:.4f}",
            _percent(r["coverage 0.95"]),
            _percent(r["coverage 0.995"]),
            f"{r['half width']:.3f}",
        ]
        for r in sorted(result["flat curves"], key=lambda r: (r["seeds"], r["jitter"]))
    ]
    flat_header = ["seeds", "jitter, nats", "rebound (truth 0)", "coverage, %", "at 99.5 %", "half the width"]
    power = [
        [
            f"{r['seeds']}",
            f"{r['documents']}",
            f"{r['variance of seeds over that of documents']:.2g}",
            f"{r['difference over its standard error']:.2f}",
            _percent(r["found"]),
        ]
        for r in result["power"]
    ]
    power_header = [
        "seeds",
        "documents",
        "variance of seeds over documents'",
        "difference / standard error",
        "found, %",
    ]
    return "\n\n".join([_table(header, rows, 1), _table(flat_header, flat, 2), _table(power_header, power, 3)])


#: The parts of docs/coverage.md, by the name in its marks.
PARTS: dict[str, Callable[[Result], str]] = {
    "crossed": crossed_section,
    "documents": documents_section,
    "findings": findings_section,
}


def part(name: str) -> Callable[[dict[str, Result]], str]:
    """Return what makes a part of the page from all results."""
    return lambda results: PARTS[name](results["coverage.json"])


def _best_known(cell: Result, name: str = OURS, level: str = "0.95") -> float:
    """Return coverage, of the most studies that there are."""
    found = cell["anew"] if name == OURS and "anew" in cell else cell["methods"][name]
    return float(found[f"coverage {level}"])


def _covered(cells: list[Result], name: str = OURS, level: str = "0.95") -> str:
    """Return the lowest and the mean coverage of several kinds of studies."""
    shares = [_best_known(cell, name, level) for cell in cells]
    return f"{_percent(min(shares))} ({_percent(float(np.mean(shares)))})"


def _width(cells: list[Result]) -> str:
    return f"{np.median([cell['methods'][OURS]['width 0.95'] for cell in cells]):.2f}"


def _settled(result: Result, name: str) -> str:
    """Return how many kinds lie below their bounds, and by how much at most."""
    cells = [cell for cell in result[name] if cell["bound"]]
    anew = [cell for cell in cells if "anew" in cell]
    below = [cell for cell in anew if _best_known(cell) < cell["bound"]]
    text = f"Of {len(cells):,} kinds with a bound {len(anew)} came out below it in {result['studies']:,} studies"
    if anew:
        text += f", and {len(below)} still in {anew[0]['anew']['studies']:,} new ones"
    for cell in below:
        what = ", ".join(f"{k} {v}" for k, v in cell.items() if k not in ("studies", "methods", "bound", "anew"))
        text += f"; {what}: {_percent(_best_known(cell))} % ± {100 * cell['anew']['standard error 0.95']:.1f}"
    return wrapped(text + ".")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(header: list[str], rows: list[list[str]], keys: int) -> str:
    return "\n".join(table(header, rows, keys))
