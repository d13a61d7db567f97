"""What stands above the text: names and colours of runs, curves with intervals, recipes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from dynamics.analysis.intervals.bands import curve_interval
from dynamics.analysis.sums.curves import best_epoch
from dynamics.analysis.sums.document_sums import document_sums
from dynamics.analysis.tokens.buckets import Buckets
from dynamics.explorer.split_tokens import SplitTokens
from dynamics.records.reader import Run

# Words in an arm's name that tell its role, the first that fits; as `dynamics.plots` reads names.
_ROLES = {
    "inverse": re.compile("inverse"),
    "random": re.compile("random"),
    "entrodrop": re.compile("entrodrop"),
    "baseline": re.compile(r"(^|[_./+])(baseline|none|control)($|[_./+])"),
}


def looks_of(runs: Sequence[Run]) -> list[str]:
    """Return the look of each run, as the page's style names it: its arm's role, or ``other-1`` and ``other-2``.

    Roles have the colours that they have in figures. Of two runs of one role, the second has a further colour.
    """
    names = [arm_of(run).lower() for run in runs]
    looks: dict[int, str] = {}
    for exact in (True, False):
        for i, name in enumerate(names):
            role = _role_of(name)
            if role and i not in looks and role not in looks.values() and (not exact or name == role):
                looks[i] = role
    others = [i for i in range(len(runs)) if i not in looks]
    looks |= {i: f"other-{place}" for place, i in enumerate(others, start=1)}
    return [looks[i] for i in range(len(runs))]


def arm_of(run: Run) -> str:
    """Return the arm of a study's run; of another run, its name."""
    return run.path.parent.name if run.path.name.startswith("seed-") else run.name


def _role_of(name: str) -> str | None:
    words = name.replace("-", "_")
    return next((role for role, pattern in _ROLES.items() if pattern.search(words)), None)


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return short names that tell runs apart: those of a study by arm and seed, others by name or place."""
    of_study = [run.path.name.startswith("seed-") for run in runs]
    names = [
        f"{run.path.parent.name}/{run.path.name}" if by_seed else run.name
        for run, by_seed in zip(runs, of_study, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [run.path.as_posix() for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} ({letter})" for name, letter in zip(names, "AB", strict=False)]
    return names


def recipe_text(run: Run) -> str:
    """Return a run's recipe as YAML."""
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)


def curves_of(splits: Sequence[SplitTokens], buckets: Buckets | None) -> list[dict[str, Any]]:
    """Return the curves of every run: means over predicted tokens in nats, with 95 % intervals over documents.

    Returns
    -------
    list of dict
        ``best``, the epoch with the lowest mean validation loss (training, where that is all there is), and
        ``curves``: a list over splits and then buckets (all tokens first) of name, loss, low and high by epoch.
    """
    rows = []
    for r in range(len(splits[0].records)):
        curves = []
        best = None
        for split in splits:
            records = split.view(r)
            for how in (None, buckets) if buckets is not None else (None,):
                sums = document_sums(records, epochs=split.epochs, buckets=how)
                with warnings.catch_warnings():
                    # That there are few documents is said once, among the notes.
                    warnings.simplefilter("ignore", UserWarning)
                    band = curve_interval([sums])
                for k, label in enumerate(sums.labels):
                    curves.append(
                        {
                            "split": split.split,
                            "bucket": "" if how is None else label,
                            **{name: _numbers(getattr(band, name)[:, k]) for name in ("estimate", "low", "high")},
                        }
                    )
                if best is None:
                    # -1, if all of it is NaN, is no epoch.
                    best = max(best_epoch(band.estimate[:, 0], split.epochs), split.epochs[0])
        rows.append({"best": best, "curves": curves})
    return rows


def _numbers(values: Any) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]
