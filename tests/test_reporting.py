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


HEADER = ("arm", "start", "best", "against baseline", "95 % interval")
ARMS = ["baseline", "entrodrop_ratio_0.3_pool_0.5_linear_schedule", "x" * 70]
ROWS = [
    ("baseline", "3.123", "2.456", "", ""),
    *((arm, "3.123", "2.456", "-0.123*", "[-0.200, -0.046]") for arm in ARMS[1:]),
]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [36, 40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("n_arms", [1, 2, 3])
def test_a_table_fits_its_console_and_cuts_nothing(terminal: bool, width: int, n_arms: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    Reporter(console).table(HEADER, ROWS[:n_arms])
    lines = file.getvalue().splitlines()
    # A name that is longer than a line stands on a line of its own, whole.
    assert all(len(line) <= width or line in ARMS for line in lines)
    for row in ROWS[:n_arms]:
        at = next(number for number, line in enumerate(lines) if line.split()[:1] == [row[0]])
        # To the next arm, or to the end, all of its cells are there, in their order.
        below = " ".join(lines[at:]).split(ROWS[n_arms - 1][0] if row != ROWS[n_arms - 1] else "\0")[0]
        positions = [below.index(cell) for cell in row if cell]
        assert positions == sorted(positions)


def test_layouts_from_wide_to_narrow() -> None:
    def lines(width: int) -> list[str]:
        file = io.StringIO()
        Reporter(Console(file=file, force_terminal=False, width=width)).table(HEADER, ROWS[:2])
        return file.getvalue().splitlines()

    name = ARMS[1]
    assert lines(200) == [
        f"{'arm'.ljust(44)}  start   best  against baseline     95 % interval",
        f"{'baseline'.ljust(44)}  3.123  2.456",
        f"{name}  3.123  2.456           -0.123*  [-0.200, -0.046]",
    ]
    assert lines(90)[0].split() == ["against"] and lines(90)[1].split()[-4:] == ["baseline", "95", "%", "interval"]
    assert lines(84) == [
        f"{' ' * 57}  against".replace("  against", " against"),
        f"{'arm'.ljust(44)} start  best baseline    95 % interval",
        f"{'baseline'.ljust(44)} 3.123 2.456",
        f"{name} 3.123 2.456  -0.123* [-0.200, -0.046]",
    ]
    assert lines(60) == [
        "arm",
        "                 against",
        "  start   best  baseline     95 % interval",
        "baseline",
        "  3.123  2.456",
        name,
        "  3.123  2.456   -0.123*  [-0.200, -0.046]",
    ]
    assert lines(38) == [
        "baseline",
        "  start             3.123",
        "  best              2.456",
        name,
        "  start             3.123",
        "  best              2.456",
        "  against baseline  -0.123*",
        "  95 % interval     [-0.200, -0.046]",
    ]
