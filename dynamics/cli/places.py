"""Studies and runs as commands take them: by path, or the word ``example``; and which two runs of a study tell most."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamics.errors import InputError

if TYPE_CHECKING:
    from dynamics.records.reader import Run, Study

#: The word for the study that ships with the package, where nothing of that name is in the working directory.
EXAMPLE = "example"
#: What help says of it.
OR_EXAMPLE = (
    f"The word {EXAMPLE} is the study that ships with the package; a file or folder named {EXAMPLE} here goes first."
)


def place_of(path: Path) -> Path:
    """Return where a study or run lies.

    ``example``, and what lies under it, is in the packaged study; a file or folder of that name in the working
    directory goes first, with a warning.
    """
    if not is_example(path):
        if path.parts[:1] == (EXAMPLE,):
            warnings.warn(
                f"{EXAMPLE}: the file or folder of this name here is read, not the study that ships with the package",
                stacklevel=2,
            )
        return path
    from dynamics.example import load_example

    return load_example().path.joinpath(*path.parts[1:])


def is_example(path: Path) -> bool:
    """Whether `path` means the packaged study, or something in it."""
    return path.parts[:1] == (EXAMPLE,) and not Path(EXAMPLE).exists()


def beside(path: Path, name: str) -> Path:
    """Return the default output of a command: `name` in a study or run, or for the example in the working directory."""
    return Path(f"{EXAMPLE}-{name}") if is_example(path) else path / name


def telling_runs(study: Study) -> tuple[Run, ...]:
    """Return the two runs of a study that tell most: the baseline's and another arm's, with the lowest seed of both.

    The other arm is the first with EntroDrop, or else the first that has a run of such a seed. A study with runs of one
    arm alone has one.

    Raises
    ------
    InputError
        No run of the study has recorded an epoch.
    """
    from dynamics.analysis.sums.arms import baseline_among

    runs = {key: run for key, run in study.runs.items() if run.epochs}
    arms = list(dict.fromkeys(arm for arm, _ in runs))
    if not arms:
        raise InputError(f"{study.path}: no run of this study has recorded an epoch yet; run `dynamics study` first")
    baseline = baseline_among(arms)
    others = sorted((arm for arm in arms if arm != baseline), key=lambda arm: not _has_entrodrop(study, arm))
    for other in others:
        shared = [seed for arm, seed in runs if arm == baseline and (other, seed) in runs]
        if shared:
            return runs[baseline, min(shared)], runs[other, min(shared)]
    return (runs[baseline, min(seed for arm, seed in runs if arm == baseline)],)


def _has_entrodrop(study: Study, arm: str) -> bool:
    settings = study.config["arms"].get(arm) or {}
    return any(method.get("name") == "entrodrop" for method in settings.get("regularizers") or [])


def other_runs(study: Study, path: Path, chosen: Sequence[Run]) -> str:
    """Return which runs were chosen, and how to choose others, in words; `path` is the study as it was given."""
    names = " and ".join(str(run.path.relative_to(study.path)) for run in chosen)
    arms, seeds = ", ".join(study.arms), ", ".join(map(str, study.seeds))
    return (
        f"{path}: this page shows {names}; for others, name one run or two as {path}/runs/ARM/seed-SEED (arms: {arms}; "
        f"seeds: {seeds})"
    )
