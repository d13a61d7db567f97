"""The analysis reads records as they are stored, and memory does not grow with the number of epochs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.analysis.sums.document_sums import sums_by_value
from dynamics.analysis.tokens.buckets import entropy_buckets
from dynamics.analysis.tokens.trajectories import token_trajectories
from dynamics.errors import DamagedRecordError
from dynamics.records.reader import open_run


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stored_values_are_views_of_the_file(tmp_path: Path, dtype: str) -> None:
    run = open_run(make_run(tmp_path / "run", epochs=2, dtype=dtype))
    for split in run.splits:
        records = run.records(split)
        for value in ("loss", "entropy"):
            stored = records.stored(value, 1)
            assert stored.dtype == dtype
            assert not stored.flags.writeable
            assert not stored.flags.owndata
            np.testing.assert_array_equal(stored.astype(np.float32), getattr(records, value)(1))


def test_stored_values_of_sampled_sequences(tmp_path: Path) -> None:
    records = open_run(make_run(tmp_path / "run", epochs=1, recorded={"train": [1, 3, 4]})).records("train")
    np.testing.assert_array_equal(records.stored("loss", 1), records.loss(1).astype(np.float16))


def test_damage_is_found_before_mapping(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", epochs=1))
    file = next((run.path / "epochs/epoch-0001").glob("train-*"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedRecordError, match="Epoch 1"):
        run.records("train").stored("loss", 1)


def test_memory_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=200, block_size=64, epochs=11))
    records = run.records("train")
    buckets = entropy_buckets(records)

    def peak(n_epochs: int) -> int:
        tracemalloc.start()
        sums_by_value(records, epochs=run.epochs[:n_epochs], buckets=buckets)
        token_trajectories(records, epochs=run.epochs[:n_epochs])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(2)  # Whatever is imported or cached on the way.
    one_epoch = 2 * 8 * len(np.unique(records.document_id)) * buckets.n  # The sums themselves, two values.
    assert peak(12) - peak(2) < 10 * one_epoch + 30_000
