"""Tables and cards: the same content as aligned text and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from unicodedata import east_asian_width

from dynamics.display.sparkline import Sparkline

Cell = str | Sparkline

#: Rows of a table that are shown; of a longer one the first and the last.
_MOST_ROWS, _FIRST_ROWS, _LAST_ROWS = 40, 30, 5
_LONGEST_CELL = 60
_PADDED = "padding: 0.2em 0.7em"


@dataclass(frozen=True, slots=True)
class Table:
    """What a table says.

    Attributes
    ----------
    title : str
    notes : sequence of str
        Lines between the title and the table.
    header : sequence of str
    units : sequence of str
        Of the columns; they stand under the header.
    rows : sequence of sequences of str or Sparkline
    numeric : sequence of bool
        Which columns are aligned to the right.
    """

    title: str
    notes: Sequence[str]
    header: Sequence[str]
    units: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool]

    def text(self) -> str:
        """Return the table as aligned text; long ones are shortened, and say so."""
        shown, left_out = self._shown()
        head = [self.header, [f"({unit})" if unit else "" for unit in self.units]] if any(self.units) else [self.header]
        lines = [[_one_line(str(cell)) for cell in line] for line in (*head, *shown)]
        widths = [max(_width(line[c]) for line in lines) for c in range(len(self.header))]
        laid = [
            "  ".join(
                " " * (width - _width(cell)) + cell if numeric else cell + " " * (width - _width(cell))
                for cell, width, numeric in zip(line, widths, self.numeric, strict=True)
            ).rstrip()
            for line in lines
        ]
        if left_out:
            laid.insert(len(head) + _FIRST_ROWS, f"… {_said_left_out(left_out)}")
        return "\n".join([_one_line(self.title, None), *(_one_line(note, None) for note in self.notes), *laid])

    def html(self) -> str:
        """Return the table as HTML without a colour of its own."""
        shown, left_out = self._shown()
        # A number and its interval stay on one line, where a page is wide enough to scroll.
        kinds = {True: f"text-align: right; white-space: nowrap; {_PADDED}", False: f"text-align: left; {_PADDED}"}
        aligned = [f'style="{kinds[numeric]}"' for numeric in self.numeric]
        named = zip(aligned, self.header, self.units, strict=True)
        head = "".join(f"<th {align}>{escape(name)}{_unit_html(unit)}</th>" for align, name, unit in named)
        body = [
            "<tr>"
            + "".join(f"<td {align}>{cell_html(cell)}</td>" for align, cell in zip(aligned, row, strict=True))
            + "</tr>"
            for row in shown
        ]
        if left_out:
            said = escape(_said_left_out(left_out))
            body.insert(_FIRST_ROWS, f'<tr><td colspan="{len(self.header)}">… {said}</td></tr>')
        return (
            f'<div style="margin: 0.5em 0">{headed(self.title, self.notes)}'
            '<table style="font-variant-numeric: tabular-nums; color: inherit">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def _shown(self) -> tuple[list[Sequence[Cell]], int]:
        """Return the rows that are shown, and how many are not."""
        rows = list(self.rows)
        if len(rows) <= _MOST_ROWS:
            return rows, 0
        return [*rows[:_FIRST_ROWS], *rows[-_LAST_ROWS:]], len(rows) - _FIRST_ROWS - _LAST_ROWS


@dataclass(frozen=True, slots=True)
class Card:
    """What is said of one thing: a title and facts with their names."""

    title: str
    facts: Sequence[tuple[str, Cell]]

    def text(self) -> str:
        """Return a line a fact, their names aligned."""
        width = max((_width(name) for name, _ in self.facts), default=0)
        lines = [f"  {name}{' ' * (width - _width(name))}  {_one_line(str(fact), None)}" for name, fact in self.facts]
        return "\n".join([_one_line(self.title, None), *lines])

    def html(self) -> str:
        """Return a table with two columns, without a colour of its own."""
        rows = "".join(
            f'<tr><th style="text-align: left; {_PADDED}">{escape(name)}</th>'
            f'<td style="text-align: left; {_PADDED}">{cell_html(fact, None)}</td></tr>'
            for name, fact in self.facts
        )
        return f'<div>{headed(self.title)}<table style="color: inherit"><tbody>{rows}</tbody></table></div>'


def cell_html(cell: Cell, most: int | None = _LONGEST_CELL) -> str:
    """Return a cell as HTML: text is escaped, a curve drawn."""
    return cell.html() if isinstance(cell, Sparkline) else escape(_one_line(cell, most))


def _unit_html(unit: str) -> str:
    return f'<br><small style="font-weight: normal">{escape(unit)}</small>' if unit else ""


def headed(title: str, notes: Sequence[str] = ()) -> str:
    """Return a title and the lines under it as HTML."""
    lines = "".join(f"<br>{escape(_one_line(note, None))}" for note in notes)
    return f"<div><strong>{escape(_one_line(title, None))}</strong>{lines}</div>"


def _said_left_out(n: int) -> str:
    return f"{n} more row{'s' if n > 1 else ''}; .to_frame() has all"


def _one_line(text: str, most: int | None = _LONGEST_CELL) -> str:
    """Return a text on one line, cut in its middle where it is longer than `most` characters."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split(" "))
    if most is None or len(line) <= most:
        return line
    return f"{line[: most // 2 - 1]}…{line[-(most - most // 2) :]}"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)
