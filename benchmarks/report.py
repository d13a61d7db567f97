"""The tables of docs/performance.md, coverage.md and gpu.md, from benchmarks/results. No number in them is typed.

    python -m benchmarks.report            # rewrites the text between the marks of each page
    python -m benchmarks.report --check    # changes nothing; exit status 1 if a page is out of date

Each file of results has a section, which begins with the name of the machine.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.coverage import page as coverage
from benchmarks.gpu import page
from benchmarks.markdown import table as narrow
from benchmarks.markdown import wrapped

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
ABSENT = "-"
LIBRARIES = ("transformers", "trl", "liger-kernel")

Result = dict[str, Any]
# A heading, and a function that makes the cell below it from the result of a row.
Column = tuple[str, Callable[[Result], str]]


def table(columns: list[Column], rows: Iterable[Result], keys: int = 1) -> list[str]:
    """Return a Markdown table without the columns that hold no value; the first `keys` columns name a row."""
    rows = list(rows)
    cells = {name: [cell(row) for row in rows] for name, cell in columns}
    shown = [name for name, values in cells.items() if set(values) != {ABSENT}]
    return narrow(shown, [[cells[name][i] for name in shown] for i in range(len(rows))], keys)


def at(result: Result, *path: str) -> Any:
    """Return the value at a path into a result, or None."""
    found: Any = result
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def ratio(*path: str, digits: int = 2, quartiles: bool = False, bold: bool = False) -> Callable[[Result], str]:
    """Return a cell: a median, optionally with its quartiles."""

    def cell(result: Result) -> str:
        found = at(result, *path)
        if found is None:
            return ABSENT
        text = f"{found['median']:.{digits}f}"
        text = f"**{text}**" if bold else text
        return f"{text} ({found['low']:.{digits}f}-{found['high']:.{digits}f})" if quartiles else text

    return cell


def memory(result: Result) -> str:
    peaks = at(result, "peak bytes")
    if peaks is None:
        return ABSENT
    ours, naive = peaks["fused"], peaks["naive"]
    return f"{ours / naive:.2f} ({ours / 2**20:,.0f} of {naive / 2**20:,.0f} MiB)"


SHAPE: list[Column] = [("H", lambda r: f"{r['hidden']}"), ("V", lambda r: f"{r['vocabulary']:,}")]

HEAD: list[Column] = [
    *SHAPE,
    ("plain", lambda r: f"{1e3 * r['seconds']['plain']['median']:,.0f} ms"),
    ("naive", ratio("over plain", "naive")),
    ("**fused**", ratio("over plain", "fused", quartiles=True, bold=True)),
    ("route", lambda r: at(r, "route") or ABSENT),
    ("by onednn", ratio("over plain", "fused, onednn")),
    ("by mm", ratio("over plain", "fused, mm")),
    ("floor of fused", ratio("over plain", "products, fused")),
    ("floor of plain", ratio("over plain", "products")),
    ("torch's own", ratio("over plain", "torch linear_cross_entropy")),
    ("TRL's", ratio("over plain", "TRL chunked")),
    ("Liger's", ratio("over plain", "Liger fused")),
    ("Liger's scaled", ratio("over plain", "Liger scaled")),
    ("validation", ratio("validation, over loss only")),
]

COST: list[Column] = [
    *SHAPE,
    ("statistics on / off, processor time", ratio("recording, processor time", digits=3, quartiles=True)),
    ("statistics on / off, wall clock", ratio("over fused, loss only", "fused", digits=3, quartiles=True)),
    ("peak memory over naive", memory),
]


def step_columns(cases: list[Result]) -> list[Column]:
    """Return the columns: the name of the quantity, then one column for each case."""
    return [
        ("", lambda row: row["what"]),
        *((f"V = {case['vocabulary']:,}", lambda row, case=case: row["cell"](case)) for case in cases),
    ]


STEP_ROWS: list[Result] = [
    {
        "what": "a step of `DynamicsTrainer` over one of `Trainer`",
        "cell": ratio("ratios", "step", quartiles=True),
    },
    {"what": "the head's route", "cell": lambda case: at(case, "route") or ABSENT},
    {"what": "the step by onednn", "cell": ratio("ratios", "step, onednn")},
    {"what": "the step by mm", "cell": ratio("ratios", "step, mm")},
    {
        "what": "recording an epoch over a bare forward pass",
        "cell": ratio("ratios", "recording", quartiles=True),
    },
    {
        "what": "an epoch with recording over one without",
        "cell": ratio("ratios", "epoch", quartiles=True),
    },
]


def machine(hardware: Result) -> str:
    """Return the machine and the versions that gave the numbers."""
    threads = hardware["threads"]
    text = f"{hardware['device']}, {threads} thread{'s' if threads > 1 else ''}, torch {hardware['torch']}"
    text += "".join(f", {name} {hardware[name]}" for name in LIBRARIES if hardware.get(name))
    if hardware.get("load") is not None:
        text += f"; load {hardware['load']:g} on {hardware['cores']} cores when it began"
    return text


def head_section(name: str, result: Result) -> list[str]:
    """Return one machine's tables of the head, and a sentence that sums them up."""
    rows = result["results"]
    heading = f"**{machine(result['hardware'])}**; N = {rows[0]['rows']:,}, {rows[0]['dtype'].removeprefix('torch.')}"
    lines = [wrapped(f"{heading} ([{name}](../benchmarks/results/{name}))"), ""]
    lines += [*table(HEAD, rows, len(SHAPE)), "", *table(COST, rows, len(SHAPE)), ""]
    rates = [row["operations"] / row["seconds"]["fused"]["median"] / 1e9 for row in rows]
    over = [row["over products, fused"]["fused"]["median"] for row in rows]
    fused = [row["over plain"]["fused"]["median"] for row in rows]
    lines.append(
        wrapped(
            f"`fused` takes {spanned(fused)} of `plain`, and {spanned(over)} times its own products alone. It runs at "
            f"{spanned(rates, 0)} G operations a second (6 N H V: the logits, and one product for each gradient)."
        )
    )
    return lines


