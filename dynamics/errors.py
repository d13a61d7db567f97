"""The errors that a user can cause or meet, suggested spellings, and outputs that cannot be written to."""

from __future__ import annotations

import os
import re
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
    """Return ``"; did you mean 'x'?"`` for the candidate that `word` most likely misspells, or ``""``.

    Case is ignored. A candidate is near if one edit per four letters of the longer word leads to it (from three letters
    on, one edit always may), or if `word` is the first five letters or more of this candidate and of no other.
    """
    spelled, candidates, edits = word.lower(), list(candidates), {}
    for one in candidates:
        longest, difference = max(len(word), len(one)), abs(len(word) - len(one))
        most = 0 if longest < 3 else max(1, longest // 4)
        if difference <= most and (distance := _edits(spelled, one.lower())) <= most:
            edits[one] = distance
    begin_so = {one for one in candidates if len(word) >= 5 and one.lower().startswith(spelled)}
    close = sorted(edits, key=edits.__getitem__) or (list(begin_so) if len(begin_so) == 1 else [])
    return f"; did you mean {close[0]!r}?" if close else ""


def _edits(one: str, other: str) -> int:
    """Return the optimal string alignment distance: insertions, deletions, replacements, swaps of neighbours."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        earlier, before, row = before, row, [i]
        for j, target in enumerate(other, start=1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != target))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == target:
                edits = min(edits, earlier[j - 2] + 1)
            row.append(edits)
    return row[-1]


# Owners on the Hugging Face hub of models that are often named without one. Sources: the hub's own list of its first
# models, which had no owner (moved in 2024), and the owners of some families.
_HUB_OWNERS = (
    (r"gpt2(-medium|-large|-xl)?|openai-gpt", "openai-community"),
    (r"distil(gpt2|(bert|roberta)-.+)", "distilbert"),
    (r"bert-(base|large)-.+", "google-bert"),
    (r"t5-(small|base|large|3b|11b)", "google-t5"),
    (r"(xlm-)?roberta-.+|xlm-(mlm|clm)-.+", "FacebookAI"),
    (r"albert-.+", "albert"),
    (r"xlnet-.+", "xlnet"),
    (r"transfo-xl-wt103", "transfo-xl"),
    (r"ctrl", "Salesforce"),
    (r"camembert-base", "almanach"),
    (r"pythia-.+|gpt-(neo|j|neox)-.+", "EleutherAI"),
    (r"opt-.+", "facebook"),
    (r"qwen\d.*-.+", "Qwen"),
    (r"smollm.*-.+", "HuggingFaceTB"),
    (r"(meta-)?llama-.+", "meta-llama"),
    (r"gemma-.+", "google"),
    (r"olmo-.+", "allenai"),
    (r"phi-.+", "microsoft"),
)


def hub_name(name: str) -> str | None:
    """Return ``owner/name`` for a well-known model on the hub that is named without its owner; None for others."""
    owners = (owner for pattern, owner in _HUB_OWNERS if re.fullmatch(pattern, name, re.IGNORECASE))
    owner = next(owners, None)
    return None if owner is None else f"{owner}/{name}"


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
