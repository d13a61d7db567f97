"""A run on disk: where none is, which epochs are whole, what their manifests say, and one tensor of one epoch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics import records
from dynamics.display.described import Described
from dynamics.display.tables import Card, Table
from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.tensors import Array, Hashes, read_tensors

if TYPE_CHECKING:
    from dynamics.records.reader import Run


class OnDisk(Described):
    """A run or a study, whose picture is made by rooms on the right (`dynamics.records.load_describer`)."""

    def _described(self) -> Table | Card:
        assert records.load_describer is not None, "the package's face sets it before anything can be opened"
        found: Table | Card = records.load_describer()(self)
        return found


def shown_path(path: Path, name: str | None = None) -> str:
    """Return how a run or a study is called when it shows itself: its place in the working directory, or its name.

    A whole path would put the machine's folders into every notebook; ``path`` has it. A run of a study is
    ``ARM/seed-S``, and a folder of the cache, which a hash names, is `name`.
    """
    full = Path(os.path.abspath(path))
    if name and re.fullmatch(r"[0-9a-f]{32,64}", full.name):
        return name
    here = Path.cwd()
    if here in full.parents:
        return full.relative_to(here).as_posix()
    return "/".join(full.parts[-2:]) if full.parent.parent.name == schema.RUNS_FOLDER else full.name


def not_there(path: str | os.PathLike[str], wanted: str, file: str) -> InputError:
    """Return the error for a folder in which something is looked for and is not; it says what is there instead.

    Parameters
    ----------
    path : path
    wanted : str
        ``study``, ``run``, or both.
    file : str
        The file, or files, that would make it one.
    """
    folder = Path(path)
    if (folder / schema.SUMMARY_FILE).is_file():
        return InputError(
            f"{path} is the summary of a study, which keeps sums and no tokens, and this needs a {wanted}: give the "
            "study that it was made from (dynamics figures, dynamics check and dynamics.open_summary read summaries)"
        )
    if (folder / schema.STUDY_FILE).is_file():
        begun = sorted(folder.glob(f"{schema.RUNS_FOLDER}/*/*/{schema.MANIFEST_FILE}"))[:1]
        such = "".join(f", such as {file.parent}" for file in begun)
        return InputError(f"{path} is a study, and this needs a run: give one of its runs{such}")
    if (folder / schema.MANIFEST_FILE).is_file():
        return InputError(f"{path} is a run, and this needs a study: give the directory of the study, or train one")
    return InputError(f"{path} holds no {wanted} (no {file}): give a directory that dynamics train or study wrote")


def complete_epochs(run_dir: Path) -> list[int]:
    """Return the epochs of a run that are whole: those whose folder has a manifest."""
    folders = (run_dir / schema.EPOCHS_FOLDER).glob("epoch-*")
    found = [schema.parse_epoch(f.name) for f in folders if (f / schema.MANIFEST_FILE).is_file()]
    return sorted(epoch for epoch in found if epoch is not None)


def read_epoch_manifest(run_dir: Path, epoch: int, config_hash: str | None) -> dict[str, Any]:
    """Read the manifest of an epoch, and see that it is this epoch's and this run's.

    Parameters
    ----------
    config_hash
        That of the run; None to leave the comparison out.

    Raises
    ------
    DamagedRecordError
        If it is damaged, or belongs elsewhere.
    """
    path = run_dir / schema.epoch_folder(epoch) / schema.MANIFEST_FILE
    manifest = schema.read_manifest(path)
    version = manifest.get("format_version")
    if version not in schema.READABLE_VERSIONS:
        readable = " or ".join(map(str, schema.READABLE_VERSIONS))
        raise DamagedRecordError(f"{path} belongs elsewhere: its format_version is {version!r}, not {readable}")
    expected: dict[str, Any] = {"epoch": epoch}
    if config_hash is not None:
        expected["config_hash"] = config_hash
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise DamagedRecordError(f"{path} belongs elsewhere: its {key} is {manifest.get(key)!r}, not {value!r}")
    return manifest


def sealed_epoch_manifest(run: Run, epoch: int) -> dict[str, Any]:
    """Read the manifest of an epoch as `read_epoch_manifest` does; of a complete run it is the one that it ended with.

    Raises
    ------
    DamagedRecordError
        If it is damaged, or another one: an older copy of the same epoch, say.
    """
    manifest = read_epoch_manifest(run.path, epoch, run.manifest["config_hash"])
    named: Mapping[str, str] | None = run.manifest.get("epochs")
    if named is not None and named.get(str(epoch)) != manifest[schema.SELF_HASH]:
        folder = run.path / schema.epoch_folder(epoch)
        raise DamagedRecordError(f"{folder} is not the epoch that {run.path / schema.MANIFEST_FILE} names")
    return manifest


def read_epoch(
    folder: Path,
    manifest: Mapping[str, Any],
    split: str,
    name: str,
    sequence_id: Array,
    *,
    optional: bool = False,
    mapped: bool = False,
    hashes: Hashes | None = None,
) -> Array | None:
    """Read one tensor of one epoch from all its shards, rows in the order of `sequence_id`.

    Returns None when `optional` and no shard has it. `mapped`: a single shard is not copied; `hashes`: files are
    hashed first (both as `read_tensors` does).

    Raises
    ------
    DamagedRecordError
        If a shard is damaged, or the shards do not hold each of the sequences once.
    """
    epoch, world = manifest["epoch"], manifest["world"]
    ids, values = [], []
    for rank in range(world):
        file = schema.shard_file(split, rank, world)
        if file not in manifest["files"]:
            raise DamagedRecordError(f"{folder / schema.MANIFEST_FILE} does not list {file}")
        entry = manifest["files"][file]
        absent = optional and name not in entry["tensors"]
        tensors = read_tensors(
            folder / file,
            entry,
            ["sequence_id"] if absent else ["sequence_id", name],
            identity=schema.shard_identity(epoch, split, rank, world),
            mapped=mapped,
            hashes=hashes,
        )
        ids.append(tensors["sequence_id"])
        values.append(tensors.get(name))
    present = [value for value in values if value is not None]
    if not present:
        return None
    if len(present) < len(values):
        raise DamagedRecordError(f"{folder}: only some of the {split} shards hold {name!r}")
    if len(present) == 1 and np.array_equal(ids[0], sequence_id):
        return present[0]  # In order already, as one process writes it: no copy.
    merged = np.concatenate(ids)
    order = np.argsort(merged, kind="stable")
    if not np.array_equal(merged[order], sequence_id):
        difference = schema.difference_of_sequences(merged, sequence_id)
        raise DamagedRecordError(f"{folder}, {split}: {difference}")
    joined: Array = np.concatenate(present)[order]
    return joined


def good_epochs(run: Run) -> list[int]:
    """Return the epochs that pass the cheap checks: manifest, and sizes of all files."""
    good = []
    for epoch in run.epochs:
        folder = run.path / schema.epoch_folder(epoch)
        try:
            manifest = sealed_epoch_manifest(run, epoch)
            sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        except (DamagedRecordError, OSError):
            continue
        if all(size == manifest["files"][name]["bytes"] for name, size in sizes.items()):
            good.append(epoch)
    return good


def numbers(values: list[int]) -> str:
    """List numbers for a message; "none" when there are none."""
    return ", ".join(str(value) for value in values) or "none"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a recipe on disk; InputError if it cannot be read, or is no mapping."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no recipe: a YAML mapping was expected")
    return content
