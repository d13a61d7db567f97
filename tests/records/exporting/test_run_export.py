"""Exports hold what `open_run` gives: every value, in Parquet and in zarr, and nothing half-written."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import xarray
import zarr
from support.synthetic import SyntheticSplit, make_run

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema, writer
from dynamics.records.exporting import blocks, parquet_file, zarr_groups
from dynamics.records.exporting.run_export import FORMATS, export_run
from dynamics.records.reader import Run, open_run
from dynamics.records.writer import SplitValues

NAN = np.nan


@pytest.fixture
def hand_run(tmp_path: Path) -> Run:
    """One sequence "é", end, "x", padding of "train" in epochs 0 and 1: é is two tokens, x is not predicted."""
    text = "éx".encode()
    packed = SyntheticSplit(
        token_id=np.array([[11, 12, 0, 13, 1]], dtype=np.int32),
        document_id=np.array([[0, 0, 0, 1, -1]], dtype=np.int32),
        byte_start=np.array([[0, 1, 2, 0, 0]], dtype=np.int32),
        byte_end=np.array([[1, 2, 2, 1, 0]], dtype=np.int32),
        text=np.frombuffer(text, dtype=np.uint8),
        text_offset=np.array([0, 2, 3]),
        document_hash=np.zeros((2, 32), dtype=np.uint8),
    )
    path = tmp_path / "hand"
    reference = np.array([[NAN, 5.0, 6.0, NAN, NAN]])
    entry = writer.write_tokens(
        path,
        "train",
        packed,
        reference_loss=reference,
        reference_entropy=reference / 2,
        recorded_sequence_id=np.array([0]),
    )
    for epoch in (0, 1):
        # After epoch 1 the model has diverged at one token: NaN, though it is predicted.
        loss = np.array([[NAN, 1.5, NAN if epoch else 2.5, NAN, NAN]])
        values = SplitValues(
            sequence_id=np.array([0]),
            loss=loss,
            entropy=loss + 1,
            correct=np.array([[False, True, False, False, False]]),
            dropped=np.array([[False, False, True, False, False]]) if epoch else None,
            training_loss=loss + 2 if epoch else None,
            training_entropy=loss + 3 if epoch else None,
        )
        writer.write_epoch(path, epoch, {"train": values}, config_hash="c")
    manifest = {"format_version": 1, "status": "running", "config_hash": "c", "tokens": {"train": entry}}
    schema.write_manifest(path / "manifest.json", manifest)
    return open_run(path)


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    return [tuple("nan" if value != value else value for value in row.values()) for row in table_of(path).to_pylist()]


def table_of(path: Path) -> Any:
    return pyarrow.parquet.read_table(path)


def test_parquet_by_hand(hand_run: Run, tmp_path: Path) -> None:
    """Epoch 0 has nothing of training; x has no prediction; the diverged token is NaN, not null; no padding."""
    path = export_run(hand_run, tmp_path / "hand.parquet", format="parquet")
    table = table_of(path)
    assert table.column_names == [
        "split", "epoch", "passes", "sequence", "position", "document", "token_id", "token", "loss", "entropy", "correct",
        "dropped", "reference_loss", "reference_entropy", "training_loss", "training_entropy",
    ]  # fmt: skip
    kinds = [str(kind) for kind in table.schema.types]
    assert kinds == [
        "string",
        "int32",
        "double",
        *["int32"] * 4,
        "string",
        "float",
        "float",
        "bool",
        "bool",
        *["float"] * 4,
    ]
    nothing = (None,) * 8
    assert rows_of(path) == [
        ("train", 0, 0.0, 0, 0, 0, 11, "\ufffd", *nothing),
        ("train", 0, 0.0, 0, 1, 0, 12, "\ufffd", 1.5, 2.5, True, None, 5.0, 2.5, None, None),
        ("train", 0, 0.0, 0, 2, 0, 0, "", 2.5, 3.5, False, None, 6.0, 3.0, None, None),
        ("train", 0, 0.0, 0, 3, 1, 13, "x", *nothing),
        ("train", 1, 1.0, 0, 0, 0, 11, "\ufffd", *nothing),
        ("train", 1, 1.0, 0, 1, 0, 12, "\ufffd", 1.5, 2.5, True, False, 5.0, 2.5, 3.5, 4.5),
        ("train", 1, 1.0, 0, 2, 0, 0, "", "nan", "nan", False, True, 6.0, 3.0, "nan", "nan"),
        ("train", 1, 1.0, 0, 3, 1, 13, "x", *nothing),
    ]
    assert table.schema.metadata == {b"run": b"hand", b"units": b"nats", b"config_hash": b"c"}


def test_zarr_by_hand(hand_run: Run, tmp_path: Path) -> None:
    path = export_run(hand_run, tmp_path / "hand.zarr", format="zarr")
    root = zarr.open_group(path, mode="r")
    assert (root.metadata.zarr_format, dict(root.attrs)) == (3, {"run": "hand", "units": "nats"})
    group: Any = root["train"]
    assert {name: array.shape for name, array in group.arrays()} == {
        **dict.fromkeys(("loss", "entropy", "correct", "dropped", "training_loss", "training_entropy"), (2, 1, 5)),
        **dict.fromkeys(("token_id", "document_id", "predicted", "reference_loss", "reference_entropy"), (1, 5)),
        "epoch": (2,),
        "passes": (2,),
        "sequence": (1,),
        "position": (5,),
    }
    assert group["loss"].metadata.dimension_names == ("epoch", "sequence", "position")
    assert group["loss"].chunks == (1, 1, 5)
    np.testing.assert_array_equal(group["loss"][:], [[[NAN, 1.5, 2.5, NAN, NAN]], [[NAN, 1.5, NAN, NAN, NAN]]])
    assert group["dropped"][:].astype(int).tolist() == [[[0] * 5], [[0, 0, 1, 0, 0]]]
    np.testing.assert_array_equal(group["training_entropy"][:, 0, 1], [NAN, 4.5])
    assert group["epoch"][:].tolist() == [0, 1]


def test_parquet_holds_every_value(whole_run: Path, tmp_path: Path) -> None:
    run = open_run(whole_run)
    table = table_of(export_run(run, tmp_path / "run.parquet", format="parquet")).to_pandas()
    n_rows = 0
    for split in run.splits:
        records = run.records(split)
        real = records.document_id >= 0
        predicted = records.predicted
        sequence, position = np.nonzero(real)
        for epoch in run.epochs:
            rows = table[(table["split"] == split) & (table["epoch"] == epoch)]
            n_rows += len(rows)
            assert rows["sequence"].tolist() == records.sequence_id[sequence].tolist()
            assert rows["position"].tolist() == position.tolist()
            assert rows["document"].tolist() == records.document_id[real].tolist()
            assert rows["token_id"].tolist() == records.token_id[real].tolist()
            texts = [records.token_text(s, p) for s, p in zip(sequence, position, strict=True)]
            assert rows["token"].tolist() == texts
            for name in ("loss", "entropy"):
                np.testing.assert_array_equal(rows[name], getattr(records, name)(epoch)[real])
            for name in ("reference_loss", "reference_entropy"):
                np.testing.assert_array_equal(rows[name], getattr(records, name)[real])
            measured = rows[predicted[real]]
            assert rows["correct"].isna().tolist() == (~predicted[real]).tolist()
            assert measured["correct"].tolist() == records.correct(epoch)[predicted].tolist()
            if split == "train" and epoch > 0:
                assert measured["dropped"].tolist() == records.dropped(epoch)[predicted].tolist()
            else:
                assert rows["dropped"].isna().all()
    assert n_rows == len(table)
    assert "training_loss" not in table


def test_zarr_is_what_to_xarray_gives(whole_run: Path, tmp_path: Path) -> None:
    run = open_run(whole_run)
    path = export_run(run, tmp_path / "run.zarr", format="zarr")
    for split in run.splits:
        opened = xarray.open_zarr(path, group=split, consolidated=False)
        xarray.testing.assert_identical(opened.load(), run.records(split).to_xarray().load())


def test_recorded_sequences_keep_their_ids(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=1, recorded={"train": [1, 4]}))
    table = table_of(export_run(run, tmp_path / "x.parquet", format="parquet"))
    rows = table.filter(pyarrow.compute.equal(table["split"], "train"))
    assert set(rows["sequence"].to_pylist()) == {1, 4}
    path = export_run(run, tmp_path / "x.zarr", format="zarr")
    assert zarr.open_array(path / "train" / "sequence", mode="r")[:].tolist() == [1, 4]


def test_row_groups_and_chunks_hold_one_epoch(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "GROUP_TOKENS", 16 * 5)  # five sequences
    run = open_run(whole_run)
    n_sequences = {split: len(run.records(split).token_id) for split in run.splits}
    path = export_run(run, tmp_path / "run.parquet", format="parquet")
    file = pyarrow.parquet.ParquetFile(path)
    groups = [file.read_row_group(i, columns=["split", "epoch"]) for i in range(file.num_row_groups)]
    assert all(len(set(zip(*group.to_pydict().values(), strict=True))) == 1 for group in groups)
    assert len(groups) == 3 * sum(-(-n // 5) for n in n_sequences.values())
    whole = tmp_path / "whole.parquet"
    monkeypatch.setattr(blocks, "GROUP_TOKENS", 2**20)
    export_run(run, whole, format="parquet")
    assert table_of(path).equals(table_of(whole))
    # Statistics by which readers leave out what they are not asked for.
    statistics = file.metadata.row_group(0).column(1).statistics
    assert (statistics.min, statistics.max) == (0, 0)


def test_memory_stays_flat(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is read once a variable, and written before the next one is read."""
    events: list[tuple[str, int]] = []
    read = parquet_file.epoch_values

    def reading(records: Any, variable: Any, epoch: int) -> Any:
        events.append((f"{records.split}/{variable.name}", epoch))
        return read(records, variable, epoch)

    for writer_module in (parquet_file, zarr_groups):
        monkeypatch.setattr(writer_module, "epoch_values", reading)
    for format in FORMATS:
        events.clear()
        export_run(
            open_run(whole_run), tmp_path / format, format=format, on_epoch=lambda: events.append(("written", 0))
        )
        parts = " ".join("|" if name == "written" else name for name, _ in events).split("|")
        train, validation = (parts[i].split() for i in (0, 3))
        assert train == [f"train/{name}" for name in ("loss", "entropy", "correct", "dropped")]
        assert validation == [f"validation/{name}" for name in ("loss", "entropy", "correct")]
        assert [epoch for name, epoch in events if name == "train/loss"] == [0, 1, 2]
        assert len(parts) == 7 and not parts[6]


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_bytes_again(whole_run: Path, tmp_path: Path, format: str) -> None:
    def content(path: Path) -> dict[str, bytes]:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}

    first, second = (export_run(open_run(whole_run), tmp_path / name, format=format) for name in ("a", "b"))
    assert content(first) == content(second) and content(first)


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("format", FORMATS)
def test_an_output_that_is_there_is_refused(whole_run: Path, tmp_path: Path, format: str) -> None:
    run = open_run(whole_run)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    for name in ("file", "folder", "link"):
        with pytest.raises(InputError, match=f"{name} is there already, and nothing is overwritten; name another"):
            export_run(run, tmp_path / name, format=format)
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "nowhere").exists()
    assert not list((tmp_path / "folder").iterdir())


