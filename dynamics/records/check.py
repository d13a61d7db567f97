"""Checking runs and studies: every file against the hashes in its manifest, and what it means.

The run's manifest has the hashes of ``config.yaml`` and ``tokens/`` and, once the run is complete, of ``model/``,
``metrics.jsonl`` and every epoch's manifest, which has those of its files. ``checkpoints/`` are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.epochs import not_there, numbers, read_epoch, read_epoch_manifest
from dynamics.records.metrics import read_metrics
from dynamics.records.reader import Study, open_run, require_same_tokens, study_run_path
from dynamics.records.tensors import Array, read_tensors

#: What may lie in a run directory; anything else there is the user's own, and noted.
_KNOWN = {
    schema.CONFIG_FILE,
    schema.MANIFEST_FILE,
    schema.METRICS_FILE,
    schema.TOKENS_FOLDER,
    schema.EPOCHS_FOLDER,
    schema.MODEL_FOLDER,
    schema.CHECKPOINTS_FOLDER,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is damaged.

    Parameters
    ----------
    file, epoch
        Path relative to the run (or study), with forward slashes, and the epoch that it belongs to, if any.
    message
        What is wrong.
    """

    file: str
    epoch: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(slots=True)
class CheckReport:
    """What a check found.

    Parameters
    ----------
    path
    problems
        Damage; empty when all is well.
    notes
        What is unusual but no damage: a run that has not finished, leftovers, the user's files.
    good_epochs
        The epochs in which nothing is damaged.
    n_files, n_bytes
        How much was hashed.
    """

    path: Path
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    good_epochs: list[int] = field(default_factory=list)
    n_files: int = 0
    n_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What the values of a split are compared with."""

    sequence_id: Array
    predicted: Array


def check_path(path: str | os.PathLike[str]) -> list[CheckReport]:
    """Check a run, or a study and all its runs, those of its trials too.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of CheckReport
        One for a run; for a study, its own and then one for each run that has begun.

    Raises
    ------
    InputError
        If there is neither at `path`, or records of another format.
    """
    path = Path(path)
    if not (path / schema.STUDY_FILE).is_file():
        return [check_run(path)]
    report = CheckReport(path)
    folders, trials = (
        sorted(f for f in (path / name).glob("*/*") if _has_begun(f))
        for name in (schema.RUNS_FOLDER, schema.TUNING_FOLDER)
    )
    try:
        study = Study(path)
    except InputError as error:
        report.problems.append(Problem(schema.STUDY_FILE, None, str(error)))
    else:
        expected = {study_run_path(path, arm, seed) for arm in study.arms for seed in study.seeds}
        for folder in sorted(expected - set(folders)):
            report.notes.append(f"{folder.relative_to(path).as_posix()} has not been run yet")
        for folder in sorted(set(folders) - expected):
            report.notes.append(f"{folder.relative_to(path).as_posix()} is not in the recipe")
    try:
        if schema.read_tuning(path) is not None:
            report.n_files += 1
            report.n_bytes += (path / schema.TUNING_FILE).stat().st_size
    except (DamagedRecordError, InputError) as error:
        report.problems.append(Problem(schema.TUNING_FILE, None, str(error)))
    folders += trials
    runs = []
    for folder in folders:
        try:
            runs.append(open_run(folder))
        except (DamagedRecordError, InputError):
            continue  # Its own report says so.
    try:
        require_same_tokens(runs)
    except InputError as error:
        report.problems.append(Problem(schema.RUNS_FOLDER, None, str(error)))
    return [report, *(check_run(folder) for folder in folders)]


def check_run(path: str | os.PathLike[str]) -> CheckReport:
    """Check everything that a run's manifests vouch for, and that nothing else lies among it.

    A run whose status is "running" is checked as far as it got, and noted as incomplete.

    Raises
    ------
    InputError
        If no run has begun at `path`, or its records are of another format.
    """
    path = Path(path)
    if not _has_begun(path):
        raise not_there(path, "run", schema.MANIFEST_FILE)
    report = CheckReport(path)
    manifest: dict[str, Any] | None = None
    try:
        manifest = schema.read_manifest(path / schema.MANIFEST_FILE)
    except DamagedRecordError as error:
        report.problems.append(Problem(schema.MANIFEST_FILE, None, str(error)))
    else:
        schema.require_format(manifest, path)
        report.n_files += 1
        report.n_bytes += (path / schema.MANIFEST_FILE).stat().st_size
        try:
            schema.require_run(manifest, path / schema.MANIFEST_FILE)
        except DamagedRecordError as error:
            # Intact, and in the wrong place: it vouches for nothing here.
            report.problems.append(Problem(schema.MANIFEST_FILE, None, str(error)))
            manifest = None

    tokens = {}
    if manifest is not None:
        if manifest.get("status") != "complete":
            status = manifest.get("status")
            report.notes.append(f"incomplete: the run's status is {status!r}, not 'complete'")
        _check_config(report, manifest)
        tokens = _check_tokens(report, manifest)
        _check_model(report, manifest)
        _check_metrics(report, manifest)
    else:
        report.notes.append(
            f"{schema.CONFIG_FILE}, {schema.TOKENS_FOLDER}/, {schema.METRICS_FILE} and {schema.MODEL_FOLDER}/ were not "
            f"checked: only {schema.MANIFEST_FILE} vouches for them"
        )
    _check_epochs(report, manifest, tokens)
    for child in sorted(path.iterdir()):
        if child.name not in _KNOWN and not child.name.startswith("."):
            report.notes.append(f"{child.name} is no part of a run, and was not checked")
    return report


def _has_begun(path: Path) -> bool:
    # A run that lost its manifest is damaged; one that has its recipe alone has not begun.
    begun = (schema.MANIFEST_FILE, schema.EPOCHS_FOLDER, schema.MODEL_FOLDER)
    return any((path / name).exists() for name in begun)


def _hash(report: CheckReport, name: str, entry: Mapping[str, Any], epoch: int | None = None) -> bool:
    """Compare one file with its entry in a manifest, and say whether it is whole."""
    path = report.path / name
    message = None
    if not path.is_file():
        message = "is missing"
    else:
        size = path.stat().st_size
        report.n_files += 1
        report.n_bytes += size
        if size != entry.get("bytes", size):
            message = f"has {size} bytes; the manifest says {entry['bytes']}"
        elif schema.sha256_file(path) != entry["sha256"]:
            message = "was changed: its SHA-256 is not the manifest's"
    if message:
        report.problems.append(Problem(name, epoch, message))
    return message is None


def _unexpected(report: CheckReport, folder: str, expected: Iterable[str], epoch: int | None = None) -> None:
    """Report the files below a folder that no manifest names."""
    known = set(expected)
    for path in sorted((report.path / folder).rglob("*")):
        name = path.relative_to(report.path).as_posix()
        if path.is_dir() or name in known:
            continue
        if name.endswith(schema.TEMPORARY_SUFFIX):
            report.notes.append(f"{name} is a leftover of an interrupted write")
        else:
            report.problems.append(Problem(name, epoch, "is unexpected: no manifest names it"))


def _check_config(report: CheckReport, manifest: Mapping[str, Any]) -> None:
    if "config_sha256" in manifest:
        _hash(report, schema.CONFIG_FILE, {"sha256": manifest["config_sha256"]})
    else:
        report.notes.append(f"the manifest holds no hash of {schema.CONFIG_FILE}")


def _check_tokens(report: CheckReport, manifest: Mapping[str, Any]) -> dict[str, _Tokens]:
    """Check the files of tokens, and return those that are whole, to compare epochs with."""
    entries: Mapping[str, Any] = manifest.get("tokens", {})
    whole = {}
    for split, entry in entries.items():
        name = schema.tokens_file(split)
        if not _hash(report, name, entry):
            continue
        try:
            identity = schema.tokens_identity(split)
            arrays = read_tensors(report.path / name, entry, entry["tensors"], identity=identity)
            schema.fields_of(arrays)
        except DamagedRecordError as error:
            report.problems.append(Problem(name, None, str(error)))
            continue
        predicted = schema.predicted_of(arrays)
        for key in ("reference_loss", "reference_entropy"):
            message = _misplaced(key, arrays[key], predicted)
            if message:
                report.problems.append(Problem(name, None, message))
        rows = arrays["recorded_sequence_id"]
        whole[split] = _Tokens(rows, predicted[rows])
    _unexpected(report, schema.TOKENS_FOLDER, (schema.tokens_file(split) for split in entries))
    return whole


def _check_model(report: CheckReport, manifest: Mapping[str, Any]) -> None:
    if manifest.get("status") != "complete":
        return
    if "model_files" not in manifest:
        report.notes.append(f"the manifest holds no hashes of {schema.MODEL_FOLDER}/")
        return
    for name, entry in manifest["model_files"].items():
        _hash(report, name, entry)
    _unexpected(report, schema.MODEL_FOLDER, manifest["model_files"])


def _check_metrics(report: CheckReport, manifest: Mapping[str, Any]) -> None:
    complete = manifest.get("status") == "complete"
    entry = manifest.get("metrics_file")
    if complete and entry and not _hash(report, schema.METRICS_FILE, entry):
        return
    try:
        read_metrics(report.path / schema.METRICS_FILE, running=not complete)
    except DamagedRecordError as error:
        report.problems.append(Problem(schema.METRICS_FILE, None, str(error)))


def _check_epochs(report: CheckReport, manifest: Mapping[str, Any] | None, tokens: Mapping[str, _Tokens]) -> None:
    manifest = manifest or {}
    found = []
    root = report.path / schema.EPOCHS_FOLDER
    for child in sorted(root.iterdir()) if root.is_dir() else []:
        name = child.relative_to(report.path).as_posix()
        epoch = schema.parse_epoch(child.name) if child.is_dir() else None
        if epoch is not None:
            found.append(epoch)
        elif child.name.endswith(schema.PARTIAL_SUFFIX):
            report.notes.append(f"{name} is a leftover of an interrupted epoch")
        else:
            report.problems.append(Problem(name, None, "is unexpected: it is no epoch"))

    sealed: Mapping[str, str] | None = manifest.get("epochs")
    for epoch in found:
        before = len(report.problems)
        own = _check_epoch(report, epoch, manifest.get("config_hash"), tokens)
        if own is not None:
            message = _wrong_moment(own, epoch == max(found))
            if sealed is not None and sealed.get(str(epoch)) != own[schema.SELF_HASH]:
                message = "is not the epoch that the run's manifest names"
            if message:
                report.problems.append(Problem(schema.epoch_folder(epoch), epoch, message))
        if len(report.problems) == before:
            report.good_epochs.append(epoch)

    if sealed is not None:
        for epoch in sorted({int(key) for key in sealed} - set(found)):
            report.problems.append(Problem(schema.epoch_folder(epoch), epoch, "is missing"))
    else:
        gaps = sorted(set(range(max(found, default=-1) + 1)) - set(found))
        if gaps:
            report.notes.append(f"epochs {numbers(gaps)} are not there")
        if manifest.get("status") == "complete":
            report.notes.append("the manifest does not say which epochs there should be")


def _check_epoch(
    report: CheckReport, epoch: int, config_hash: str | None, tokens: Mapping[str, _Tokens]
) -> dict[str, Any] | None:
    """Check one epoch, and return its manifest; None if that is damaged."""
    name = schema.epoch_folder(epoch)
    folder = report.path / name
    try:
        manifest = read_epoch_manifest(report.path, epoch, config_hash)
    except DamagedRecordError as error:
        report.problems.append(Problem(f"{name}/{schema.MANIFEST_FILE}", epoch, str(error)))
        return None
    report.n_files += 1
    report.n_bytes += (folder / schema.MANIFEST_FILE).stat().st_size
    files = manifest["files"]
    # All of them, not all(...) of a generator: each damaged file is to be named.
    whole = [_hash(report, f"{name}/{file}", entry, epoch) for file, entry in files.items()]
    _unexpected(report, name, (f"{name}/{f}" for f in (*files, schema.MANIFEST_FILE)), epoch)
    if all(whole):
        for split in manifest["splits"]:
            if split in tokens:
                for message in _wrong_values(folder, manifest, split, tokens[split]):
                    report.problems.append(Problem(name, epoch, f"{split}: {message}"))
    return manifest


def _wrong_moment(manifest: Mapping[str, Any], last: bool) -> str:
    """Say what is wrong with how an epoch was cut; "" if nothing is."""
    epoch, passes = manifest["epoch"], manifest.get("passes")
    if not manifest.get("partial"):
        return "" if passes is None or passes == epoch else f"is whole, and stands for {passes} passes"
    if not last:
        return "was cut, and is not the last epoch"
    cut = isinstance(passes, float) and epoch - 1 < passes < epoch
    return "" if cut else f"was cut, and stands for {passes!r} passes, which are not those of a part of epoch {epoch}"


def _wrong_values(folder: Path, manifest: Mapping[str, Any], split: str, tokens: _Tokens) -> list[str]:
    """Say which values of an epoch are not where they should be: intact files, wrong content."""
    messages = []
    predicted = tokens.predicted
    try:
        for key in ("loss", "entropy"):
            values = read_epoch(folder, manifest, split, key, tokens.sequence_id)
            messages.append(_misplaced(key, values, predicted))
        for key in schema.TRAINING_VALUES:
            seen = read_epoch(folder, manifest, split, key, tokens.sequence_id, optional=True)
            if seen is not None and (~np.isnan(seen) & ~predicted).any():
                messages.append(f"{key} has values at tokens that have no prediction")
        for key in ("correct", "dropped"):
            bits = read_epoch(folder, manifest, split, key, tokens.sequence_id, optional=True)
            if bits is not None:
                marked = schema.unpack_bits(bits, predicted.shape[1]) & ~predicted
                if marked.any():
                    messages.append(f"{marked.sum()} tokens without a prediction are {key}")
    except DamagedRecordError as error:
        messages.append(str(error))
    return [message for message in messages if message]


def _misplaced(key: str, values: Array | None, predicted: Array) -> str:
    """Say where values are not NaN exactly where nothing is predicted; "" if they are."""
    assert values is not None
    if values.shape != predicted.shape:
        return f"{key} is {values.shape}, the tokens are {predicted.shape}"
    undefined = np.isnan(values)
    lost = int(np.count_nonzero(undefined & predicted))
    if lost:
        return f"{key} is NaN at {lost} predicted tokens: training diverged, or values were lost"
    extra = int(np.count_nonzero(~undefined & ~predicted))
    return f"{key} has values at {extra} tokens that have no prediction" if extra else ""
