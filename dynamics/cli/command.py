"""What every command shares: one message and the right exit code for all that users can cause, and the next step."""

from __future__ import annotations

import errno
import functools
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dynamics.cli.usage import in_plain_words
from dynamics.errors import DamagedRecordError, DeviceFull, InputError, TrainingDiverged
from dynamics.version import __version__

app = typer.Typer(
    help="Learning dynamics of language models trained for many epochs on little data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Newer versions of Typer have a copy of click, older ones use click itself: this is the class in either.
UsageError: Any = typer.BadParameter.__mro__[1]


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"dynamics {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def same_command(*options: str) -> str:
    """Return the command that was given, with these options added."""
    given = sys.argv[1:]
    return shlex.join(["dynamics", *given, *(option for option in options if option not in given)])


def suggest(*commands: tuple[str | Path, ...]) -> None:
    """Say on standard error what to run next, as commands that a shell takes as they stand."""
    lines = [f"  {shlex.join(map(str, command))}" for command in commands]
    print("\n".join(["Next:", *lines]), file=sys.stderr)


def command(*, example: str, interrupted: Callable[[], str] = lambda: "Interrupted.") -> Callable[[Any], Any]:
    """Register a command, with one message and the right exit code for all that users can cause.

    Interrupts are taken here: what Typer makes of them differs between its versions.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with warnings.catch_warnings():
                warnings.showwarning = functools.partial(_show_warning, set())
                try:
                    function(*args, **kwargs)
                except InputError as error:
                    fail(f"Error: {error}", 2)
                except (DamagedRecordError, DeviceFull, TrainingDiverged) as error:
                    fail(f"Error: {error}", 1)
                except OSError as error:
                    _fail_of_system(error)
                except KeyboardInterrupt:
                    fail(interrupted(), 130)

        return app.command(epilog=f"\b\nExample:\n  {example}")(guarded)

    return register


def run() -> None:
    """Run the command that was given, and end the process with its exit code."""
    code = 0
    try:
        code = app(prog_name="dynamics", standalone_mode=False) or 0
    except typer.Exit as error:
        code = error.exit_code
    except UsageError as error:
        # A command without arguments shows its help, and says so by an error of its own.
        shows_help = type(error).__name__ == "NoArgsIsHelpError"
        print(error.format_message() if shows_help else f"Error: {in_plain_words(error)}", file=sys.stderr)
        code = 2
    except typer.Abort:
        code = 130
    sys.exit(code)


def _fail_of_system(error: OSError) -> NoReturn:
    """Say what the system refused; of a full disk, what is left and how to go on. Anything else is a bug."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    place = f" ({error.filename})" if error.filename else ""
    fail(
        f"Error: the disk is full{place}. All complete epochs are kept; make room, and this goes on: "
        f"{same_command('--resume') if 'train' in sys.argv[1:2] else same_command()}",
        1,
    )


def fail(message: str, code: int) -> NoReturn:
    """Print one line, whatever a message is made of, and end the command."""
    print(" ".join(message.splitlines()), file=sys.stderr)
    raise typer.Exit(code)


# Every figure says how few its documents or seeds are, in words and numbers of its own: the first is enough.
_COUNTED = re.compile(r"intervals over [\d,]+ documents|[\d,]+ seeds?\b")


def _show_warning(said: set[str], message: Warning | str, *args: Any, **kwargs: Any) -> None:
    counted = _COUNTED.match(str(message))
    subject = re.sub(r"[\d,]+", "N", counted[0]) if counted else str(message)
    if subject not in said:
        print(f"Warning: {message}", file=sys.stderr)
    said.add(subject)
