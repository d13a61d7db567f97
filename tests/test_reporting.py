"""What is written where there is a terminal, and where there is none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dynamics.reporting import Reporter

LONG = "word " * 60 + "[bold]end[/bold] :smile: [nan, nan]"


def reporter(*, terminal: bool) -> tuple[Reporter, io.StringIO]:
    file = io.StringIO()
    return Reporter(Console(file=file, force_terminal=terminal, width=100)), file


def test_plain_lines_are_written_as_they_are() -> None:
    plain, file = reporter(terminal=False)
    plain.line(LONG)
    plain.stage("next: " + LONG)
    assert file.getvalue() == f"{LONG}\nnext: {LONG}\n"


def test_plain_progress_is_one_line() -> None:
    plain, file = reporter(terminal=False)
    with plain.progress(1000, "training") as progress:
        for _ in range(1000):
            progress.update(1)
    assert file.getvalue() == "training\n"


def test_plain_tables_are_aligned() -> None:
    plain, file = reporter(terminal=False)
    plain.table(("arm", "best"), [("a", "1.25"), ("longer", "[nan, nan]")])
    assert file.getvalue() == "arm           best\na             1.25\nlonger  [nan, nan]\n"
    plain.table(("only", "header"), [])
    assert file.getvalue().endswith("only  header\n")


@pytest.mark.parametrize("text", ["[nan, nan]", "[red]", ":smile:"])
def test_tables_in_a_terminal_hold_the_same_text(text: str) -> None:
    rich, file = reporter(terminal=True)
    rich.table(("arm", "[x]"), [("a", text)])
    assert text in file.getvalue() and "[x]" in file.getvalue()


def test_a_terminal_shows_a_bar_and_takes_it_away() -> None:
    rich, file = reporter(terminal=True)
    with rich.progress(10, "training [a]") as progress:
        progress.update(10)
        rich.line("epoch 1/1")
    shown = file.getvalue()
    assert "training [a]" in shown and "10/10" in shown and "epoch 1/1" in shown
    assert shown.endswith("\x1b[2K")  # the bar's line is cleared