def test_an_unknown_format_and_a_run_without_an_epoch(whole_run: Path, tmp_path: Path) -> None:
    run = open_run(whole_run)
    with pytest.raises(InputError, match="unknown format 'parqet'; did you mean 'parquet'"):
        export_run(run, tmp_path / "new" / "x", format="parqet")
    run.epochs = []
    with pytest.raises(InputError, match="has no complete epoch, so there is nothing to export; train first"):
        export_run(run, tmp_path / "new" / "x", format="zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "package"), [("parquet", "pyarrow"), ("zarr", "zarr")])
def test_a_missing_package_is_named(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)
    with pytest.raises(InputError, match=r"is not installed: pip install 'learning-dynamics\[export\]'"):
        export_run(open_run(whole_run), tmp_path / "x", format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("leftover", ["none", "file", "folder"])
def test_a_damaged_epoch_leaves_nothing(run_path: Path, tmp_path: Path, format: str, leftover: str) -> None:
    output = tmp_path / "out" / "x"
    partial = output.with_name("x.partial")
    if leftover != "none":  # of an export that was killed
        partial.mkdir(parents=True) if leftover == "folder" else (tmp_path / "out").mkdir()
        (partial / "y" if leftover == "folder" else partial).write_text("half")
    file = next((run_path / "epochs/epoch-0002").glob("validation-*"))
    whole = file.read_bytes()
    file.write_bytes(b"x")
    with pytest.raises(DamagedRecordError, match="Epoch 2 of"):
        export_run(open_run(run_path), output, format=format)
    assert not list(output.parent.iterdir())
    file.write_bytes(whole)
    export_run(open_run(run_path), output, format=format)
    assert list(output.parent.iterdir()) == [output]


def test_an_interrupt_leaves_nothing(whole_run: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        assert (tmp_path / "x.partial").exists() and not (tmp_path / "x").exists()
        raise KeyboardInterrupt

    for format in FORMATS:
        with pytest.raises(KeyboardInterrupt):
            export_run(open_run(whole_run), tmp_path / "x", format=format, on_epoch=interrupt)
        assert not list(tmp_path.iterdir())


def test_exports_of_a_cut_epoch_say_its_passes(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=2, cut=1.5))
    table = table_of(export_run(run, tmp_path / "run.parquet", format="parquet")).to_pandas()
    assert table.groupby("epoch")["passes"].unique().map(list).to_dict() == {0: [0.0], 1: [1.0], 2: [1.5]}
    path = export_run(run, tmp_path / "run.zarr", format="zarr")
    data = xarray.open_zarr(path, group="train", consolidated=False)
    assert "passes" in data.coords and data.passes.values.tolist() == [0.0, 1.0, 1.5]
