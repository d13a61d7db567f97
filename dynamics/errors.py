"""The errors that a user can cause or meet, a suggested spelling, and the folder that nothing can be written to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Bad input from the user: a recipe, a file or an argument. The command line exits with 2.

    The message names the offending key, file or value, and says what to do.
    """


class TrainingDiverged(RuntimeError):
    """The training loss is NaN or infinite."""


class DeviceFull(RuntimeError):
    """The device that computes has no memory left. The command line exits with 1."""


class DamagedRecordError(ValueError):
    """Records on disk are damaged or incomplete. The command line exits with 1.

    The message names the file and the epoch, and says what is still good.
    """


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the candidate nearest to `word`, or ``""``."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def require_folder(output: Path) -> None:
    """Raise InputError for an --output that cannot be made, before any work goes into it."""
    found = output.absolute()
    while not os.path.lexists(found):
        found = found.parent
    problem = (
        "is no directory"
        if not found.is_dir()
        else "may not be written to"
        if not os.access(found, os.W_OK | os.X_OK)
        else None
    )
    if problem is not None:
        raise InputError(f"--output: {output} cannot be used, as {found} {problem}; name another")
