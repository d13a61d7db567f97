"""Writing: what lies on disk, its determinism, several processes, and interrupted attempts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.synthetic import SyntheticSplit, make_run, make_split

from dynamics.errors import DamagedRecordError, InputError
from dynamics.predicted import predicted_mask
from dynamics.records import schema, writer
from dynamics.records.reader import open_run
from dynamics.records.writer import SplitValues

BLOCK = 11


@pytest.fixture
def packed() -> SyntheticSplit:
    return make_split(n_documents=3, block_size=BLOCK, seed=5, words=20)


@pytest.fixture
def begun(tmp_path: Path, packed: SyntheticSplit) -> Path:
    """A run with the tokens of one split; sequences 0, 2, 3 and 5 are recorded."""
    path = tmp_path / "run"
    entry = write_some_tokens(path, packed)
    schema.write_manifest(
        path / "manifest.json",
        {
            "format_version": 1,
            "status": "running",
            "config_hash": "c",
            "tokens": {"train": entry},
        },
    )
    return path


def write_some_tokens(path: Path, packed: SyntheticSplit, **more: Any) -> dict[str, Any]:
    values = np.where(predicted_mask(packed.document_id), 1.0, np.nan)
    return writer.write_tokens(
        path,
        "train",
        packed,
        reference_loss=values,
        reference_entropy=values * 2,
        recorded_sequence_id=np.array([5, 0, 3, 2]),
        **more,
    )


def some_values(packed: SyntheticSplit, ids: list[int], **changes: Any) -> SplitValues:
    """Loss 10 * id + position, so that any row in a wrong place is seen."""
    rows = np.array(ids, dtype=np.int64)
    predicted = predicted_mask(packed.document_id)[rows]
    loss = np.where(predicted, 10.0 * rows[:, None] + np.arange(BLOCK), np.nan)
    values = {
        "sequence_id": rows,
        "loss": loss,
        "entropy": loss / 2,
        "correct": predicted & (np.arange(BLOCK) % 3 == 0),
        "dropped": predicted & (np.arange(BLOCK) % 4 == 0),
    }
    return SplitValues(**(values | changes))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_entry_of_tokens(tmp_path: Path, packed: SyntheticSplit) -> None:
    entry = write_some_tokens(tmp_path, packed)
    raw = (tmp_path / "tokens" / "train.safetensors").read_bytes()
    assert entry["file"] == "tokens/train.safetensors"
    assert entry["sha256"] == hashlib.sha256(raw).hexdigest()
    assert entry["bytes"] == len(raw)
    assert entry["tokens_hash"] == packed.tokens_hash()
    assert entry["n_sequences"] == len(packed.token_id)
    assert entry["n_recorded"] == 4
    assert entry["n_documents"] == 3
    # Each document's first token and each sequence's first position have no prediction.
    real = int((packed.document_id >= 0).sum())
    starts = {(d, np.argwhere(packed.document_id == d)[0].tolist()[1]) for d in range(3)}
    inside = sum(1 for _, position in starts if position > 0)
    assert entry["n_predicted"] == real - len(packed.token_id) - inside


def test_the_layout_of_tokens(tmp_path: Path, packed: SyntheticSplit) -> None:
    entry = write_some_tokens(tmp_path, packed)
    n = len(packed.token_id)
    expected = {
        "token_id": ("int32", [n, BLOCK]),
        "document_id": ("int32", [n, BLOCK]),
        "byte_start": ("int32", [n, BLOCK]),
        "byte_end": ("int32", [n, BLOCK]),
        "reference_loss": ("float32", [n, BLOCK]),
        "reference_entropy": ("float32", [n, BLOCK]),
        "recorded_sequence_id": ("int32", [4]),
        "text": ("uint8", [len(packed.text)]),
        "text_offset": ("int64", [4]),
        "document_hash": ("uint8", [3, 32]),
    }
    assert entry["tensors"] == {k: {"dtype": d, "shape": s} for k, (d, s) in expected.items()}
    arrays = load_file(tmp_path / entry["file"])
    assert {k: (a.dtype.name, list(a.shape)) for k, a in arrays.items()} == expected
    assert arrays["recorded_sequence_id"].tolist() == [0, 2, 3, 5]


def test_what_is_kept_of_documents_is_one_more_tensor(tmp_path: Path, packed: SyntheticSplit) -> None:
    plain = write_some_tokens(tmp_path / "plain", packed)
    fields = {"topic": ["é", None, "b"], "year": [1, 2.5, True]}
    entry = write_some_tokens(tmp_path / "kept", packed, document_fields=fields)
    more = set(entry["tensors"]) - set(plain["tensors"])
    assert more == {"document_fields"} and entry["tokens_hash"] == plain["tokens_hash"]
    arrays = load_file(tmp_path / "kept" / entry["file"])
    assert arrays["document_fields"].tobytes() == b'{"topic":["\\u00e9",null,"b"],"year":[1,2.5,true]}'
    assert schema.fields_of(arrays) == fields and schema.fields_of({}) == {}
    with pytest.raises(AssertionError, match="one value a document"):
        write_some_tokens(tmp_path / "short", packed, document_fields={"topic": ["a"]})
    # Nothing kept is nothing written: the bytes of a run that keeps nothing are what they were.
    assert write_some_tokens(tmp_path / "none", packed, document_fields={}) == plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"topic":["a"]}', "has not one 'topic' for each of 3 documents"),
        (b'{"topic":"abc"}', "has not one 'topic' for each of 3 documents"),
        (b"[1, 2, 3]", "is not what was kept of the documents"),
        (b"{", "is not what was kept of the documents"),
        (b"\xff", "is not what was kept of the documents"),
    ],
)
def test_fields_of_documents_that_are_damaged(content: bytes, message: str) -> None:
    arrays = {"document_fields": np.frombuffer(content, dtype=np.uint8), "document_hash": np.zeros((3, 32))}
    with pytest.raises(DamagedRecordError, match=message):
        schema.fields_of(arrays)


def test_what_an_epoch_holds(begun: Path, packed: SyntheticSplit) -> None:
    values = some_values(packed, [3, 0, 5, 2])
    values.loss[1, 1] = 1e6
    folder = writer.write_epoch(begun, 3, {"train": values}, config_hash="c")
    assert folder == begun / "epochs" / "epoch-0003"
    name = "train-00000-of-00001.safetensors"
    assert sorted(files_of(folder)) == ["manifest.json", name]

    arrays = load_file(folder / name)
    assert arrays["sequence_id"].tolist() == [0, 2, 3, 5]
    assert arrays["loss"].dtype == np.float16
    assert arrays["loss"][2, 4] == 34.0
    assert arrays["correct"].shape == (4, 2)

    manifest = schema.read_manifest(folder / "manifest.json")
    entry = manifest["files"][name]
    assert (manifest["epoch"], manifest["world"], manifest["config_hash"]) == (3, 1, "c")
    assert manifest["splits"] == ["train"]
    assert entry["clipped"] == {"loss": 1, "entropy": 0}
    assert entry["sha256"] == schema.sha256_file(folder / name)
    assert entry["tensors"]["loss"] == {"dtype": "float16", "shape": [4, BLOCK]}
    assert entry["tensors"]["dropped"] == {"dtype": "uint8", "shape": [4, 2]}


def test_values_as_float32_on_request(begun: Path, packed: SyntheticSplit) -> None:
    values = some_values(packed, [0, 2, 3, 5])
    values.loss[0, 1] = 1 + 2**-20  # float16 has 10 bits
    writer.write_epoch(begun, 0, {"train": values}, config_hash="c", dtype="float32")
    assert open_run(begun).records("train").loss(0)[0, 1] == np.float32(1 + 2**-20)


def test_the_layout_in_memory_does_not_matter(begun: Path, packed: SyntheticSplit) -> None:
    values = some_values(packed, [0, 2, 3, 5])
    expected = values.loss.astype(np.float16)
    column_wise = some_values(packed, [0, 2, 3, 5], loss=np.asfortranarray(values.loss))
    writer.write_epoch(begun, 0, {"train": column_wise}, config_hash="c")
    other = dataclasses.replace(packed, token_id=np.asfortranarray(packed.token_id))
    write_some_tokens(begun, other)
    records = open_run(begun).records("train")
    np.testing.assert_array_equal(records.loss(0), expected)
    np.testing.assert_array_equal(records.token_id, packed.token_id[[0, 2, 3, 5]])


def test_an_unknown_type_writes_no_epoch(begun: Path, packed: SyntheticSplit) -> None:
    values = {"train": some_values(packed, [0, 2, 3, 5])}
    with pytest.raises(InputError, match="bfloat16"):
        writer.write_epoch(begun, 0, values, config_hash="c", dtype="bfloat16")
    assert open_run(begun).epochs == []


def test_the_same_values_are_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from support.synthetic import make_run;"
        "make_run(Path(sys.argv[1]), n_documents=3, epochs=1)"
    )
    tests = Path(__file__).parents[1]
    environment = {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}", "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env=environment)
    make_run(tmp_path / "a", n_documents=3, epochs=1)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_the_order_of_rows_does_not_change_the_bytes(tmp_path: Path, begun: Path, packed: SyntheticSplit) -> None:
    ids = [0, 2, 3, 5]
    first = writer.write_epoch(begun, 1, {"train": some_values(packed, ids)}, config_hash="c")
    before = files_of(first)
    assert writer.discard_epochs(begun, after=0) == [1]
    shuffled = {"train": some_values(packed, [5, 3, 0, 2])}
    assert files_of(writer.write_epoch(begun, 1, shuffled, config_hash="c")) == before


def test_several_processes_give_the_records_of_one(begun: Path, packed: SyntheticSplit) -> None:
    one = {"train": some_values(packed, [0, 2, 3, 5])}
    writer.write_epoch(begun, 1, one, config_hash="c")
    empty = some_values(packed, [])
    for rank, ids in ((2, []), (1, [3, 0]), (0, [5, 2])):
        shard = some_values(packed, ids) if ids else empty
        writer.write_shard(begun, 2, {"train": shard}, rank=rank, world=3)
    folder = writer.seal_epoch(begun, 2, splits=["train"], world=3, config_hash="c")
    assert sorted(files_of(folder)) == [
        "manifest.json",
        *(f"train-0000{rank}-of-00003.safetensors" for rank in range(3)),
    ]
    records = open_run(begun).records("train")
    for name in ("loss", "entropy", "correct", "dropped"):
        read = getattr(records, name)
        np.testing.assert_array_equal(read(1), read(2), err_msg=name)
    assert records.loss(2)[3, 4] == 54.0


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([[0, 2], [3]], r"1 sequences missing \(5\)"),
        ([[0, 2], [3, 5, 2]], r"1 sequences recorded twice \(2\)"),
        ([[0, 2], [3, 5, 4]], r"1 sequences not to be recorded \(4\)"),
        ([[0, 2, 3, 5]], r"train-00001-of-00002\.safetensors not written"),
    ],
)
def test_sealing_refuses_other_sequences_than_the_recorded(
    begun: Path, packed: SyntheticSplit, shards: list[list[int]], message: str
) -> None:
    for rank, ids in enumerate(shards):
        writer.write_shard(begun, 1, {"train": some_values(packed, ids)}, rank=rank, world=2)
    with pytest.raises(DamagedRecordError, match=message):
        writer.seal_epoch(begun, 1, splits=["train"], world=2, config_hash="c")
    assert open_run(begun).epochs == []


def test_an_epoch_is_never_overwritten(begun: Path, packed: SyntheticSplit) -> None:
    values = {"train": some_values(packed, [0, 2, 3, 5])}
    folder = writer.write_epoch(begun, 1, values, config_hash="c")
    before = files_of(folder)
    with pytest.raises(FileExistsError, match="epoch-0001"):
        writer.write_epoch(begun, 1, values, config_hash="c")
    with pytest.raises(FileExistsError, match="epoch-0001"):
        writer.seal_epoch(begun, 1, splits=["train"], world=1, config_hash="c")
    assert files_of(folder) == before


def test_an_interrupted_attempt_is_replaced(begun: Path, packed: SyntheticSplit) -> None:
    # Killed after one of two processes had written; now the run goes on with a single process.
    writer.write_shard(begun, 1, {"train": some_values(packed, [0])}, rank=0, world=2)
    assert open_run(begun).epochs == []
    values = {"train": some_values(packed, [0, 2, 3, 5])}
    folder = writer.write_epoch(begun, 1, values, config_hash="c")
    assert sorted(files_of(folder)) == ["manifest.json", "train-00000-of-00001.safetensors"]
    assert not (begun / "epochs" / "epoch-0001.partial").exists()


def test_sealing_removes_files_of_an_attempt_with_more_processes(begun: Path, packed: SyntheticSplit) -> None:
    writer.write_shard(begun, 1, {"train": some_values(packed, [0])}, rank=2, world=3)
    (begun / "epochs" / "epoch-0001.partial" / "x.tmp").write_bytes(b"torn")
    writer.write_shard(begun, 1, {"train": some_values(packed, [0, 2])}, rank=0, world=2)
    writer.write_shard(begun, 1, {"train": some_values(packed, [3, 5])}, rank=1, world=2)
    folder = writer.seal_epoch(begun, 1, splits=["train"], world=2, config_hash="c")
    names = [f"train-0000{rank}-of-00002.safetensors" for rank in range(2)]
    assert sorted(files_of(folder)) == ["manifest.json", *names]


def test_everything_is_flushed_before_the_epoch_appears(
    begun: Path, packed: SyntheticSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_fsync, real_rename, real_replace = os.fsync, os.rename, os.replace

    def fsync(descriptor: int) -> None:
        done.append("fsync")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        done.append(target.name)
        real_replace(source, target)

    def rename(source: Path, target: Path) -> None:
        done.append(target.name)
        real_rename(source, target)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.replace", replace)
    monkeypatch.setattr("os.rename", rename)
    values = {"train": some_values(packed, [0, 2, 3, 5])}
    writer.write_epoch(begun, 1, values, config_hash="c")
    assert done == [
        "fsync",  # the shard's bytes
        "train-00000-of-00001.safetensors",
        "fsync",  # its name
        "fsync",
        "manifest.json",
        "fsync",
        "epoch-0001",
        "fsync",  # the epoch's name
    ]


def test_discarding_epochs(begun: Path, packed: SyntheticSplit) -> None:
    values = {"train": some_values(packed, [0, 2, 3, 5])}
    for epoch in range(4):
        writer.write_epoch(begun, epoch, values, config_hash="c")
    (begun / "epochs" / "epoch-0003.partial").mkdir()
    assert writer.discard_epochs(begun, after=1) == [2, 3]
    assert open_run(begun).epochs == [0, 1]
    assert sorted(p.name for p in (begun / "epochs").iterdir()) == ["epoch-0000", "epoch-0001"]
    assert writer.discard_epochs(begun, after=1) == []


def test_split_values_must_agree_in_shape(packed: SyntheticSplit) -> None:
    with pytest.raises(AssertionError, match=r"\(S, P\) like loss"):
        some_values(packed, [0, 2], correct=np.zeros((1, BLOCK), dtype=bool))
    with pytest.raises(AssertionError, match="one row a sequence"):
        some_values(packed, [0, 2], sequence_id=np.array([0]))


def test_tokens_refuse_a_sequence_twice(tmp_path: Path, packed: SyntheticSplit) -> None:
    values = np.zeros(packed.token_id.shape)
    with pytest.raises(AssertionError, match="recorded once"):
        writer.write_tokens(
            tmp_path,
            "train",
            packed,
            reference_loss=values,
            reference_entropy=values,
            recorded_sequence_id=np.array([1, 1]),
        )


def test_what_a_finished_run_adds_to_its_manifest(whole_run: Path) -> None:
    entries = writer.finished_files(whole_run)
    model = whole_run / "model" / "model.safetensors"
    assert sorted(entries["model_files"]) == ["model/config.json", "model/model.safetensors"]
    assert entries["model_files"]["model/model.safetensors"] == {
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "bytes": 256,
    }
    assert entries["metrics_file"]["bytes"] == (whole_run / "metrics.jsonl").stat().st_size
    manifest = json.loads((whole_run / "epochs/epoch-0001/manifest.json").read_text())
    assert sorted(entries["epochs"]) == ["0", "1", "2"]
    assert entries["epochs"]["1"] == manifest["manifest_sha256"]


def test_a_finished_run_without_metrics_or_model(begun: Path) -> None:
    entries = writer.finished_files(begun)
    assert entries == {"model_files": {}, "metrics_file": None, "epochs": {}}


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        ({}, {}),
        ({"step": 40}, {"step": 40}),
        ({"step": 40, "passes": 3.0}, {"step": 40, "passes": 3.0}),
        ({"step": 33, "passes": 2.5}, {"step": 33, "passes": 2.5, "partial": True}),
    ],
)
def test_an_epoch_says_when_it_was_recorded(
    begun: Path, packed: SyntheticSplit, moment: dict[str, Any], written: dict[str, Any]
) -> None:
    values = {"train": some_values(packed, [0, 2, 3, 5])}
    manifest = schema.read_manifest(writer.write_epoch(begun, 3, values, config_hash="c", **moment) / "manifest.json")
    assert {key: manifest[key] for key in ("step", "passes", "partial") if key in manifest} == written
    assert manifest["format_version"] == 2


def test_passes_of_another_epoch_are_refused_before_anything_is_sealed(begun: Path, packed: SyntheticSplit) -> None:
    with pytest.raises(AssertionError, match=r"epoch 3 ends a pass; 3\.5 passes do not"):
        writer.write_epoch(begun, 3, {"train": some_values(packed, [0, 2, 3, 5])}, config_hash="c", passes=3.5)
    assert not (begun / "epochs" / "epoch-0003").exists()
