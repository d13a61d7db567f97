"""The files of a summary: names, what their headers say, and adding a run to those that are there.

    studies/NAME/
      study.json                     sealed: what the runs share, and the SHA-256 and layout of every other file
      shared.safetensors             hashes of documents; their tokens and bytes by bucket; the bucket of every token
      ARM/seed-S.safetensors         sums by epoch, document and bucket; the run's facts, recipe and step log
      tuning.json                    what was chosen by trials, where the study tunes

Nothing is pickled, and there is no text. Tensors are named ``SPLIT/WHAT``, those of a group of tokens
``SPLIT/group:NAME/WHAT``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.tensors import Array, describe_tensors, write_tensors

SUMMARY_FILE = schema.SUMMARY_FILE
SHARED_FILE = "shared.safetensors"
SUMMARY_VERSION = 1

#: The values whose sums are kept, and their types: sums of what was recorded as float16 are exact in float64.
VALUES = {"loss": "float64", "entropy": "float64", "correct": "int32"}

#: Columns of the step log, in their order; NaN where a step has none.
STEP_COLUMNS = ("step", "epoch", "learning_rate", "ratio", "training_loss", "dropped_share")


def is_summary(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a summary."""
    return (Path(path) / SUMMARY_FILE).is_file()


def run_file(arm: str, seed: int) -> str:
    """Return the path, relative to the summary, of the sums of a run."""
    return f"{arm}/seed-{seed}.safetensors"


def tensor(split: str, what: str, group: str | None = None) -> str:
    """Return the name of a tensor."""
    return f"{split}/{what}" if group is None else f"{split}/group:{group}/{what}"


def shared_identity() -> dict[str, Any]:
    """Return what the header of the shared file must say."""
    return {"kind": "summary", "summary_version": SUMMARY_VERSION, "of": "study"}


def run_identity(arm: str, seed: int) -> dict[str, Any]:
    """Return what the header of a run's file must say, so that swapped files are found."""
    return {"kind": "summary", "summary_version": SUMMARY_VERSION, "of": "run", "arm": arm, "seed": seed}


def read_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of ``study.json``.

    Raises
    ------
    InputError
        If there is no summary at `path`, or one of a later version.
    DamagedRecordError
        If the file differs in any byte from what was written.
    """
    file = Path(path) / SUMMARY_FILE
    if not file.is_file():
        raise InputError(
            f"{path} holds no summary (no {SUMMARY_FILE}): 'dynamics summarize STUDY --output DIR' makes one"
        )
    content = schema.read_manifest(file)
    if content.get("summary_version") != SUMMARY_VERSION:
        raise InputError(
            f"{path} is a summary of version {content.get('summary_version')!r}, and this version reads "
            f"{SUMMARY_VERSION}: use the version of dynamics that wrote it"
        )
    missing = [key for key in ("arms", "splits", "edges", "groups", "shared", "runs") if key not in content]
    if missing:
        raise DamagedRecordError(f"{file} does not say {', '.join(missing)}: it is no summary's")
    return content


def write_shared(path: Path, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """Write what the runs share; returns its entry for ``study.json``."""
    path.mkdir(parents=True, exist_ok=True)
    write_tensors(path / SHARED_FILE, tensors, shared_identity())
    return describe_tensors(path / SHARED_FILE)


def write_run(path: Path, arm: str, seed: int, tensors: Mapping[str, Array], told: Mapping[str, Any]) -> dict[str, Any]:
    """Write the sums of a run, with what is told of it in the header; returns its entry for ``study.json``."""
    file = path / run_file(arm, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(file, tensors, {**run_identity(arm, seed), **told})
    return describe_tensors(file)


def write_summary(path: Path, content: Mapping[str, Any]) -> None:
    """Seal and write ``study.json``: last of all, so that it never names a file that is not whole."""
    schema.write_manifest(path / SUMMARY_FILE, {**content, "summary_version": SUMMARY_VERSION})
