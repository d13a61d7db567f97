"""The size of a run's records in bytes, computed from shapes and dtypes, as `records.writer` would write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamics.records import schema

# Names and bytes of the dtypes in records.
_CODES = {"float16": ("F16", 2), "float32": ("F32", 4), "int32": ("I32", 4), "int64": ("I64", 8), "uint8": ("U8", 1)}
_SHA256 = "0" * 64

#: The dtype and the shape of each tensor.
Layout = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class RecordedSplit:
    """What determines the size of a split's records.

    Attributes
    ----------
    sequences, block_size : int
        The shape of the split: S sequences, P positions.
    recorded : int
        Sequences that are recorded after every epoch.
    documents, text_bytes : int
        For the whole split.
    fields_bytes : int
        Bytes of document fields other than the text; 0 if there are none.
    """

    sequences: int
    block_size: int
    recorded: int
    documents: int
    text_bytes: int
    fields_bytes: int = 0


def record_bytes(
    splits: Mapping[str, RecordedSplit],
    *,
    epochs: int,
    steps_per_epoch: int,
    value_dtype: str,
    drops: bool,
    training_pass: bool,
    processes: int = 1,
) -> tuple[int, int]:
    """Return the sizes in bytes of the folders ``tokens/`` and ``epochs/`` of a run.

    Parameters
    ----------
    splits : mapping of str to RecordedSplit
    epochs, steps_per_epoch : int
        Epoch 0, before training, is recorded too.
    value_dtype : str
        ``float16`` or ``float32``.
    drops, training_pass : bool
        Whether masks, and the values that the optimiser saw, are recorded for the training set.
    processes : int
        Number of ranks W. Each writes a shard of every split; rank r records every W-th sequence, starting at r.
    """
    tokens = sum(
        _file_bytes(_tokens_layout(one), {"dynamics": schema.tokens_identity(split)}) for split, one in splits.items()
    )
    total = 0
    for epoch in range(epochs + 1):
        files: dict[str, Any] = {}
        for split, one in splits.items():
            seen = split == "train" and epoch > 0
            for rank in range(processes):
                rows = len(range(rank, one.recorded, processes))
                layout = _epoch_layout(
                    (rows, one.block_size), value_dtype, drops=drops and split == "train", seen=seen and training_pass
                )
                clipped = {"loss": 0, "entropy": 0}
                identity = {**schema.shard_identity(epoch, split, rank, processes), "clipped": clipped}
                size = _file_bytes(layout, {"dynamics": identity})
                files[schema.shard_file(split, rank, processes)] = {
                    "sha256": _SHA256,
                    "bytes": size,
                    "tensors": {
                        name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in layout.items()
                    },
                    "clipped": clipped,
                }
                total += size
        content = {
            "format_version": schema.FORMAT_VERSION,
            "epoch": epoch,
            **schema.epoch_moment(epoch, epoch * steps_per_epoch, float(epoch)),
            "config_hash": _SHA256,
            "world": processes,
            "splits": schema.in_split_order(splits),
            "files": files,
        }
        total += len(json.dumps({**content, schema.SELF_HASH: _SHA256}, indent=2)) + 1
    return tokens, total


def _tokens_layout(split: RecordedSplit) -> Layout:
    shape = (split.sequences, split.block_size)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        **dict.fromkeys(("token_id", "document_id", "byte_start", "byte_end"), ("int32", shape)),
        **dict.fromkeys(("reference_loss", "reference_entropy"), ("float32", shape)),
        "recorded_sequence_id": ("int32", (split.recorded,)),
        "text": ("uint8", (split.text_bytes,)),
        "text_offset": ("int64", (split.documents + 1,)),
        "document_hash": ("uint8", (split.documents, 32)),
    }
    if split.fields_bytes:
        layout["document_fields"] = ("uint8", (split.fields_bytes,))
    return layout


def _epoch_layout(shape: tuple[int, int], value_dtype: str, *, drops: bool, seen: bool) -> Layout:
    bits = (shape[0], -(-shape[1] // 8))
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "sequence_id": ("int32", shape[:1]),
        "loss": (value_dtype, shape),
        "entropy": (value_dtype, shape),
        "correct": ("uint8", bits),
    }
    if drops:
        layout["dropped"] = ("uint8", bits)
    if seen:
        layout |= dict.fromkeys(schema.TRAINING_VALUES, (value_dtype, shape))
    return layout


def _file_bytes(layout: Layout, metadata: Mapping[str, Any]) -> int:
    """Return the size of a safetensors file: 8 bytes, a JSON header padded to a multiple of 8, and the tensors."""
    texts = {name: schema.canonical_json(value).decode("ascii") for name, value in metadata.items()}
    header: dict[str, Any] = {"__metadata__": texts}
    at = 0
    # safetensors sorts wide types first, then by name, so that every tensor is aligned.
    for name, (dtype, shape) in sorted(layout.items(), key=lambda one: (-_CODES[one[1][0]][1], one[0])):
        code, width = _CODES[dtype]
        size = width
        for extent in shape:
            size *= extent
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + at
