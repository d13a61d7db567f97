"""docs/gpu.md, from the results: which steps there are, and what each device gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.gpu.plan import STEPS, load
from benchmarks.gpu.runner import claim
from benchmarks.markdown import code, wrapped
from benchmarks.markdown import table as _table

Result = dict[str, Any]
NOTHING = "**Waits for its first run: no result of a CUDA device is in benchmarks/results yet.**"


def steps_section() -> str:
    """Return the steps, each with its limit and the first line of its docstring."""
    rows = [[f"`{step.name}` (at most {step.limit_s:g} s)", load(step.module)[0].rstrip(".")] for step in STEPS]
    return "\n".join(_table(["step", "what it asks"], rows))


def results_section(results: Mapping[str, Result]) -> str:
    """Return what devices gave, a part for each, or that there is none.

    Parameters
    ----------
    results : mapping
        From file names to their content.
    """
    return "\n\n".join("\n".join(_device(name, results[name])) for name in sorted(results)) or NOTHING


def _device(name: str, result: Result) -> list[str]:
    steps: dict[str, Result] = {step.name: result["steps"][step.name] for step in STEPS if step.name in result["steps"]}
    environment = steps.get("environment", {}).get("measured", {})
    versions = ", ".join(
        f"{one} {environment[one]}" for one in ("torch", "triton", "transformers") if environment.get(one)
    )
    source = wrapped(f"{versions} ([{name}](../benchmarks/results/{name}))")
    lines = [f"## {environment.get('device', name)}", "", source, ""]
    lines += _table(
        ["step", "ended", "seconds", "claims that hold", "of"], [_ended(step, steps[step]) for step in steps]
    )
    sources = {entry.get("sources") for entry in steps.values()}
    if len(sources) > 1:
        lines += ["", "Not all steps are of the same state of the sources: the JSON says which."]
    for step, entry in steps.items():
        lines += ["", f"### {step}", "", wrapped(entry.get("what", "")), *_checks(entry.get("checks", []))]
        lines += ["", *code(entry["told"].strip().splitlines()[-8:])] if "told" in entry else []
        lines += tables(entry.get("measured", {})) if step != "environment" else _table_of(environment)
    return lines


def _ended(name: str, entry: Result) -> list[str]:
    judged = [check for check in entry.get("checks", []) if check["met"] is not None]
    seconds = f"{entry['seconds']:.0f}" if "seconds" in entry else "-"
    return [f"`{name}`", entry["status"], seconds, str(sum(check["met"] for check in judged)), str(len(judged))]


def _checks(checks: Iterable[Result]) -> list[str]:
    words = {True: "holds", False: "**does not hold**", None: "not judged"}
    missed = {True: "**target missed**", False: words[False]}
    lines = [
        wrapped(f"- {claim(check)}: {missed[check['target']] if check['met'] is False else words[check['met']]}", "  ")
        for check in checks
    ]
    return ["", *lines] if lines else []


def tables(measured: Mapping[str, Any]) -> list[str]:
    """Return what a step measured: single values in one table, and one for each list or mapping of alike rows."""
    single = {name: value for name, value in measured.items() if not isinstance(value, (dict, list))}
    lines = _table_of(single)
    for name, value in measured.items():
        if name in single:
            continue
        rows = {str(i): row for i, row in enumerate(value)} if isinstance(value, list) else value
        lines += ["", f"**{name}**"]
        if rows and all(isinstance(row, dict) for row in rows.values()):
            columns = list(dict.fromkeys(column for row in rows.values() for column in flat(row)))
            cells = [[label, *(_cell(flat(row).get(column)) for column in columns)] for label, row in rows.items()]
            lines += ["", *_table(["", *columns], cells)]
        elif isinstance(value, list):
            lines[-1] = wrapped(f"{lines[-1]}: {', '.join(_cell(one) for one in value) or 'none'}")
        else:
            lines += _table_of(flat(rows))
    return lines


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping without mappings in it: their names are joined."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= {f"{name}, {inner}": one for inner, one in flat(value).items()}
        else:
            found[name] = value
    return found


def _table_of(values: Mapping[str, Any]) -> list[str]:
    return ["", *_table(["", ""], [[name, _cell(value)] for name, value in values.items()])] if values else []


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value).replace("|", "\\|")
