"""Writing a run: its tokens, its epochs, its metrics and what its manifest says when it is done.

The order is: `write_tokens` for each split, then epoch by epoch `write_epoch`. Several processes
each call `write_shard`, wait for one another, and process 0 calls `seal_epoch`. The same values
always give the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from dynamics.errors import DamagedRecordError
from dynamics.predicted import predicted_mask
from dynamics.records import schema
from dynamics.records.metrics import append_metrics, rewind_metrics
from dynamics.records.tensors import describe_tensors, read_identity, write_tensors

__all__ = [
    "SplitValues",
    "append_metrics",
    "discard_epochs",
    "finished_files",
    "rewind_metrics",
    "seal_epoch",
    "write_epoch",
    "write_shard",
    "write_tokens",
]

PathLike = str | os.PathLike[str]


class PackedTokens(Protocol):
    """What `write_tokens` needs of a packed split; `dynamics.corpus.packing.PackedSplit` has it."""

    @property
    def token_id(self) -> npt.NDArray[Any]: ...
    @property
    def document_id(self) -> npt.NDArray[Any]: ...
    @property
    def byte_start(self) -> npt.NDArray[Any]: ...
    @property
    def byte_end(self) -> npt.NDArray[Any]: ...
    @property
    def text(self) -> npt.NDArray[Any]: ...
    @property
    def text_offset(self) -> npt.NDArray[Any]: ...
    @property
    def document_hash(self) -> npt.NDArray[Any]: ...
    def tokens_hash(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitValues:
    """What was measured on some sequences of one split after one epoch.

    Parameters
    ----------
    sequence_id
        (S,) integers, each once, in any order.
    loss, entropy
        (S, P) floats in nats, NaN where nothing is predicted.
    correct
        (S, P) bool, whether the token was the most probable one; false where nothing is predicted.
    dropped
        (S, P) bool, what the regulariser dropped while training this epoch, or None: nothing.
    training_loss, training_entropy
        (S, P) floats in nats, what the optimiser saw in this epoch, NaN where it saw nothing; or None: not recorded.
    """

    sequence_id: npt.NDArray[Any]
    loss: npt.NDArray[Any]
    entropy: npt.NDArray[Any]
    correct: npt.NDArray[np.bool_]
    dropped: npt.NDArray[np.bool_] | None = None
    training_loss: npt.NDArray[Any] | None = None
    training_entropy: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        assert self.sequence_id.ndim == 1 and self.loss.ndim == 2, "sequence_id (S,), loss (S, P)"
        assert len(self.sequence_id) == len(self.loss), "one row a sequence"
        for other in (self.entropy, self.correct, self.dropped, self.training_loss, self.training_entropy):
            assert other is None or other.shape == self.loss.shape, "values are (S, P) like loss"


# --------------------------------------------------------------------------------------- tokens


def write_tokens(
    run_dir: PathLike,
    split: str,
    packed: PackedTokens,
    *,
    reference_loss: npt.NDArray[Any],
    reference_entropy: npt.NDArray[Any],
    recorded_sequence_id: npt.NDArray[Any],
    unlabelled: npt.NDArray[np.bool_] | None = None,
    document_fields: Mapping[str, Sequence[Any]] | None = None,
) -> dict[str, Any]:
    """Write the tokens, texts and reference values of one split, atomically.

    Parameters
    ----------
    packed
        The whole split, recorded or not.
    reference_loss, reference_entropy
        (S, B) floats of the frozen starting model, NaN where nothing is predicted.
    recorded_sequence_id
        (S,) the sequences, rows of `packed`, whose values are recorded after every epoch.
    unlabelled
        (S, B) bool, tokens that are not predicted although their document goes on: a prompt's, say.
    document_fields
        By name, a JSON scalar for every document of the split.

    Returns
    -------
    dict
        The entry for ``manifest["tokens"][split]``, to be put there as it is.
    """
    shape = packed.token_id.shape
    recorded = np.sort(np.asarray(recorded_sequence_id))
    assert reference_loss.shape == reference_entropy.shape == shape, "reference values are (S, B)"
    assert len(np.unique(recorded)) == len(recorded), "a sequence is recorded once"
    assert not len(recorded) or 0 <= recorded[0] <= recorded[-1] < shape[0], "ids are rows"
    name = schema.tokens_file(split)
    path = Path(run_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    predicted = predicted_mask(packed.document_id)
    marked = {}
    if unlabelled is not None:
        predicted &= ~unlabelled
        marked = {"unlabelled": schema.pack_bits(unlabelled)}
    if document_fields:
        marked["document_fields"] = schema.pack_fields(document_fields, n_documents=len(packed.text_offset) - 1)
    write_tensors(
        path,
        {
            **marked,
            "token_id": packed.token_id.astype(np.int32),
            "document_id": packed.document_id.astype(np.int32),
            "byte_start": packed.byte_start.astype(np.int32),
            "byte_end": packed.byte_end.astype(np.int32),
            "reference_loss": schema.quantise(reference_loss, "float32")[0],
            "reference_entropy": schema.quantise(reference_entropy, "float32")[0],
            "recorded_sequence_id": recorded.astype(np.int32),
            "text": packed.text.astype(np.uint8),
            "text_offset": packed.text_offset.astype(np.int64),
            "document_hash": packed.document_hash.astype(np.uint8),
        },
        schema.tokens_identity(split),
    )
    return {
        "file": name,
        **describe_tensors(path),
        "tokens_hash": packed.tokens_hash(),
        "n_sequences": int(shape[0]),
        "n_recorded": len(recorded),
        "n_predicted": int(predicted.sum()),
        "n_documents": len(packed.text_offset) - 1,
    }


# --------------------------------------------------------------------------------------- epochs


def write_epoch(
    run_dir: PathLike,
    epoch: int,
    splits: Mapping[str, SplitValues],
    *,
    config_hash: str,
    dtype: str = "float16",
    step: int | None = None,
    passes: float | None = None,
) -> Path:
    """Write one epoch's records from a single process: one shard, then sealed.

    Returns the folder of the epoch. What an interrupted attempt left is replaced or removed. See
    `write_shard` and `seal_epoch` for errors.

    Parameters
    ----------
    splits
        The values by split; each split's tokens were written before.
    config_hash
        That of the run's manifest.
    dtype
        "float16" or "float32", the type of loss and entropy on disk.
    step, passes
        As for `seal_epoch`.
    """
    write_shard(run_dir, epoch, splits, rank=0, world=1, dtype=dtype)
    return seal_epoch(run_dir, epoch, splits=list(splits), world=1, config_hash=config_hash, step=step, passes=passes)


def write_shard(
    run_dir: PathLike,
    epoch: int,
    splits: Mapping[str, SplitValues],
    *,
    rank: int,
    world: int,
    dtype: str = "float16",
) -> None:
    """Write what one of several processes measured, into the folder of an epoch not yet sealed.

    Every process must write every split, with no rows (shape (0, B)) where it measured none.
    A file that an interrupted attempt left under the same name is replaced.

    Raises
    ------
    FileExistsError
        If the epoch is already there.
    """
    assert 0 <= rank < world, f"rank {rank} of {world}"
    partial = _partial_folder(run_dir, epoch)
    partial.mkdir(parents=True, exist_ok=True)
    for split, values in splits.items():
        order = np.argsort(values.sequence_id, kind="stable")
        loss, clipped_loss = schema.quantise(values.loss[order], dtype)
        entropy, clipped_entropy = schema.quantise(values.entropy[order], dtype)
        tensors: dict[str, npt.NDArray[Any]] = {
            "sequence_id": values.sequence_id[order].astype(np.int32),
            "loss": loss,
            "entropy": entropy,
            "correct": schema.pack_bits(values.correct[order]),
        }
        if values.dropped is not None:
            tensors["dropped"] = schema.pack_bits(values.dropped[order])
        for name in schema.TRAINING_VALUES:
            seen = getattr(values, name)
            if seen is not None:
                tensors[name] = schema.quantise(seen[order], dtype)[0]
        write_tensors(
            partial / schema.shard_file(split, rank, world),
            tensors,
            {
                **schema.shard_identity(epoch, split, rank, world),
                "clipped": {"loss": clipped_loss, "entropy": clipped_entropy},
            },
        )


def seal_epoch(
    run_dir: PathLike,
    epoch: int,
    *,
    splits: Sequence[str],
    world: int,
    config_hash: str,
    step: int | None = None,
    passes: float | None = None,
) -> Path:
    """Make the shards of all processes one immutable epoch, and return its folder.

    To be called by one process, after all of them have returned from `write_shard`. Files of an
    earlier attempt that do not belong to these splits and processes are removed.

    Parameters
    ----------
    splits
        Those that were written.
    world
        The number of processes.
    config_hash
        That of the run's manifest.
    step
        Optimiser steps of the run so far, if known.
    passes
        Passes over the training data so far, in (`epoch` - 1, `epoch`]. One that is not `epoch` itself, 2.5 for epoch
        3, says that the epoch was cut: it is the last one then. Left out, the epoch is whole.

    Raises
    ------
    FileExistsError
        If the epoch is already there.
    DamagedRecordError
        If a shard is missing, or the shards together do not hold exactly the sequences that
        ``tokens/`` names as recorded, each once.
    """
    moment = schema.epoch_moment(epoch, step, passes)
    partial = _partial_folder(run_dir, epoch)
    final = Path(run_dir) / schema.epoch_folder(epoch)
    names = [schema.shard_file(split, rank, world) for split in splits for rank in range(world)]
    missing = [name for name in names if not (partial / name).is_file()]
    if missing:
        raise DamagedRecordError(f"Epoch {epoch} cannot be completed: {', '.join(missing)} not written in {partial}")
    for path in partial.iterdir():
        if path.name not in names:
            path.unlink()
    for split in splits:
        _require_recorded(Path(run_dir), epoch, split, world)
    schema.write_manifest(
        partial / schema.MANIFEST_FILE,
        {
            "format_version": schema.FORMAT_VERSION,
            "epoch": epoch,
            **moment,
            "config_hash": config_hash,
            "world": world,
            "splits": schema.in_split_order(splits),
            "files": {
                name: {
                    **describe_tensors(partial / name),
                    "clipped": read_identity(partial / name)["clipped"],
                }
                for name in names
            },
        },
    )
    os.rename(partial, final)
    schema.fsync_folder(final.parent)
    return final


def discard_epochs(run_dir: PathLike, *, after: int) -> list[int]:
    """Remove the epochs later than `after`, so that a resumed run can write them again.

    Returns the epochs that were removed. Each stops being an epoch in one step, by being renamed.
    """
    folder = Path(run_dir) / schema.EPOCHS_FOLDER
    found = {schema.parse_epoch(path.name): path for path in folder.glob("epoch-*")}
    discarded = sorted(epoch for epoch in found if epoch is not None and epoch > after)
    for epoch in discarded:
        partial = _partial_name(run_dir, epoch)
        if partial.exists():
            shutil.rmtree(partial)
        os.rename(found[epoch], partial)
        shutil.rmtree(partial)
    return discarded


def _partial_name(run_dir: PathLike, epoch: int) -> Path:
    return Path(run_dir) / (schema.epoch_folder(epoch) + schema.PARTIAL_SUFFIX)


def _partial_folder(run_dir: PathLike, epoch: int) -> Path:
    final = Path(run_dir) / schema.epoch_folder(epoch)
    if final.exists():
        raise FileExistsError(f"{final} is there already: an epoch is never overwritten (discard_epochs removes it)")
    return _partial_name(run_dir, epoch)


def _require_recorded(run_dir: Path, epoch: int, split: str, world: int) -> None:
    with safe_open(run_dir / schema.tokens_file(split), framework="numpy") as file:
        expected = file.get_tensor("recorded_sequence_id")
    partial = _partial_name(run_dir, epoch)
    shards = []
    for rank in range(world):
        path = partial / schema.shard_file(split, rank, world)
        with safe_open(path, framework="numpy") as file:
            shards.append(file.get_tensor("sequence_id"))
    found = np.sort(np.concatenate(shards))
    if not np.array_equal(found, expected):
        raise DamagedRecordError(
            f"Epoch {epoch} of {split} cannot be completed: " + schema.difference_of_sequences(found, expected)
        )


# ------------------------------------------------------------------------------- the whole run


def finished_files(run_dir: PathLike) -> dict[str, Any]:
    """Return the entries that the manifest of a complete run needs for a full check.

    Returns
    -------
    dict
        ``model_files`` and ``metrics_file`` (SHA-256 and size), and ``epochs``, the self-hash of
        each epoch's manifest. To be merged into the manifest when its status becomes "complete".
    """
    run_dir = Path(run_dir)
    model = run_dir / schema.MODEL_FOLDER
    metrics = run_dir / schema.METRICS_FILE
    folders = (run_dir / schema.EPOCHS_FOLDER).glob("epoch-*")
    found = {schema.parse_epoch(path.name): path for path in folders}
    return {
        "model_files": {
            path.relative_to(run_dir).as_posix(): schema.file_entry(path)
            for path in sorted(model.rglob("*"))
            if path.is_file()
        },
        "metrics_file": schema.file_entry(metrics) if metrics.exists() else None,
        "epochs": {
            str(epoch): schema.read_manifest(path / schema.MANIFEST_FILE)[schema.SELF_HASH]
            for epoch, path in sorted((e, p) for e, p in found.items() if e is not None)
        },
    }