def step_section(name: str, result: Result) -> list[str]:
    """Return one machine's table of a step and of recording."""
    cases = result["cases"]
    first = cases[0]
    what = f"{first['model']}, {first['layers']} layers, batches of {first['batch'][0]} x {first['batch'][1]} tokens"
    heading = f"**{machine(result['hardware'])}**; {what}, {first['rounds']} rounds"
    columns = step_columns(cases)
    rows = [row for row in STEP_ROWS if any(cell(row) != ABSENT for _, cell in columns[1:])]
    return [wrapped(f"{heading} ([{name}](../benchmarks/results/{name}))"), "", *table(columns, rows)]


def spanned(values: list[float], digits: int = 2) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def sections(kind: str, section: Callable[[str, Result], list[str]]) -> Callable[[dict[str, Result]], str]:
    """Return the function that makes a part of a page: one section for each result file KIND-....json."""

    def made(results: dict[str, Result]) -> str:
        parts = [section(name, results[name]) for name in sorted(results) if name.startswith(f"{kind}-")]
        return "\n\n".join("\n".join(part) for part in parts)

    return made


def gpu_results(results: dict[str, Result]) -> str:
    return page.results_section({name: result for name, result in results.items() if name.startswith("gpu-")})


# The generated parts of each page, by the name in their marks.
DOCUMENTS: dict[str, dict[str, Callable[[dict[str, Result]], str]]] = {
    "performance.md": {"head": sections("head", head_section), "step": sections("step", step_section)},
    "coverage.md": {name: coverage.part(name) for name in coverage.PARTS},
    "gpu.md": {"steps": lambda _: page.steps_section(), "results": gpu_results},
}


def filled(name: str, text: str, results: dict[str, Result]) -> str:
    """Return a page with its generated parts made again.

    Parameters
    ----------
    name : str
        The page's file name.
    text : str
        With a pair of marks ``<!-- PART: ... -->`` and ``<!-- end of PART -->`` for each part.
    results : dict
        From file names to their content.
    """
    for part, make in DOCUMENTS[name].items():
        body = make(results)
        mark = re.compile(rf"(<!-- {part}: [^>]*-->\n).*?(<!-- end of {part} -->)", re.DOTALL)
        text, count = mark.subn(lambda found, body=body: f"{found[1]}\n{body}\n\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"{name} has {count} pairs of marks of {part}, and must have one")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a document is not up to date")
    given = parser.parse_args()
    results = {path.name: json.loads(path.read_text()) for path in (FOLDER / "results").glob("*.json")}
    for name in DOCUMENTS:
        path = DOCS / name
        before = path.read_text()
        after = filled(name, before, results)
        if given.check and after != before:
            raise SystemExit(f"{path} is not what the results say: run python -m benchmarks.report")
        if after != before:
            path.write_text(after)
        print(f"{path}: {'up to date' if after == before else 'rewritten'}")


if __name__ == "__main__":
    main()
