"""What every command shares: one message and the right exit code for all that users can cause."""

from __future__ import annotations

import errno
import functools
import shlex
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from dynamics.errors import DamagedRecordError, DeviceFull, InputError, TrainingDiverged

app = typer.Typer(
    help="Learning dynamics of language models trained for many epochs on little data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def same_command(*options: str) -> str:
    """Return the command that was given, with these options besides."""
    given = sys.argv[1:]
    return shlex.join(["dynamics", *given, *(option for option in options if option not in given)])


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


def _show_warning(said: set[str], message: Warning | str, *args: Any, **kwargs: Any) -> None:
    if str(message) not in said:  # every figure of a study says how few its seeds are
        print(f"Warning: {message}", file=sys.stderr)
    said.add(str(message))
