"""The table of arms as it is read: Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from dynamics.analysis.estimands.summary import ArmSummary
from dynamics.display.numbers import DIVERGED
from dynamics.plots.arm_tables.arm_table import ArmTable
from dynamics.plots.arm_tables.parts import Difference, TaskTable
from dynamics.plots.drawing.style import MINUS

# A thousandth of a nat is less than documents or seeds make of a difference; the CSV has all digits.
_DIGITS = 3
_NOTHING = "–"
# Columns before those of differences.
_LOSSES = 10


def markdown_table(table: ArmTable) -> str:
    """Return the table in Markdown: what arms came to, their comparisons below, and notes as a list.

    Parameters
    ----------
    table : ArmTable
        Of `arm_table`.

    Returns
    -------
    str
    """
    header, body = _cells(table)
    lines = _markdown([cells[:_LOSSES] for cells in (header, *body)])
    if table.baseline is not None:
        compared = [cells for cells in body if cells[0] != table.baseline]
        lines += ["", *_markdown([[cells[0], *cells[_LOSSES:]] for cells in (header, *compared)])]
    if table.task is not None:
        lines += ["", *_markdown(_task_cells(table, table.task))]
    return "\n".join([*lines, "", *(f"- {_escape_markdown(note)}" for note in table.notes)]) + "\n"


def latex_table(table: ArmTable) -> str:
    """Return the table in LaTeX, its notes as the caption. Needs no package but booktabs.

    Losses stand above and differences below: side by side they are wider than a page. The starred environment is
    as wide as the page, in one column or two.

    Parameters
    ----------
    table : ArmTable
        Of `arm_table`.

    Returns
    -------
    str
    """
    header, body = _cells(table)
    lines = [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table*}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{2pt}",
        f"  \\caption{{{_escape_latex(' '.join(table.notes))}}}",
        *_tabular([cells[:_LOSSES] for cells in (header, *body)]),
    ]
    if table.baseline is not None:
        compared = [cells for cells in body if cells[0] != table.baseline]
        # Two comparisons are as wide as a page, three are wider.
        lines += [r"  \par\medskip", *_tabular([[cells[0], *cells[_LOSSES:-3]] for cells in (header, *compared)])]
        arms = [cells for cells in compared if cells[0] != table.stopped]
        lines += [r"  \par\medskip", *_tabular([[cells[0], *cells[-3:]] for cells in (header, *arms)])]
    if table.task is not None:
        lines += [r"  \par\medskip", *_tabular(_task_cells(table, table.task))]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _cells(table: ArmTable) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells, as they are read; the renderers write them in their language."""
    interval = f"{100 * table.level:g} % interval"
    header = ["Arm", "Seeds", "Final", interval, "Best", interval, "Epoch", "Rebound", interval, "Dropped"]
    assert len(header) == _LOSSES
    if table.baseline is not None:
        for against in (f"Against {table.baseline}", "Against early stopping", "Best against best"):
            header += [against, interval, "p"]
    body = []
    for row in table.rows:
        cells = [
            row.arm,
            str(row.n_seeds),
            _number(row.final) if math.isfinite(row.final) else DIVERGED,
            _interval(row.final_low, row.final_high),
            _number(row.best_cross_fitted),
            _interval(row.best_cross_fitted_low, row.best_cross_fitted_high),
            _best_epoch(row),
            _number(row.rebound_cross_fitted),
            _interval(row.rebound_cross_fitted_low, row.rebound_cross_fitted_high),
            _number(row.dropped_share),
        ]
        body.append(cells + _differences(table, row.arm))
    if table.stopped is not None:
        stopped = next(row for row in table.rows if row.arm == table.baseline)
        best = [_number(stopped.best_cross_fitted)]
        best += [_interval(stopped.best_cross_fitted_low, stopped.best_cross_fitted_high)]
        cells = [table.stopped, str(stopped.n_seeds), *best, *best, _best_epoch(stopped)]
        body.append([*cells, *[_NOTHING] * (_LOSSES - len(cells)), *_differences(table, table.stopped)])
    return header, body


def _task_cells(table: ArmTable, task: TaskTable) -> list[list[str]]:
    """Return the rows of the accuracy on a task's results, the first of them the header."""
    interval = f"{100 * table.level:g} % interval"
    rows = [["Arm", "Accuracy on results", interval]]
    if table.baseline is not None:
        rows[0] += [f"Against {table.baseline}", interval, "p"]
    for arm, curve in task.curves.items():
        low, high, final = (float(end[0]) for end in (curve.final.low, curve.final.high, curve.final.estimate))
        cells = [arm, _number(final), _interval(low, high)]
        rows.append(cells + (_difference(table, task.differences.get(arm)) if table.baseline is not None else []))
    return rows


def _differences(table: ArmTable, arm: str) -> list[str]:
    if table.baseline is None:
        return []
    cells = []
    for found in (table.differences, table.from_early_stopping, table.of_bests):
        cells += _difference(table, found.get(arm))
    return cells


def _difference(table: ArmTable, difference: Difference | None) -> list[str]:
    if difference is None:
        return [_NOTHING] * 3
    star = "*" if table.significant(difference) else ""
    cells = [_number(difference.estimate) + star, _interval(difference.low, difference.high)]
    return [*cells, _p_value(difference)]


def _best_epoch(row: ArmSummary) -> str:
    return f"{row.best_at:g}" if row.best_epoch >= 0 else _NOTHING


def _number(value: float) -> str:
    if not math.isfinite(value):
        return _NOTHING
    # Rounded first: what is 0 to these digits has no sign.
    rounded = round(value, _DIGITS) + 0.0
    return f"{rounded:.{_DIGITS}f}".replace("-", MINUS)


def _p_value(difference: Difference) -> str:
    if math.isnan(difference.estimate):
        return _NOTHING
    least = 10.0**-_DIGITS
    return f"< {least:g}" if difference.p_holm < least else _number(difference.p_holm)


def _interval(low: float, high: float) -> str:
    return f"[{_number(low)}, {_number(high)}]" if math.isfinite(low) and math.isfinite(high) else _NOTHING


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first row is its header."""
    return [
        _markdown_line(rows[0]),
        _markdown_line(["---", *["---:"] * (len(rows[0]) - 1)]),
        *(_markdown_line([_escape_markdown(cell) for cell in cells]) for cells in rows[1:]),
    ]


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]~#&$])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    MINUS: "$-$",
    _NOTHING: "--",
    "*": r"\textsuperscript{*}",
}


def _tabular(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a tabular whose first row is its header."""
    return [
        f"  \\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
        r"    \toprule",
        _latex_line(rows[0]),
        r"    \midrule",
        *(_latex_line(cells) for cells in rows[1:]),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _latex_line(cells: Sequence[str]) -> str:
    # After the end of a line LaTeX takes a bracket for an option of it.
    guard = "{}" if cells[0].startswith("[") else ""
    return f"    {guard}{' & '.join(_escape_latex(cell) for cell in cells)} \\\\"


def _escape_latex(text: str) -> str:
    # Hyphens of a name stay hyphens: two in a row would become a dash. A number keeps its unit beside it.
    text = re.sub(r"(?<=\d) %", "\1%", re.sub(r"-(?=-)", "-\0", text))
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return escaped.replace("\0", "{}").replace("\1", r"\,")
