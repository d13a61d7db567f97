"""How large records are, worked out from shapes, against the files that the writer writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamics.corpus.packing import PackedSplit
from dynamics.records.writer import SplitValues, seal_epoch, write_shard, write_tokens
from dynamics.training.recording.record_sizes import RecordedSplit, record_bytes

TEXTS = [b"one", b"two two", "drei — drei".encode()]


def packed(n_sequences: int, block_size: int) -> PackedSplit:
    shape = (n_sequences, block_size)
    return PackedSplit(
        token_id=np.ones(shape, np.int32),
        document_id=np.zeros(shape, np.int32),
        byte_start=np.zeros(shape, np.int32),
        byte_end=np.ones(shape, np.int32),
        text=np.frombuffer(b"".join(TEXTS), np.uint8),
        text_offset=np.cumsum([0, *map(len, TEXTS)], dtype=np.int64),
        document_hash=np.zeros((len(TEXTS), 32), np.uint8),
    )


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize(("dtype", "drops", "seen"), [("float16", True, False), ("float32", False, True)])
def test_sizes_are_those_of_the_files(tmp_path: Path, world: int, dtype: str, drops: bool, seen: bool) -> None:
    shapes = {"train": (7, 9, 5), "validation": (4, 9, 4)}
    for split, (n, block, recorded) in shapes.items():
        values = np.zeros((n, block))
        fields = {"source": ["a", None, "ß"]} if split == "train" else None
        write_tokens(
            tmp_path,
            split,
            packed(n, block),
            reference_loss=values,
            reference_entropy=values,
            recorded_sequence_id=np.arange(recorded),
            document_fields=fields,
        )
    for epoch in range(3):
        for rank in range(world):
            found = {}
            for split, (_, block, recorded) in shapes.items():
                rows = np.arange(rank, recorded, world)
                zeros = np.zeros((len(rows), block))
                more = {}
                if split == "train" and drops:
                    more["dropped"] = zeros > 0
                if split == "train" and seen and epoch:
                    more |= {"training_loss": zeros, "training_entropy": zeros}
                found[split] = SplitValues(sequence_id=rows, loss=zeros, entropy=zeros, correct=zeros > 0, **more)
            write_shard(tmp_path, epoch, found, rank=rank, world=world, dtype=dtype)
        seal_epoch(
            tmp_path, epoch, splits=list(shapes), world=world, config_hash="f" * 64, step=epoch * 11, passes=epoch
        )
    splits = {
        split: RecordedSplit(
            sequences=n,
            block_size=block,
            recorded=recorded,
            documents=len(TEXTS),
            text_bytes=sum(map(len, TEXTS)),
            fields_bytes=len(b'{"source":["a",null,"\\u00df"]}') if split == "train" else 0,
        )
        for split, (n, block, recorded) in shapes.items()
    }
    tokens, epochs = record_bytes(
        splits, epochs=2, steps_per_epoch=11, value_dtype=dtype, drops=drops, training_pass=seen, processes=world
    )
    assert tokens == on_disk(tmp_path / "tokens")
    assert epochs == on_disk(tmp_path / "epochs")
