"""What is compared: an arm of a study is its seeds together, a run an arm of one seed."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dynamics.analysis.sums.document_sums import DocumentSums, Value, average_sums, sums_by_value
from dynamics.analysis.tokens.buckets import Bucketing, Buckets, entropy_buckets
from dynamics.analysis.tokens.token_records import Floats, kept_sums_of
from dynamics.errors import InputError
from dynamics.records.reader import Run, Study, common_epochs, require_same_tokens


class Arm:
    """Runs that differ in their seed alone, under one name.

    Sums per document are read from the records when first asked for and kept: they are small, and
    most figures and tables want the same ones.

    Parameters
    ----------
    name : str
    runs : sequence of Run
        At least one, all with the same tokens.
    epochs : sequence of int, optional
        Rising, of those that every run recorded after the same passes; default: all of them.
    """

    def __init__(self, name: str, runs: Sequence[Run], *, epochs: Sequence[int] | None = None) -> None:
        assert runs, f"arm {name!r} has no run"
        self.name = name
        self.runs = list(runs)
        self._chosen = None if epochs is None else list(epochs)
        self._sums: dict[tuple[str, Any, Value], list[DocumentSums]] = {}

    @property
    def epochs(self) -> list[int]:
        """The epochs that every run recorded after the same passes; the others are left out, with a warning.

        Where epochs were chosen, these.
        """
        common = common_epochs(self.runs)
        if self._chosen is not None:
            missing = sorted(set(self._chosen).difference(common))
            if missing or not self._chosen:
                raise InputError(
                    f"arm {self.name!r}: epochs={self._chosen} are not all recorded after the same passes in its "
                    f"{len(self.runs)} runs; choose of {common}"
                )
            return list(self._chosen)
        if not common:
            raise InputError(
                f"arm {self.name!r} has no epoch that is complete in all its {len(self.runs)} runs; finish them first"
            )
        if any(set(run.epochs) != set(common) for run in self.runs):
            warnings.warn(
                f"arm {self.name!r}: only epochs {common[0]} to {common[-1]} were recorded after the same passes in "
                f"all {len(self.runs)} seeds; later ones are left out",
                UserWarning,
                stacklevel=2,
            )
        return common

    @property
    def passes(self) -> Floats:
        """The passes over the training data at each of `epochs`: its number, but for a last one that was cut."""
        return np.asarray([self.runs[0].passes(epoch) for epoch in self.epochs], dtype=np.float64)

    def load(self, split: str, values: Sequence[Value], *, buckets: Bucketing | None = None) -> None:
        """Read the sums of several values in one pass over the records, so that they are at hand."""
        key = None if buckets is None else buckets.key
        # What is correct is known where the loss is: a model that says NaN has no most probable token.
        wanted = dict.fromkeys([*values, *(["loss"] if "correct" in values else [])])
        missing: list[Value] = [value for value in wanted if (split, key, value) not in self._sums]  # type: ignore[misc]
        if missing:
            epochs = self.epochs
            parts = [
                sums_by_value(run.records(split), values=missing, epochs=epochs, buckets=buckets) for run in self.runs
            ]
            for value in missing:
                self._sums[split, key, value] = [part[value] for part in parts]
            if "correct" in missing:
                pairs = zip(self._sums[split, key, "correct"], self._sums[split, key, "loss"], strict=True)
                self._sums[split, key, "correct"] = [
                    replace(part, sums=np.where(np.isnan(loss.sums), np.nan, part.sums)) for part, loss in pairs
                ]

    def seed_sums(self, split: str, *, buckets: Bucketing | None = None, value: Value = "loss") -> list[DocumentSums]:
        """Return the sums per document of every run, at the epochs that all runs have.

        Parameters
        ----------
        split : str
            One that every run recorded: ``validation``, ``train``, ``tuning``, ``validation-NAME``.
        buckets : Buckets, TwoWayBuckets or MovingBuckets, optional
            Without, one bucket of all tokens.
        value : {"loss", "entropy", "correct", "certainty"}
            ``correct`` is NaN where the loss is.
        """
        self.load(split, [value], buckets=buckets)
        return self._sums[split, None if buckets is None else buckets.key, value]

    def sums(self, split: str, *, buckets: Bucketing | None = None, value: Value = "loss") -> DocumentSums:
        """Return the sums per document averaged over the runs; parameters as for `seed_sums`."""
        return average_sums(self.seed_sums(split, buckets=buckets, value=value))


Source = Study | Run | Arm


def as_sources(data: Any, *kinds: type[Any]) -> list[Any]:
    """Return studies, runs and arms, or results of these `kinds`, as a list; one alone makes a list of one.

    Raises
    ------
    InputError
        For anything else, such as a path.
    """
    known = (Study, Run, Arm, *kinds)
    alone = isinstance(data, (*known, str, os.PathLike)) or not isinstance(data, Iterable)
    items = [data] if alone else list(data)
    for item in items:
        if isinstance(item, str | os.PathLike):
            raise InputError(f"{str(item)!r} is a path, not a study or run; open it with dynamics.open_any first")
        if not isinstance(item, known):
            names = ", ".join(kind.__name__ for kind in known)
            raise InputError(f"got {type(item).__name__}; give one or more of {names}")
    return items


def collect_arms(data: Source | Iterable[Source]) -> list[Arm]:
    """Return what there is to compare, in the order of the recipe.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
        A study gives its arms (those with at least one run that has a complete epoch), a run gives
        one arm under its own name. Equal names are told apart by their place on disk.

    Raises
    ------
    InputError
        If no complete epoch is found, if runs do not share their tokens, or if two arms have one name; for anything
        else than these, such as a path.
    """
    sources = as_sources(data)
    if all(isinstance(source, Arm) for source in sources) and sources:
        return _of_other_names([source for source in sources if isinstance(source, Arm)])
    named: list[tuple[str, str, list[Run], list[int] | None]] = []  # name, longer name, runs, epochs if chosen
    for source in sources:
        if isinstance(source, Study):
            for arm in source.arms:
                runs = [source.runs[arm, seed] for seed in source.seeds if (arm, seed) in source.runs]
                named.append((arm, f"{source.path.name}/{arm}", [run for run in runs if run.epochs], None))
        elif isinstance(source, Run):
            place = f"{source.path.parent.name}/{source.path.name}"
            named.append((source.name, place, [source] if source.epochs else [], None))
        else:
            named.append((source.name, source.name, source.runs, source._chosen))
    named = [entry for entry in named if entry[2]]
    if not named:
        places = ", ".join(str(getattr(source, "path", source)) for source in sources)
        raise InputError(f"no complete epoch is recorded in {places or 'nothing'}; train first")
    require_same_tokens([run for _, _, runs, _ in named for run in runs])
    times = Counter(name for name, *_ in named)
    return _of_other_names(
        [Arm(name if times[name] == 1 else longer, runs, epochs=epochs) for name, longer, runs, epochs in named]
    )


def _of_other_names(arms: list[Arm]) -> list[Arm]:
    """Return the arms, if every one has a name of its own: rows, lines and comparisons are told apart by it alone."""
    twice = sorted(name for name, times in Counter(arm.name for arm in arms).items() if times > 1)
    if twice:
        raise InputError(
            f"{' and '.join(map(repr, twice))}: several arms have this name; give each its own, "
            f"Arm({twice[0] + '-2'!r}, arm.runs), and a run once"
        )
    return arms


def default_baseline(arms: Sequence[Arm]) -> str:
    """Return the name of the arm that others are compared with: one that is called so, or the first.

    ``baseline``, ``none`` and ``control`` say so, an exact ``baseline`` before a longer name, such as that of its
    ensemble.

    Parameters
    ----------
    arms : sequence of Arm
    """
    return baseline_among([arm.name for arm in arms])


def baseline_among(names: Sequence[str]) -> str:
    """Return the name of `default_baseline` among the names of arms."""
    return _called_baseline(names) or names[0]


def named_baseline(arms: Sequence[Arm]) -> str | None:
    """Return the name of the arm that is called a baseline, as `default_baseline`; None if no name says so."""
    return _called_baseline([arm.name for arm in arms])


def _called_baseline(names: Sequence[str]) -> str | None:
    called = [name for name in names if re.search(r"(^|[_./+ -])(baseline|none|control)($|[_./+ -])", name.lower())]
    exact = [name for name in called if name.lower() == "baseline"]
    return next(iter([*exact, *called]), None)


def has_sums_alone(arm: Arm) -> bool:
    """Whether a run of an arm holds sums by document, and no tokens (a summary's)."""
    return any(kept_sums_of(run.records(run.splits[0])) is not None for run in arm.runs)


def shared_epochs(arms: Sequence[Arm]) -> list[int]:
    """Return the epochs that all runs of all arms recorded after the same passes over the data; none, perhaps."""
    moments = [{(epoch, arm.runs[0].passes(epoch)) for epoch in arm.epochs} for arm in arms]
    return sorted(epoch for epoch, _ in set.intersection(*moments))


def at_common_epochs(data: Source | Iterable[Source]) -> list[Arm]:
    """Return arms cut to the epochs that all of them recorded after the same passes over the data.

    So they can be compared where one was trained for longer, or was cut within an epoch.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them

    Raises
    ------
    InputError
        If there is no such epoch, and as `collect_arms` does.
    """
    arms = collect_arms(data)
    shared = shared_epochs(arms)
    if not shared:
        raise InputError(
            f"{', '.join(arm.name for arm in arms)} have no epoch that all recorded after the same passes over the "
            "data; compare others"
        )
    return [arm if arm.epochs == shared else Arm(arm.name, arm.runs, epochs=shared) for arm in arms]


def reference_buckets(arms: Sequence[Arm], n: int = 2) -> Buckets:
    """Return buckets by reference entropy, frozen from the training tokens that the arms share.

    One bucket has no edges, and so needs no training tokens.

    Parameters
    ----------
    arms : sequence of Arm
        They share their training tokens.
    n : int, default 2
        Buckets of equal size.
    """
    run = arms[0].runs[0]
    return entropy_buckets(run.records(run.splits[0] if n == 1 else "train"), n)


def as_buckets(arms: Sequence[Arm], buckets: Bucketing | int) -> Bucketing:
    """Return buckets as given, or that many by reference entropy (`reference_buckets`).

    Every function that compares the curves of buckets between epochs takes its buckets from here, once.

    Warns
    -----
    UserWarning
        If the buckets were chosen by the outcome (`Buckets.chosen_by_outcome`), in the name of the caller's caller.
    """
    if isinstance(buckets, int):
        return reference_buckets(arms, buckets)
    if buckets.chosen_by_outcome:
        warnings.warn(
            f"buckets by {buckets.by} are chosen by the outcome: differences between their curves, and their rebounds, "
            "are regression to the mean in part or whole. Use buckets by the reference model's entropy, which are free "
            "of it; buckets by another seed's losses are not, since seeds share the token (docs/analysis.md, Selection "
            "on outcomes)",
            UserWarning,
            stacklevel=3,
        )
    return buckets
