"""Opening runs and studies, and their arrays and texts, against an example worked by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from support.synthetic import SyntheticSplit, make_run

from dynamics.errors import DamagedRecordError, InputError
from dynamics.predicted import predicted_mask
from dynamics.records import schema, writer
from dynamics.records.check import check_run
from dynamics.records.epochs import shown_path
from dynamics.records.reader import (
    Run,
    Study,
    common_epochs,
    open_any,
    open_run,
    open_study,
    require_same_tokens,
    run_beside,
)
from dynamics.records.writer import SplitValues

NAN = np.nan

# Two documents. "é" is 2 bytes, one token each; the last token of a document is its end (empty).
#   "abc é."  a | bc | " " + first byte of é | second byte of é | . | end
#   "xyz"     xyz | end
TEXTS = ["abc é.", "xyz"]


def hand_split() -> SyntheticSplit:
    text = "".join(TEXTS).encode()
    assert len(text) == 7 + 3
    return SyntheticSplit(
        token_id=np.array([[11, 12, 13, 14], [15, 0, 16, 0], [1, 1, 1, 1]], dtype=np.int32),
        document_id=np.array([[0, 0, 0, 0], [0, 0, 1, 1], [-1, -1, -1, -1]], dtype=np.int32),
        byte_start=np.array([[0, 1, 3, 5], [6, 7, 0, 3], [0, 0, 0, 0]], dtype=np.int32),
        byte_end=np.array([[1, 3, 5, 6], [7, 7, 3, 3], [0, 0, 0, 0]], dtype=np.int32),
        text=np.frombuffer(text, dtype=np.uint8),
        text_offset=np.array([0, 7, 10]),
        document_hash=np.arange(64, dtype=np.uint8).reshape(2, 32),
    )


def hand_values(sequence_id: list[int], scale: float) -> SplitValues:
    predicted = predicted_mask(hand_split().document_id)[sequence_id]
    loss = np.array([[NAN, 1, 2, 3], [NAN, 4, NAN, 5], [NAN] * 4])[sequence_id] * scale
    return SplitValues(
        sequence_id=np.array(sequence_id),
        loss=loss,
        entropy=loss / 2,
        correct=predicted & (loss < 3),
        dropped=predicted & (loss > 3),
    )


@pytest.fixture
def hand_run(tmp_path: Path) -> Path:
    """Epochs 0 and 2; sequences 0 and 1 of three recorded; epoch 2 by two processes."""
    path = tmp_path / "hand"
    reference = np.array([[NAN, 1, 2, 3], [NAN, 4, NAN, 5], [NAN] * 4])
    entry = writer.write_tokens(
        path,
        "train",
        hand_split(),
        reference_loss=reference,
        reference_entropy=reference + 10,
        recorded_sequence_id=np.array([0, 1]),
    )
    writer.write_epoch(path, 0, {"train": hand_values([0, 1], 1)}, config_hash="c")
    writer.write_shard(path, 2, {"train": hand_values([1], 0.5)}, rank=0, world=2)
    writer.write_shard(path, 2, {"train": hand_values([0], 0.5)}, rank=1, world=2)
    writer.seal_epoch(path, 2, splits=["train"], world=2, config_hash="c")
    manifest = {"format_version": 1, "status": "running", "config_hash": "c"}
    schema.write_manifest(path / "manifest.json", {**manifest, "tokens": {"train": entry}})
    return path


# Values and texts. --------------------------------------------------------------------------------


def test_the_hand_example(hand_run: Path) -> None:
    run = open_run(hand_run)
    assert (run.epochs, run.splits, run.name, run.complete) == ([0, 2], ["train"], "hand", False)
    records = run.records("train")
    assert records.sequence_id.tolist() == [0, 1]
    assert records.token_id.tolist() == [[11, 12, 13, 14], [15, 0, 16, 0]]
    assert records.predicted.tolist() == [[False, True, True, True], [False, True, False, True]]
    expected = [[NAN, 1, 2, 3], [NAN, 4, NAN, 5]]
    np.testing.assert_array_equal(records.reference_loss, expected)
    np.testing.assert_array_equal(records.reference_entropy, np.array(expected) + 10)
    np.testing.assert_array_equal(records.loss(0), expected)
    np.testing.assert_array_equal(records.loss(2), np.array(expected) / 2)
    np.testing.assert_array_equal(records.entropy(2), np.array(expected) / 4)
    assert records.correct(0).tolist() == [[False, True, True, False], [False] * 4]
    assert records.correct(2).tolist() == [[False, True, True, True], [False, True, False, True]]
    assert records.dropped(2).tolist() == [[False] * 4, [False] * 4]
    assert records.n_documents == 2
    assert records.document_hash[1, 0] == 32


def test_types(hand_run: Path) -> None:
    records = open_run(hand_run).records("train")
    assert records.loss(0).dtype == records.entropy(0).dtype == np.float32
    assert records.reference_loss.dtype == records.reference_entropy.dtype == np.float32
    assert records.correct(0).dtype == records.predicted.dtype == bool
    assert records.token_id.dtype == records.document_id.dtype == np.int32


def test_the_text_without_a_tokenizer(hand_run: Path) -> None:
    records = open_run(hand_run).records("train")
    assert [records.document_text(d) for d in range(2)] == TEXTS
    tokens = [[records.token_text(s, p) for p in range(4)] for s in range(2)]
    assert tokens == [["a", "bc", " \ufffd", "\ufffd"], [".", "", "xyz", ""]]
    assert records.text(0) == "abc é"
    assert records.text(1) == ".xyz"


def test_padding_has_no_text(whole_run: Path) -> None:
    records = open_run(whole_run).records("train")
    last = len(records.token_id) - 1
    padding = np.flatnonzero(records.document_id[last] < 0)
    assert len(padding)
    assert [records.token_text(last, int(p)) for p in padding] == [""] * len(padding)
    assert records.text(last)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_texts_of_a_document_are_its_tokens(whole_run: Path, split: str) -> None:
    records = open_run(whole_run).records(split)
    for document in range(records.n_documents):
        spans = [
            (int(records.byte_start[s, p]), int(records.byte_end[s, p]))
            for s, p in np.argwhere(records.document_id == document)
        ]
        assert spans[0][0] == 0
        assert spans[-1] == (spans[-2][1],) * 2  # the end-of-text token
        raw = records.document_text(document).encode()
        assert b"".join(raw[start:end] for start, end in spans) == raw


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.text(2), "no sequence 2: the records have sequences 0 to 1"),
        (lambda r: r.text(-1), "no sequence -1"),
        (lambda r: r.token_text(0, 4), "no position 4: the records have positions 0 to 3"),
        (lambda r: r.document_text(2), "no document 2"),
        (lambda r: r.loss(1), "no complete epoch 1: it has 0, 2"),
        (lambda r: r.loss(-1), "no complete epoch -1"),
        (lambda r: r.dropped(0), "before training"),
    ],
)
def test_what_is_not_there_is_named(hand_run: Path, call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(open_run(hand_run).records("train"))  # type: ignore[operator]


def test_numpy_integers_name_epochs(hand_run: Path) -> None:
    records = open_run(hand_run).records("train")
    np.testing.assert_array_equal(records.loss(np.int64(2)), records.loss(2))
    with pytest.raises(TypeError):
        records.loss(2.0)  # type: ignore[arg-type]


def test_dropped_in_training_only(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=2, regularizers=[{"ratio": 0.5}]))
    records = run.records("train")
    share = [records.dropped(e)[records.predicted].mean() for e in (1, 2)]
    assert share == pytest.approx([0.25, 0.5], abs=0.08)
    assert not (records.dropped(2) & ~records.predicted).any()
    with pytest.raises(InputError, match="'validation'.*'train'"):
        run.records("validation").dropped(1)


def test_nothing_was_dropped_without_a_regulariser(tmp_path: Path) -> None:
    records = open_run(make_run(tmp_path / "run", n_documents=2, epochs=1)).records("train")
    dropped = records.dropped(1)
    assert dropped.shape == records.token_id.shape
    assert not dropped.any()


def test_some_recorded_sequences(tmp_path: Path) -> None:
    every = open_run(make_run(tmp_path / "a", n_documents=4, epochs=1)).records("train")
    chosen = [1, 4, 6]
    some_run = make_run(tmp_path / "b", n_documents=4, epochs=1, recorded={"train": [4, 1, 6]})
    some = open_run(some_run).records("train")
    assert some.sequence_id.tolist() == chosen
    for name in ("token_id", "document_id", "byte_start", "byte_end", "reference_loss"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[chosen])
    np.testing.assert_array_equal(some.loss(1), every.loss(1)[chosen])
    assert some.text(2) == every.text(6)
    assert some.document_text(0) == every.document_text(0)


# Runs. --------------------------------------------------------------------------------------------


def test_a_run(whole_run: Path) -> None:
    run = open_run(whole_run)
    assert run.epochs == [0, 1, 2]
    assert run.splits == ["train", "validation"]
    assert run.name == "synthetic"
    assert run.complete
    assert run.config["training"]["num_train_epochs"] == 2
    assert run.manifest["tokens"]["train"]["n_documents"] == 4
    assert run.metrics()[0]["step"] == 0
    assert "3 epochs of train, validation" in repr(run)


def test_a_run_shows_no_folder_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "deep" / "mine"
    lone = tmp_path / "deep" / "lone"
    places = {study / "runs" / "baseline" / "seed-0": "baseline/seed-0", lone: "lone", study: "mine"}
    monkeypatch.chdir("/")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/elsewhere"))
    assert [shown_path(path) for path in places] == list(places.values())
    assert shown_path(tmp_path / ("0a" * 16), "example") == "example" and shown_path(lone, "example") == "lone"
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path)
    assert [shown_path(path) for path in places] == ["deep/mine/runs/baseline/seed-0", "deep/lone", "deep/mine"]


def test_opening_reads_the_manifest_alone(run_path: Path) -> None:
    for path in [*run_path.rglob("*.safetensors"), *run_path.rglob("epoch-*/manifest.json")]:
        path.write_bytes(b"")
    (run_path / "config.yaml").unlink()
    (run_path / "metrics.jsonl").unlink()
    assert open_run(run_path).epochs == [0, 1, 2]


def test_what_is_no_complete_epoch_is_not_listed(run_path: Path) -> None:
    epochs = run_path / "epochs"
    (epochs / "epoch-0001" / "manifest.json").unlink()
    (epochs / "epoch-0002").rename(epochs / "epoch-0002.partial")
    (epochs / "epoch-0007").write_text("")
    (epochs / "epoch-9").mkdir()
    assert open_run(run_path).epochs == [0]


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run_path = make_run(tmp_path / "run", n_documents=4, epochs=0, status="running")
    shutil.rmtree(run_path / "epochs")
    (run_path / "metrics.jsonl").unlink()
    run = open_run(run_path)
    assert run.epochs == []
    assert run.metrics() == []
    with pytest.raises(InputError, match="it has none"):
        run.records("train").loss(0)


def test_an_unknown_split_is_named_with_the_nearest(whole_run: Path) -> None:
    with pytest.raises(InputError, match=r"train, validation; did you mean 'validation'\?"):
        open_run(whole_run).records("valid")


def test_the_part_for_tuning_is_a_split_where_there_is_one(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", held_out=("validation", "tuning", "validation-general"), epochs=1))
    assert run.splits == ["train", "validation", "tuning", "validation-general"]
    assert run.records("tuning").loss(1).shape == run.records("tuning").token_id.shape
    none = open_run(make_run(tmp_path / "none", epochs=1))
    with pytest.raises(InputError, match=r"no split 'tuning': it has train, validation; a recipe's tuning: \{fraction"):
        none.records("tuning")
    # Runs of both kinds can be compared: earlier versions did not record it. Other tokens in it are other tokens.
    other = open_run(make_run(tmp_path / "other", held_out=("validation", "tuning"), epochs=1))
    same = open_run(make_run(tmp_path / "same", held_out=("validation", "tuning"), epochs=1))
    for runs in ([other, same, none], [none, other, same]):
        require_same_tokens(runs)
    other.manifest["tokens"]["tuning"]["tokens_hash"] = "0"
    with pytest.raises(InputError, match="have different tokens in 'tuning'"):
        require_same_tokens([none, other, same])


def test_runs_are_compared_though_some_have_further_validation_sets(tmp_path: Path) -> None:
    held_out = ("validation", "tuning", "validation-general")
    run = open_run(make_run(tmp_path / "run", held_out=held_out, epochs=1))
    less = open_run(make_run(tmp_path / "less", held_out=("validation",), epochs=1))
    require_same_tokens([run, less, run])
    require_same_tokens([less, run])
    other = open_run(make_run(tmp_path / "other", held_out=held_out, epochs=1))
    other.manifest["tokens"]["validation-general"]["tokens_hash"] = "0"
    with pytest.raises(InputError, match=r"run and .*other have different tokens in 'validation-general'"):
        require_same_tokens([less, run, other])


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        open_run(tmp_path / "absent")


def test_a_later_format_is_refused(run_path: Path) -> None:
    manifest = schema.read_manifest(run_path / "manifest.json")
    schema.write_manifest(run_path / "manifest.json", {**manifest, "format_version": 3})
    with pytest.raises(InputError, match="format 3, and this version reads formats 1 and 2"):
        open_run(run_path)


def test_a_damaged_manifest_is_not_read(run_path: Path) -> None:
    path = run_path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"complete", b"c0mplete"))
    with pytest.raises(DamagedRecordError, match=r"manifest\.json was changed"):
        open_run(run_path)


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n", b"\xff\xfe\xff"])
def test_a_recipe_that_cannot_be_read(run_path: Path, content: bytes) -> None:
    (run_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml"):
        _ = open_run(run_path).config


# Cheap checks before values are used. -------------------------------------------------------------

SHARD = "epochs/epoch-0001/train-00000-of-00001.safetensors"


def damage_message(run_path: Path) -> str:
    with pytest.raises(DamagedRecordError) as raised:
        open_run(run_path).records("train").loss(1)
    message = str(raised.value)
    assert "Epoch 1 of" in message
    return message


def test_a_truncated_file_is_not_read(run_path: Path) -> None:
    path = run_path / SHARD
    path.write_bytes(path.read_bytes()[:-1])
    message = damage_message(run_path)
    assert "train-00000-of-00001.safetensors has " in message
    assert "Still good, by the same cheap checks: 0, 2." in message
    # The other epochs are read as ever.
    assert open_run(run_path).records("train").loss(2).shape


def test_a_missing_file_is_named(run_path: Path) -> None:
    (run_path / SHARD).unlink()
    message = damage_message(run_path)
    assert "is missing" in message
    assert "checks: 0, 2." in message


def test_files_of_two_epochs_swapped_are_not_read_as_values(run_path: Path) -> None:
    # Same size, same shapes: the header tells them apart.
    one, two = run_path / SHARD, run_path / SHARD.replace("0001/", "0002/")
    assert one.stat().st_size == two.stat().st_size
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)
    assert "epoch is 2" in damage_message(run_path)


def test_whole_epochs_swapped_are_not_read_as_values(run_path: Path) -> None:
    epochs = run_path / "epochs"
    (epochs / "epoch-0001").rename(epochs / "x")
    (epochs / "epoch-0002").rename(epochs / "epoch-0001")
    (epochs / "x").rename(epochs / "epoch-0002")
    message = damage_message(run_path)
    assert "its epoch is 2, not 1" in message
    assert "checks: 0." in message


def test_files_of_two_splits_swapped_are_not_read_as_values(run_path: Path) -> None:
    shutil.copy(run_path / SHARD.replace("train", "validation"), run_path / SHARD)
    damage_message(run_path)


def test_an_epoch_of_another_run_is_not_read(run_path: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", n_documents=4, epochs=2, seed=9)
    shutil.rmtree(run_path / "epochs" / "epoch-0001")
    shutil.copytree(other / "epochs" / "epoch-0001", run_path / "epochs" / "epoch-0001")
    assert "belongs elsewhere: its config_hash" in damage_message(run_path)


def test_a_damaged_header_is_not_read(run_path: Path) -> None:
    path = run_path / SHARD
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"F16"', b'"I16"', 1))
    assert "other tensors" in damage_message(run_path)
    path.write_bytes(b"\xff" * len(raw))
    assert "cannot be read" in damage_message(run_path)


def test_a_file_of_the_same_size_with_other_shapes_is_not_read(run_path: Path) -> None:
    path = run_path / SHARD
    arrays = load_file(path)
    rows, columns = arrays["loss"].shape
    raw = path.read_bytes()
    old = f'"shape":[{rows},{columns}]'.encode()
    assert raw.count(old) == 2  # loss and entropy
    swapped = raw.replace(old, f'"shape":[{columns},{rows}]'.encode())
    path.write_bytes(swapped)
    assert "other tensors" in damage_message(run_path)


def test_a_damaged_epoch_manifest_is_named(run_path: Path) -> None:
    path = run_path / "epochs" / "epoch-0001" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"world": 1', b'"world": 2'))
    assert "manifest.json was changed" in damage_message(run_path)


def test_shards_that_do_not_hold_each_sequence_once(hand_run: Path) -> None:
    folder = hand_run / "epochs" / "epoch-0002"
    manifest = schema.read_manifest(folder / "manifest.json")
    # Process 0 recorded sequence 0 as process 1 did, and no manifest of a file betrays it.
    name = "train-00000-of-00002.safetensors"
    shutil.rmtree(folder)
    writer.write_shard(hand_run, 2, {"train": hand_values([0], 0.5)}, rank=0, world=2)
    writer.write_shard(hand_run, 2, {"train": hand_values([0], 0.5)}, rank=1, world=2)
    (hand_run / "epochs" / "epoch-0002.partial").rename(folder)
    manifest["files"][name] |= schema.file_entry(folder / name)
    schema.write_manifest(folder / "manifest.json", manifest)
    with pytest.raises(DamagedRecordError, match=r"recorded twice \(0\).*missing \(1\)"):
        open_run(hand_run).records("train").loss(2)


def test_damaged_tokens_are_not_read(run_path: Path) -> None:
    path = run_path / "tokens" / "train.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DamagedRecordError, match=r"train\.safetensors has .* bytes"):
        open_run(run_path).records("train")
    assert open_run(run_path).records("validation").loss(1).shape


def test_metrics_that_a_complete_run_has_lost_are_not_read_as_none(run_path: Path) -> None:
    path = run_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # whole lines, and one fewer
    with pytest.raises(DamagedRecordError, match=r"metrics\.jsonl has \d+ bytes; the run's manifest says"):
        open_run(run_path).metrics()
    path.unlink()
    with pytest.raises(DamagedRecordError, match=r"metrics\.jsonl is missing"):
        open_run(run_path).metrics()


def test_an_epochs_manifest_in_place_of_the_runs(run_path: Path) -> None:
    shutil.copy(run_path / "epochs" / "epoch-0001" / "manifest.json", run_path / "manifest.json")
    with pytest.raises(DamagedRecordError, match=r"manifest\.json is no run's manifest"):
        open_run(run_path)


def test_an_epoch_written_again_is_not_the_one_of_a_complete_run(run_path: Path) -> None:
    # Intact and of this run's recipe and epoch, but with other values than the run ended with.
    epochs = run_path / "epochs"
    manifest = schema.read_manifest(epochs / "epoch-0001" / "manifest.json")
    schema.write_manifest(epochs / "epoch-0001" / "manifest.json", {**manifest, "written": "again"})
    message = damage_message(run_path)
    assert "epoch-0001 is not the epoch that" in message
    assert "checks: 0, 2." in message


# Hashes on request. -------------------------------------------------------------------------------


def flip_last_byte(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


def test_a_flipped_bit_is_read_as_values_unless_it_is_verified(run_path: Path) -> None:
    whole = open_run(run_path).records("train").loss(1).tobytes()
    path = run_path / SHARD
    raw = path.read_bytes()
    at = raw.rindex(open_run(run_path).records("train").stored("loss", 1).tobytes()) + 3
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    assert open_run(run_path).records("train").loss(1).tobytes() != whole
    verified = open_run(run_path, verify=True)
    for read in (verified.records("train").loss, lambda epoch: verified.records("train").stored("loss", epoch)):
        with pytest.raises(DamagedRecordError, match=r"Epoch 1 .*train-00000-of-00001\.safetensors.*SHA-256"):
            read(1)
    assert verified.records("train").loss(2).shape


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tokens/validation.safetensors", lambda run: run.records("validation")),
        ("metrics.jsonl", lambda run: run.metrics()),
        ("config.yaml", lambda run: run.config),
    ],
)
def test_other_flipped_bits_are_found_when_verified(run_path: Path, name: str, read: Callable[[Run], object]) -> None:
    flip_last_byte(run_path / name)
    run = open_run(run_path, verify=True)  # Opening hashes nothing.
    with pytest.raises(DamagedRecordError, match=f"{name}.*SHA-256"):
        read(run)


def test_each_file_is_hashed_once_and_again_when_it_was_written_to(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = schema.sha256_file
    monkeypatch.setattr(schema, "sha256_file", lambda path: hashed.append(Path(path).name) or real(path))
    run = open_run(run_path, verify=True)
    assert hashed == []
    for _ in range(3):
        records = run.records("train")
        records.loss(1), records.entropy(1), records.dropped(1)
    assert hashed == ["train.safetensors", "train-00000-of-00001.safetensors"]
    flip_last_byte(run_path / SHARD)
    with pytest.raises(DamagedRecordError, match="SHA-256"):
        records.loss(1)
    assert hashed.count("train-00000-of-00001.safetensors") == 2
    assert open_run(run_path).hashes is None


def test_an_epoch_that_a_complete_run_has_lost_is_missed_when_verified(run_path: Path) -> None:
    shutil.rmtree(run_path / "epochs" / "epoch-0001")
    assert open_run(run_path).epochs == [0, 2]
    with pytest.raises(DamagedRecordError, match=r"lost epochs/epoch-0001, .* There are 0, 2"):
        open_run(run_path, verify=True)


def test_a_verified_study_verifies_its_runs(study_path: Path) -> None:
    assert {run.hashes is None for run in open_study(study_path).runs.values()} == {True}
    for study in (open_study(study_path, verify=True), open_any(study_path, verify=True)):
        assert isinstance(study, Study)
        assert {run.hashes is None for run in study.runs.values()} == {False}
    one = study_path / "runs" / "baseline" / "seed-3"
    opened = open_any(one, verify=True)
    assert isinstance(opened, Run) and opened.hashes is not None


# Studies. -----------------------------------------------------------------------------------------


def test_a_study(study_path: Path) -> None:
    study = open_study(study_path)
    assert study.arms == ["baseline", "entrodrop"]
    assert study.seeds == [3, 1]
    assert list(study.runs) == [("baseline", 3), ("baseline", 1), ("entrodrop", 3)]
    run = study.run("entrodrop", 3)
    assert run.path == study_path / "runs" / "entrodrop" / "seed-3"
    assert run is study.runs["entrodrop", 3]
    assert "2 arms, 2 seeds" in repr(study)


@pytest.mark.parametrize(
    ("arm", "seed", "message"),
    [
        ("entropdrop", 3, r"no arm 'entropdrop'.*did you mean 'entrodrop'\?"),
        ("baseline", 2, "no seed 2: it has 3, 1"),
        ("entrodrop", 1, "arm 'entrodrop' with seed 1 has not been run yet"),
    ],
)
def test_a_run_that_the_study_has_not(study_path: Path, arm: str, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_study(study_path).run(arm, seed)


def test_runs_with_other_tokens_are_not_compared(study_path: Path) -> None:
    shutil.rmtree(study_path / "runs" / "baseline" / "seed-1")
    make_run(study_path / "runs" / "baseline" / "seed-1", n_documents=4, epochs=1, corpus_seed=9)
    with pytest.raises(InputError, match=r"baseline/seed-3 and .*baseline/seed-1 have different"):
        _ = open_study(study_path).runs


def test_opening_a_study_reads_no_run(study_path: Path) -> None:
    for path in study_path.rglob("manifest.json"):
        path.write_bytes(b"")
    assert open_study(study_path).arms == ["baseline", "entrodrop"]


@pytest.mark.parametrize("recipe", [{"arms": ["a"], "seeds": [0]}, {"arms": {"a": {}}}, {}])
def test_a_recipe_that_is_no_study(tmp_path: Path, recipe: dict[str, object]) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="no study recipe"):
        open_study(tmp_path)


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        open_study(tmp_path)


def test_open_any(study_path: Path, whole_run: Path, tmp_path: Path) -> None:
    assert isinstance(open_any(study_path), Study)
    assert isinstance(open_any(str(whole_run)), Run)
    with pytest.raises(InputError, match="holds no study or run .no study.yaml or manifest.json.: give a directory"):
        open_any(tmp_path)


def test_reading_needs_no_torch(whole_run: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import dynamics; run = dynamics.open_any(sys.argv[1])\n"
        "run.records('train').loss(1); run.metrics(); run.config\n"
        "assert dynamics.check_path(sys.argv[1])[0].ok\n"
    )
    subprocess.run([sys.executable, "-c", code, str(whole_run)], check=True)


# Epochs that were cut. ----------------------------------------------------------------------------


def test_a_cut_epoch_is_recorded_and_told(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=3, cut=2.5), verify=True)
    assert run.epochs == [0, 1, 2, 3]
    assert run.partial_epochs == {3: 2.5}
    assert [run.passes(epoch) for epoch in run.epochs] == [0.0, 1.0, 2.0, 2.5]
    assert [run.step(epoch) for epoch in run.epochs] == [0, 10, 20, 25]
    assert repr(run).splitlines()[0].endswith("4 epochs of train, validation; epoch 3 was cut at 2.5 passes)")
    assert np.isfinite(run.records("train").loss(3)).any()
    for ask in (run.passes, run.step):
        with pytest.raises(InputError, match=r"no complete epoch 4: it has 0, 1, 2, 3"):
            ask(4)


def test_whole_epochs_are_their_own_passes(whole_run: Path) -> None:
    run = open_run(whole_run)
    assert run.partial_epochs == {}
    assert run.passes(np.int64(2)) == 2.0 and type(run.passes(2)) is float
    assert repr(run).splitlines()[0].endswith("3 epochs of train, validation)")


def as_version_1(path: Path) -> dict[str, bytes]:
    """Make a run one of format 1, in every header and manifest, and return the bytes of its files of tensors."""
    for file in path.rglob("*.safetensors"):
        raw = file.read_bytes()
        assert raw.count(b'\\"format_version\\":2') == 1 or file.parent.name == "model"
        file.write_bytes(raw.replace(b'\\"format_version\\":2', b'\\"format_version\\":1'))
    hashes = {}
    for file in sorted(path.glob("epochs/*/manifest.json")):
        manifest = schema.read_manifest(file) | {"format_version": 1}
        for key in ("step", "passes"):
            del manifest[key]
        for name, entry in manifest["files"].items():
            entry |= schema.file_entry(file.parent / name)
        hashes[str(manifest["epoch"])] = schema.write_manifest(file, manifest)[schema.SELF_HASH]
    manifest = schema.read_manifest(path / "manifest.json") | {"format_version": 1, "epochs": hashes}
    for entry in manifest["tokens"].values():
        entry |= schema.file_entry(path / entry["file"])
    schema.write_manifest(path / "manifest.json", manifest)
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*.safetensors")}


def test_a_run_of_format_1_opens_and_reads_the_same(whole_run: Path, run_path: Path) -> None:
    before = as_version_1(run_path)
    old, new = open_run(run_path, verify=True), open_run(whole_run)
    assert check_run(run_path).ok
    assert old.manifest["format_version"] == 1 and new.manifest["format_version"] == 2
    assert old.epochs == new.epochs and old.partial_epochs == {}
    assert [old.step(epoch) for epoch in old.epochs] == [None] * 3
    assert [old.passes(epoch) for epoch in old.epochs] == [0.0, 1.0, 2.0]
    for split in new.splits:
        for name in ("loss", "entropy", "correct"):
            for epoch in new.epochs:
                values = [getattr(run.records(split), name)(epoch) for run in (old, new)]
                np.testing.assert_array_equal(*values)
        assert old.records(split).to_xarray().passes.values.tolist() == [0.0, 1.0, 2.0]
    assert {str(f.relative_to(run_path)): f.read_bytes() for f in run_path.rglob("*.safetensors")} == before


def test_a_run_of_format_1_may_go_on_in_format_2(whole_run: Path, run_path: Path) -> None:
    """The manifest and first epochs of format 1, a later epoch of format 2: what resuming an old run leaves."""
    last = run_path / "epochs" / "epoch-0002"
    shutil.rmtree(last)
    as_version_1(run_path)
    shutil.copytree(whole_run / "epochs" / "epoch-0002", last)
    manifest = schema.read_manifest(run_path / "manifest.json")
    own = schema.read_manifest(last / "manifest.json")[schema.SELF_HASH]
    schema.write_manifest(run_path / "manifest.json", manifest | {"epochs": manifest["epochs"] | {"2": own}})
    run = open_run(run_path, verify=True)
    assert check_run(run_path).ok
    assert [run.step(epoch) for epoch in run.epochs] == [None, None, 20]


def test_an_epoch_of_a_later_format_is_refused(run_path: Path) -> None:
    file = run_path / "epochs" / "epoch-0001" / "manifest.json"
    schema.write_manifest(file, schema.read_manifest(file) | {"format_version": 3})
    with pytest.raises(DamagedRecordError, match="its format_version is 3, not 1 or 2"):
        open_run(run_path).records("train").loss(1)


def test_a_damaged_last_manifest_leaves_the_others_readable(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", n_documents=4, epochs=3, cut=2.5)
    (path / "epochs" / "epoch-0003" / "manifest.json").write_text("{}")
    run = open_run(path)
    assert run.partial_epochs == {} and repr(run)
    assert np.isfinite(run.records("train").loss(2)).any()
    with pytest.raises(DamagedRecordError):
        run.step(3)


def test_epochs_that_runs_have_in_common(tmp_path: Path) -> None:
    def run(name: str, epochs: int, cut: float | None = None) -> Run:
        return open_run(make_run(tmp_path / name, n_documents=4, epochs=epochs, cut=cut))

    whole, cut, other, short = run("a", 3), run("b", 3, 2.5), run("c", 3, 2.25), run("d", 2)
    assert common_epochs([whole, short]) == [0, 1, 2]
    assert common_epochs([cut]) == common_epochs([cut, cut]) == [0, 1, 2, 3]
    assert common_epochs([whole, cut]) == common_epochs([cut, other]) == [0, 1, 2]


def test_a_run_beside_lies_beside_its_run_or_is_an_arm_of_its_study(tmp_path: Path) -> None:
    assert run_beside(tmp_path / "run", "ema") == tmp_path / "run-ema"
    assert run_beside(f"{tmp_path}/one/../run/", "ema") == tmp_path / "run-ema"
    inside = tmp_path / "study" / "runs" / "base.line" / "seed-3"
    inside.mkdir(parents=True)
    # A folder that is called so is no study.
    assert run_beside(inside, "swa") == inside.with_name("seed-3-swa")
    (tmp_path / "study" / "study.yaml").write_text("arms: {}\n")
    assert run_beside(inside, "swa") == tmp_path / "study" / "runs" / "base.line+swa" / "seed-3"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inside)
        assert run_beside(".", "swa") == run_beside(inside, "swa")


def test_arms_beside_are_those_that_have_begun(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("arms: {b: {}, a: {}, ab: {}}\nseeds: [0]\n")
    for name in ("a", "a+swa", "a+ema", "ab+ema", "c+ema", "b+notes"):
        (tmp_path / "runs" / name / "seed-0").mkdir(parents=True)
        if name != "b+notes":
            (tmp_path / "runs" / name / "seed-0" / "manifest.json").write_text("{}")
    assert open_study(tmp_path).arms == ["b", "a", "a+ema", "a+swa", "ab", "ab+ema"]
