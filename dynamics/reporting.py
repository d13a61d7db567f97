"""What a long command says while it works: bars and tables in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
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
        """Write a table; the first column is a name, the others are numbers."""
        if self._console.is_terminal:
            table = Table()
            for at, name in enumerate(header):
                table.add_column(Text(name), justify="left" if at == 0 else "right")
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            self._console.print(table)
            return
        widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
        for row in [header, *rows]:
            numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            self.line("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())

    def _print(self, text: Text) -> None:
        # Text objects are printed as they are: a path or a number in brackets is no markup.
        self._console.print(text, soft_wrap=True)
