"""What a long command says while it works: bars and tables in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Counter:
    """Takes the steps of one piece of work."""

    def __init__(self, bar: tuple[Progress, TaskID] | None = None) -> None:
        self._bar = bar

    def update(self, n: int) -> None:
        """Note that `n` more units are done."""
        if self._bar is not None:
            progress, task = self._bar
            progress.advance(task, n)


class Reporter:
    """Writes to standard output.

    Parameters
    ----------
    console : Console, optional
        Where to; by default the terminal or file that standard output is.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console() if console is None else console

    @classmethod
    def silent(cls) -> Reporter:
        """Return a reporter that says nothing."""
        return cls(Console(quiet=True))

    def line(self, text: str) -> None:
        """Write one line, as it is: nothing in it is markup, and it is not wrapped."""
        self._print(Text(text))

    def stage(self, text: str) -> None:
        """Write what begins now."""
        self._print(Text(text, style="bold"))

    @contextmanager
    def progress(self, total: int, description: str) -> Iterator[Counter]:
        """Show a bar over `total` units; nothing but one line where there is no terminal."""
        if not self._console.is_terminal:
            self.line(description)
            yield Counter()
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield Counter((progress, progress.add_task(description, total=total)))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table no wider than the console, with every cell whole; the first column is a name.

        Where it is too wide, the words of the header stand below each other, and columns closer; then each name stands
        on a line above its numbers; and at last every number stands on a line with the name of its column.
        """
        for number, line in enumerate(_laid_out(header, rows, self._console.width)):
            self._print(Text(line, style="bold" if number == 0 else ""))

    def _print(self, text: Text) -> None:
        # Text objects are printed as they are: a path or a number in brackets is no markup.
        self._console.print(text, soft_wrap=True)


# Characters that a column's name may take before it goes on below.
_HEAD_WIDTH = 16


def _laid_out(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table in the first layout that fits into `width` characters."""
    in_one_line = _aligned([[name] for name in header], rows)
    if _fits(in_one_line, width):
        return in_one_line
    wrapped = [
        wrap(name, max(longest, _longest_word(name))) or [""]
        for name, longest in zip(header, _widths(rows, len(header)), strict=True)
    ]
    for gap in ("  ", " "):
        in_several = _aligned(wrapped, rows, gap)
        if _fits(in_several, width):
            return in_several
    below = _aligned([[""], *wrapped[1:]], [("", *row[1:]) for row in rows])
    if _fits(below, width):
        n_heads = len(below) - len(rows)
        pairs = zip((row[0] for row in rows), below[n_heads:], strict=True)
        return [header[0], *below[:n_heads], *(line for pair in pairs for line in pair)]
    longest = max(map(len, header[1:]), default=0)
    lines = []
    for name, *cells in rows:
        named = zip(header[1:], cells, strict=True)
        lines += [name, *(f"  {column.ljust(longest)}  {cell}" for column, cell in named if cell)]
    return lines


def _aligned(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Return the lines of a header, several a column if need be, and of rows: names to the left, numbers right."""
    height = max(map(len, heads))
    # The last line of each column's header stands next to the numbers.
    table = [*zip(*([""] * (height - len(head)) + list(head) for head in heads), strict=True), *rows]
    first, *others = _widths(table, len(heads))
    return [
        gap.join([name.ljust(first), *(cell.rjust(one) for cell, one in zip(cells, others, strict=True))]).rstrip()
        for name, *cells in table
    ]


def _widths(rows: Sequence[Sequence[str]], n_columns: int) -> list[int]:
    return [max((len(row[at]) for row in rows), default=0) for at in range(n_columns)]


def _longest_word(name: str) -> int:
    return min(_HEAD_WIDTH, max(map(len, name.split()), default=1))


def _fits(lines: Sequence[str], width: int) -> bool:
    return max(map(len, lines)) <= width
