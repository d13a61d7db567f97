"""The errors that a user can cause or meet, and the one helper that suggests a spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
