"""Reading runs and studies: `open_run`, `open_study`, `open_any`, and the arrays behind them.

Opening reads manifests only. Values are read epoch by epoch, each file after its size, the identity in its header and
its layout were compared with its manifest. A flipped bit among the values is found with ``verify=True``, which hashes
each file before its values are used, and by `dynamics.records.check`, which hashes everything at once.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

from dynamics import records
from dynamics.errors import DamagedRecordError, InputError, nearest
from dynamics.records import schema
from dynamics.records.epochs import (
    OnDisk,
    complete_epochs,
    not_there,
    numbers,
    read_epoch_manifest,
    read_yaml,
    sealed_epoch_manifest,
    shown_path,
)
from dynamics.records.metrics import read_metrics
from dynamics.records.tensors import Hashes
from dynamics.records.values import Records

__all__ = ["Records", "Run", "Study", "open_any", "open_run", "open_study"]

#: Between the name of an arm and that of a model beside it.
BESIDE = "+"

PathLike = str | os.PathLike[str]


class Page(Protocol):
    """What `Run.explore` returns; `dynamics.explorer.build.Page` is one."""

    @property
    def html(self) -> str: ...
    @property
    def notes(self) -> list[str]: ...
    def save(self, path: str | Path) -> Path: ...
    def _repr_html_(self) -> str: ...


def open_run(path: PathLike, *, verify: bool = False) -> Run:
    """Open a run directory; reads its manifest and the names of its epochs, nothing else.

    Parameters
    ----------
    path : path-like
        The run's directory.
    verify
        Hash every file once before its values are used, and require all epochs that the manifest of a complete run
        names. Without it only sizes, headers and layouts are compared, which does not find a flipped bit.

    Raises
    ------
    InputError
        If there is no run at `path`, or one of a later format.
    DamagedRecordError
        If its manifest is damaged; with `verify`, if epochs of a complete run are missing.
    """
    return Run(path, verify=verify)


def open_study(path: PathLike, *, verify: bool = False) -> Study:
    """Open a study directory; reads its recipe and looks which of its runs have begun.

    Parameters
    ----------
    path : path-like
        The study's directory.
    verify
        Open its runs so, as `open_run` does.

    Raises
    ------
    InputError
        If there is no study at `path`, or its recipe cannot be read.
    """
    return Study(path, verify=verify)


def open_any(path: PathLike, *, verify: bool = False) -> Study | Run:
    """Open a study or a run, whichever lies at `path`, as `open_study` and `open_run` do.

    Parameters
    ----------
    path, verify
        As of `open_study` and `open_run`.

    Raises
    ------
    InputError
        If neither does.
    """
    if (Path(path) / schema.STUDY_FILE).is_file():
        return open_study(path, verify=verify)
    if (Path(path) / schema.MANIFEST_FILE).is_file():
        return open_run(path, verify=verify)
    raise not_there(path, "study or run", f"{schema.STUDY_FILE} or {schema.MANIFEST_FILE}")


class Run(OnDisk):
    """One run on disk.

    Attributes
    ----------
    path : pathlib.Path
    manifest : dict
        Versions, hardware, seeds, and the hashes of everything.
    name : str
    epochs : list of int
        Recorded epochs when the run was opened. 0 is before training. The last may have been cut (`partial_epochs`).
    splits : list of str
        What is recorded: "train", "validation", "tuning" if set aside, and "validation-NAME" for further sets.
    """

    def __init__(self, path: PathLike, *, verify: bool = False) -> None:
        self.path = Path(path)
        #: What was hashed already; None where nothing is to be.
        self.hashes = Hashes() if verify else None
        manifest_path = self.path / schema.MANIFEST_FILE
        if not manifest_path.is_file():
            raise not_there(path, "run", schema.MANIFEST_FILE)
        self.manifest: dict[str, Any] = schema.read_manifest(manifest_path)
        schema.require_format(self.manifest, self.path)
        schema.require_run(self.manifest, manifest_path)
        self.name: str = self.manifest.get("name") or self.path.name
        self.epochs: list[int] = complete_epochs(self.path)
        self.splits: list[str] = schema.in_split_order(self.manifest["tokens"])
        if verify:
            self._require_epochs()

    def _title(self) -> str:
        splits = ", ".join(self.splits)
        cut = "".join(f"; epoch {epoch} was cut at {at:g} passes" for epoch, at in self.partial_epochs.items())
        return f"Run({shown_path(self.path)!r}: {len(self.epochs)} epochs of {splits or 'nothing'}{cut})"

    @property
    def complete(self) -> bool:
        """Whether training came to its end."""
        return bool(self.manifest.get("status") == "complete")

    @cached_property
    def partial_epochs(self) -> dict[int, float]:
        """The epoch that was cut, if one was, and the passes over the data it stands for: {3: 2.5}.

        Only the last one can be, so only its manifest is read. An epoch with a damaged manifest counts as whole here.
        """
        for epoch in self.epochs[-1:]:
            try:
                manifest = read_epoch_manifest(self.path, epoch, self.manifest["config_hash"])
            except DamagedRecordError:
                continue
            if manifest.get("partial"):
                return {epoch: float(manifest["passes"])}
        return {}

    def passes(self, epoch: SupportsIndex) -> float:
        """Return how many passes over the training data were behind the model when `epoch` was recorded.

        The epoch's own number, but for one that was cut.

        Raises
        ------
        InputError
            If there is no such epoch.
        """
        epoch = self._recorded(epoch)
        return self.partial_epochs.get(epoch, float(epoch))

    def step(self, epoch: SupportsIndex) -> int | None:
        """Return after how many optimiser steps `epoch` was recorded; None where its records do not say.

        Raises
        ------
        InputError
            If there is no such epoch.
        DamagedRecordError
            If its manifest is damaged.
        """
        step: int | None = sealed_epoch_manifest(self, self._recorded(epoch)).get("step")
        return step

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved recipe, read from ``config.yaml``."""
        if self.hashes is not None and "config_sha256" in self.manifest:
            self.hashes.require(self.path / schema.CONFIG_FILE, {"sha256": self.manifest["config_sha256"]})
        return read_yaml(self.path / schema.CONFIG_FILE)

    def records(self, split: str) -> Records:
        """Return the recorded values of one of `splits`.

        Raises
        ------
        InputError
            If the run has no such split.
        DamagedRecordError
            If the file of its tokens is damaged.
        """
        if split not in self.splits:
            if split == "tuning" and self.config.get("tuning"):
                raise InputError(
                    f"{self.path} was recorded by a version that kept of its tuning part the mean of each epoch alone "
                    f"(tuning_loss in {schema.METRICS_FILE}); train the recipe again to have its tokens"
                )
            raise InputError(
                f"{self.path} has no split {split!r}: it has {', '.join(self.splits) or 'none'}"
                + (
                    "; a recipe's tuning: {fraction: 0.1} sets it aside"
                    if split == "tuning"
                    else nearest(split, self.splits)
                )
            )
        return Records(self, split)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the scalars by step, one dict a row; [] before the first.

        Raises
        ------
        DamagedRecordError
            Naming the line that is no row; or, of a complete run, if the file is not as long as it was.
        """
        path = self.path / schema.METRICS_FILE
        entry = self.manifest.get("metrics_file")
        if entry:
            size = path.stat().st_size if path.is_file() else None
            if size != entry["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes; the run's manifest says {entry['bytes']}"
                raise DamagedRecordError(f"{path} {found}. What was recorded by token is not affected")
            if self.hashes is not None:
                self.hashes.require(path, entry)
        return read_metrics(path, running=not self.complete)

    def explore(self, other: Run | None = None, *, budget: float = 4.0, buckets: int = 2) -> Page:
        """Return the token explorer of this run, which Jupyter shows inline, and `Page.save` writes.

        Parameters
        ----------
        other : Run, optional
            A second run of the same tokens, to compare with.
        budget : float
            Megabytes that the page may have; a notebook keeps it with its outputs.
        buckets : int
            By reference entropy.

        Raises
        ------
        InputError
            As `dynamics.explorer.build.build_page` does.
        """
        assert records.load_page_builder is not None, "the package's face sets it before any run can be opened"
        build_page = records.load_page_builder()
        runs = [self] if other is None else [self, other]
        page: Page = build_page(runs, budget=budget * 1e6, buckets=buckets)
        return page

    def _recorded(self, epoch: SupportsIndex) -> int:
        epoch = operator.index(epoch)
        if epoch not in self.epochs:
            raise InputError(f"{self.path} has no complete epoch {epoch}: it has {numbers(self.epochs)}")
        return epoch

    def _require_epochs(self) -> None:
        named = self.manifest.get("epochs")
        missing = sorted({int(epoch) for epoch in named or {}} - set(self.epochs))
        if missing:
            folders = ", ".join(schema.epoch_folder(epoch) for epoch in missing)
            raise DamagedRecordError(
                f"{self.path} has lost {folders}, which its manifest names. There are {numbers(self.epochs)}; "
                "open_run without verify=True opens what is left"
            )


class Study(OnDisk):
    """A study on disk: the same recipe under several arms and seeds.

    Attributes
    ----------
    path : pathlib.Path
    config : dict
        The resolved recipe of the study.
    arms : list of str
        In the order of the recipe; models measured beside those of an arm (averaged weights) come after it, as
        ``ARM+ema``.
    seeds : list of int
    """

    def __init__(self, path: PathLike, *, verify: bool = False) -> None:
        self.path = Path(path)
        self.verify = verify
        file = self.path / schema.STUDY_FILE
        if not file.is_file():
            raise not_there(path, "study", schema.STUDY_FILE)
        self.config: dict[str, Any] = read_yaml(file)
        arms, seeds = self.config.get("arms"), self.config.get("seeds")
        if not isinstance(arms, dict) or not isinstance(seeds, list):
            raise InputError(f"{file} is no study recipe: it needs 'arms', a mapping, and 'seeds'")
        self.arms: list[str] = _arms_with_those_beside(self.path, arms)
        self.seeds: list[int] = seeds

    def _title(self) -> str:
        name = shown_path(self.path, self.config.get("name"))
        return f"Study({name!r}: {len(self.arms)} arms, {len(self.seeds)} seeds)"

    @cached_property
    def runs(self) -> dict[tuple[str, int], Run]:
        """The runs that have begun, by (arm, seed), in the order of the recipe.

        Raises
        ------
        InputError
            If two of them have different tokens, so that nothing could be compared.
        DamagedRecordError
            If the manifest of one is damaged.
        """
        folders = {(arm, seed): study_run_path(self.path, arm, seed) for arm in self.arms for seed in self.seeds}
        runs = {
            key: open_run(folder, verify=self.verify)
            for key, folder in folders.items()
            if (folder / schema.MANIFEST_FILE).is_file()
        }
        require_same_tokens(list(runs.values()))
        return runs

    @cached_property
    def tuning(self) -> dict[str, Any] | None:
        """How each arm's settings were chosen, as `schema.read_tuning` returns it; None where nothing is chosen."""
        return schema.read_tuning(self.path)

    def run(self, arm: str, seed: int) -> Run:
        """Return one run; InputError if the study has no such arm or seed, or the run has not begun."""
        if arm not in self.arms:
            raise InputError(f"{self.path} has no arm {arm!r}: it has {', '.join(self.arms)}" + nearest(arm, self.arms))
        if seed not in self.seeds:
            raise InputError(f"{self.path} has no seed {seed!r}: it has {numbers(self.seeds)}")
        if (arm, seed) not in self.runs:
            raise InputError(
                f"{self.path}: arm {arm!r} with seed {seed} has not been run yet; "
                "'dynamics study' on the same output goes on where it stopped"
            )
        return self.runs[arm, seed]


