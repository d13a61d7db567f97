"""What a long command says while it works: bars and tables in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Counter:
    """Takes the steps of one piece of work."""

    def __init__(self, progress: Progress | None = None, task: int = 0) -> None:
        self._progress = progress
        self._task = task

    def update(self, n: int) -> None:
        """Note that `n` more units are done."""
        if self._progress is not None:
            self._progress.advance(self._task, n)  # type: ignore[arg-type]


class Reporter:
    """Writes to standard output.

    Parameters
    ----------
    console : Console, optional
        Where to; by default the terminal or file that standard output is.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console(highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Write one line."""
        self._console.print(text, markup=False)

    def stage(self, text: str) -> None:
        """Write what begins now."""
        self._console.print(text, markup=False, style="bold")

    @contextmanager
    def progress(self, total: int, description: str) -> Iterator[Counter]:
        """Show a bar over `total` units; nothing but one line where there is no terminal."""
        if not self._console.is_terminal:
            self.line(description)
            yield Counter()
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield Counter(progress, progress.add_task(description, total=total))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table; the first column is a name, the others are numbers."""
        if self._console.is_terminal:
            table = Table()
            for at, name in enumerate(header):
                table.add_column(name, justify="left" if at == 0 else "right")
            for row in rows:
                table.add_row(*row)
            self._console.print(table)
            return
        widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
        for row in [header, *rows]:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
            self.line("  ".join(cells).rstrip())
