"""Tables and paragraphs of the generated pages, in lines of at most `WIDTH` characters."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 100


def wrapped(text: str, indent: str = "") -> str:
    """Return a paragraph broken between words; further lines begin with `indent`."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def code(lines: Iterable[str]) -> list[str]:
    """Return a block of code. Lines that are too long are cut."""
    pieces = [piece for line in lines for piece in textwrap.wrap(line, WIDTH, drop_whitespace=False) or [""]]
    return ["```", *pieces, "```"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], keys: int = 1) -> list[str]:
    """Return a table, or what holds the same in narrower lines.

    A table that is too wide is cut into several, one below the other. Each begins with the columns that name a row.
    Where one cell alone is too wide, the rows become items of a list.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences of str
        One string for each column.
    keys : int
        How many columns, from the left, name a row.

    Returns
    -------
    list of str
        Lines, with an empty one between tables.
    """
    rows = [list(row) for row in rows]
    key, others = list(range(keys)), list(range(keys, len(header)))
    parts: list[list[int]] = []
    for column in others or [keys]:
        if parts and _fits([*key, *parts[-1], column], header, rows):
            parts[-1].append(column)
        elif _fits([*key, column], header, rows):
            parts.append([column])
        else:
            return [_item(header, row, keys) for row in rows]
    lines: list[str] = []
    for part in parts:
        shown = [i for i in [*key, *part] if i < len(header)]
        lines += [""] if lines else []
        lines += [_line([header[i] for i in shown]), _line(["---"] * len(shown))]
        lines += [_line([row[i] for i in shown]) for row in rows]
    return lines


def _fits(columns: Sequence[int], header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    shown = [i for i in columns if i < len(header)]
    return all(len(_line([row[i] for i in shown])) <= WIDTH for row in [header, *rows])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _item(header: Sequence[str], row: Sequence[str], keys: int) -> str:
    said = keys + 1 < len(row)  # one cell needs no name
    named = [f"{name}: {cell}" if said and name else cell for name, cell in zip(header, row, strict=True)]
    return wrapped(f"- {', '.join(row[:keys])}: {'; '.join(named[keys:])}", indent="  ")