def study_run_path(study_dir: PathLike, arm: str, seed: int) -> Path:
    """Return where the run of an arm and a seed lies."""
    return Path(study_dir) / schema.RUNS_FOLDER / arm / f"seed-{seed}"


def run_beside(run_dir: PathLike, word: str) -> Path:
    """Return where the run of a model lies that is measured beside the trained one of `run_dir`.

    Of a run in a study it is an arm's of its own, ``runs/ARM+WORD/seed-S``: no arm in a recipe may be called so. Of
    any other run it is ``RUN-WORD``.
    """
    run = Path(os.path.abspath(run_dir))
    arm = run.parent
    runs = arm.parent
    if runs.name == schema.RUNS_FOLDER and (runs.parent / schema.STUDY_FILE).is_file():
        return runs / f"{arm.name}{BESIDE}{word}" / run.name
    return run.with_name(f"{run.name}-{word}")


def _arms_with_those_beside(study_dir: Path, arms: Iterable[str]) -> list[str]:
    """Return arms, each followed by those of models that were measured beside it, as far as these have begun."""
    begun = {path.parents[1].name for path in (study_dir / schema.RUNS_FOLDER).glob(f"*/*/{schema.MANIFEST_FILE}")}
    return [name for arm in arms for name in (arm, *sorted(one for one in begun if one.startswith(arm + BESIDE)))]


def require_same_tokens(runs: list[Run]) -> None:
    """Raise InputError, naming two runs, unless all runs hold the same tokens in every split.

    Some may lack the part for tuning, which earlier versions did not record, or further validation sets.
    """
    for split in schema.in_split_order({split for run in runs for split in run.splits}):
        holding = [run for run in runs if split in ("train", "validation") or split in run.splits]
        for run in holding[1:]:
            hashes = [r.manifest["tokens"].get(split, {}).get("tokens_hash") for r in (holding[0], run)]
            if hashes[0] != hashes[1]:
                raise InputError(
                    f"{holding[0].path} and {run.path} have different tokens in {split!r}, so they "
                    "cannot be compared: run both from one corpus and tokenizer"
                )


def common_epochs(runs: Sequence[Run]) -> list[int]:
    """Return the epochs that all runs recorded after the same passes; one that was cut is no other run's whole one."""
    common = set(runs[0].epochs).intersection(*(run.epochs for run in runs))
    return sorted(epoch for epoch in common if len({run.passes(epoch) for run in runs}) == 1)
