"""What commands do with studies and runs that are done: open, draw, and print the closing table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.cli.places import place_of
from dynamics.errors import InputError, require_folder

if TYPE_CHECKING:
    from dynamics.records.reader import Run, Study
    from dynamics.reporting import Reporter


def opened_from(paths: Sequence[Path]) -> list[Study | Run]:
    """Open studies, runs and summaries, as commands take them."""
    from dynamics.records.reader import open_any
    from dynamics.records.summaries.files import is_summary
    from dynamics.records.summaries.reading import open_summary

    places = [place_of(path) for path in paths]
    return [open_summary(place) if is_summary(place) else open_any(place) for place in places]


def drawn(opened: list[Study | Run], output: Path, reporter: Reporter, **options: Any) -> list[Path]:
    """Save the figures of what is open, and return their files."""
    from dynamics.plots.saving import save_figures

    if output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is a file; name a folder")
    require_folder(output)
    return save_figures(opened, output=output, on_skip=reporter.line, **options)


def print_summary(opened: list[Study | Run], reporter: Reporter) -> None:
    """Print the closing table, one row an arm."""
    from dynamics.analysis.estimands.summary import note_on_passes
    from dynamics.plots.arm_tables.arm_table import arm_table, closing_table

    table = arm_table(opened)
    against = f"; * marks ends that differ from {table.baseline}'s" if table.baseline else ""
    reporter.line(f"validation loss, nats per token{against}")
    reporter.table(*closing_table(table))
    if note := note_on_passes(table.rows):
        reporter.line(note)
