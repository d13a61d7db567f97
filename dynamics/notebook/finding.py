"""Open a study in a notebook, and say once what limits its intervals."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.intervals.over_seeds_and_documents import FEW_SEEDS
from dynamics.analysis.sums.arms import collect_arms
from dynamics.errors import InputError
from dynamics.example import load_example
from dynamics.records.epochs import shown_path
from dynamics.records.reader import Study, open_study
from dynamics.records.schema import MANIFEST_FILE, STUDY_FILE
from dynamics.records.summaries.files import is_summary
from dynamics.records.summaries.reading import open_summary

EXAMPLE = "example"
#: The warnings that `find_study` says in its own words.
_SAID = (
    "intervals over .* documents",
    "arm .* only epochs",
    "[12] seeds? hardly",
    "comparisons with .* generalise over documents alone",
    "with one seed",
)


def find_study(path: str | os.PathLike[str] = EXAMPLE) -> Study:
    """Open a study and print what it is and what limits its intervals.

    Each limit is printed once, here. Warnings that say the same are silenced for the rest of the session, so that
    they do not stand above every figure.

    Parameters
    ----------
    path : str or path
        A study or a summary; a folder that holds studies, such as ``runs``, whose newest one is taken; or
        ``"example"``, the study that ships with the package (unless a study of that name lies in the working
        directory).

    Returns
    -------
    Study

    Raises
    ------
    InputError
        If there is no study there, or no run of it has recorded an epoch.
    """
    study, what = _opened(path)
    seeds = f"{len(study.seeds)} seed{'s' * (len(study.seeds) != 1)}"
    arms = f"{len(study.arms)} arm{'s' * (len(study.arms) != 1)}"
    print(f"{what}: {arms} ({', '.join(study.arms)}), {seeds}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line in _limits(study):
            print(line)
    for message in _SAID:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    return study


def _opened(path: str | os.PathLike[str]) -> tuple[Study, str]:
    """Return the study and what it is, in words."""
    here = Path(path)
    if str(path) == EXAMPLE and not here.exists():
        return load_example(), "The example that ships with the package"
    if is_summary(here):
        return open_summary(here), f"{shown_path(here)}, a summary without text"
    if (here / STUDY_FILE).is_file():
        return open_study(here), shown_path(here)
    if (here / MANIFEST_FILE).is_file():
        raise InputError(f"{here} is a run, not a study; open it with dynamics.open_run({str(path)!r})")
    inside = [each.parent for each in here.glob(f"*/{STUDY_FILE}")]
    if not inside:
        raise InputError(
            f"{here} is no study and holds none; give a folder that 'dynamics study' wrote, or {EXAMPLE!r}"
        )
    newest = max(inside, key=lambda folder: (folder / STUDY_FILE).stat().st_mtime)
    others = f", the newest of {len(inside)} studies in {shown_path(here)}" if len(inside) > 1 else ""
    return open_study(newest), f"{shown_path(newest)}{others}"


def _limits(study: Study) -> list[str]:
    """Return what limits the study's intervals, a line each."""
    arms = collect_arms(study)
    found = []
    for arm in study.arms:
        for seed in study.seeds:
            run = study.runs.get((arm, seed))
            if run is None or not run.complete:
                found.append(f"Not complete: {arm}, seed {seed}. Only what is recorded is shown.")
    for split in arms[0].runs[0].splits:
        n_documents = arms[0].sums(split).n_documents
        if about_documents(n_documents) is not None:
            found.append(f"Only {n_documents} documents of {split!r} are recorded: intervals may be too narrow.")
    n_seeds = min(len(arm.runs) for arm in arms)
    if n_seeds == 1:
        found.append("Only 1 seed: intervals are over documents, and say nothing about other seeds.")
    elif n_seeds < FEW_SEEDS:
        found.append(f"Only {n_seeds} seeds: intervals are wider than with 3 or more.")
    return found
