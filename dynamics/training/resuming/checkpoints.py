"""Atomic checkpoints: written to a temporary folder, hashed, then renamed; and the newest one that is complete."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dynamics.errors import DamagedRecordError
from dynamics.records import schema

_PREFIX = "checkpoint-"
_STAGING = "next" + schema.PARTIAL_SUFFIX
_PROBE_BYTES = 1 << 20


@contextmanager
def telling_full_disk(folder: Path) -> Iterator[None]:
    """Raise OSError (ENOSPC or EDQUOT) instead of what libraries raise when the disk below `folder` is full.

    torch and safetensors do their own writing: torch says "unexpected pos", safetensors has its own error class.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        refusal = _refusal(folder)
        if refusal is None:
            raise
        raise OSError(refusal.errno, os.strerror(refusal.errno or 0), str(folder)) from error


def _refusal(folder: Path) -> OSError | None:
    """Return the error that the system gives for writing more bytes below `folder`, or None."""
    probe = folder / f"room{schema.TEMPORARY_SUFFIX}"
    try:
        with open(probe, "wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    finally:
        probe.unlink(missing_ok=True)
    return None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: its folder, its last finished epoch, and its optimiser step."""

    path: Path
    epoch: int
    step: int


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder : Path
    config_hash : str
        Hash of the run's recipe. Checkpoints of other runs are ignored.
    keep : int
        How many to keep. Older ones are removed once a newer one is complete.
    """

    def __init__(self, folder: Path, *, config_hash: str, keep: int = 2) -> None:
        self.folder = folder
        self._config_hash = config_hash
        self._keep = keep

    @contextmanager
    def writing(self, *, epoch: int, step: int, main_process: bool, wait: Callable[[], None]) -> Iterator[Path]:
        """Yield the folder in which the Trainer writes ``checkpoint-STEP``. On exit it becomes a checkpoint.

        Parameters
        ----------
        epoch, step : int
            Epochs and steps that are trained.
        main_process : bool
            Whether this process creates the folder and writes its manifest.
        wait : callable
            Waits for all ranks.
        """
        staging = self.folder / _STAGING
        if main_process:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        wait()
        with telling_full_disk(self.folder):
            yield staging
        wait()
        if main_process:
            self._seal(staging, epoch=epoch, step=step)
        wait()

    def latest(self, *, on_skip: Callable[[str], None] = lambda reason: None) -> Iterator[Checkpoint]:
        """Yield the complete checkpoints, newest first. Every byte of them is hashed.

        Parameters
        ----------
        on_skip : callable
            Called with the reason why a folder is not a complete checkpoint of this run.
        """
        found = [(int(path.name.removeprefix(_PREFIX)), path) for path in self._folders()]
        for step, path in sorted(found, reverse=True):
            problem = self._problem(path)
            if problem is not None:
                on_skip(f"{path.name} is skipped: {problem}")
                continue
            manifest = schema.read_manifest(path / schema.MANIFEST_FILE)
            yield Checkpoint(path=path, epoch=int(manifest["epoch"]), step=step)

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if path.is_dir() and path.name.removeprefix(_PREFIX).isdecimal()]

    def _seal(self, staging: Path, *, epoch: int, step: int) -> None:
        written = staging / f"{_PREFIX}{step}"
        files = sorted(path for path in written.rglob("*") if path.is_file())
        for path in files:
            # The files must be on the disk before the manifest lists them.
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        manifest = {
            "format_version": schema.FORMAT_VERSION,
            "epoch": epoch,
            "step": step,
            "config_hash": self._config_hash,
            "files": {path.relative_to(written).as_posix(): schema.file_entry(path) for path in files},
        }
        schema.write_manifest(written / schema.MANIFEST_FILE, manifest)
        final = self.folder / written.name
        shutil.rmtree(final, ignore_errors=True)  # incomplete, otherwise the run would have resumed from it
        os.rename(written, final)
        schema.fsync_folder(self.folder)
        shutil.rmtree(staging, ignore_errors=True)
        steps = sorted((int(path.name.removeprefix(_PREFIX)) for path in self._folders()), reverse=True)
        for old in steps[self._keep :]:
            self._remove(self.folder / f"{_PREFIX}{old}")

    def _remove(self, path: Path) -> None:
        # Rename first, so that a process killed here leaves no folder that looks like a checkpoint.
        gone = path.with_name(path.name + schema.PARTIAL_SUFFIX)
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        shutil.rmtree(gone)

    def _problem(self, path: Path) -> str | None:
        try:
            manifest = schema.read_manifest(path / schema.MANIFEST_FILE)
        except DamagedRecordError as error:
            return str(error)
        if manifest.get("config_hash") != self._config_hash:
            return "it belongs to a run of another recipe"
        for name, entry in manifest["files"].items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if schema.file_entry(file) != entry:
                return f"{name} was changed after it was written"
        return None
