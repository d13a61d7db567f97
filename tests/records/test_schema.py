"""Formats: the meaning of masks, bits, types and hashes, and manifests that betray any change."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema


def test_pack_bits_puts_the_first_position_into_the_lowest_bit() -> None:
    mask = np.array([[1, 0, 1, 0, 0, 0, 0, 0, 0, 1]], dtype=bool)
    packed = schema.pack_bits(mask)
    assert packed.dtype == np.uint8
    assert packed.tolist() == [[0b101, 0b10]]
    np.testing.assert_array_equal(schema.unpack_bits(packed, 10), mask)


@settings(max_examples=50, deadline=None)
@given(npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_bits_survive_packing(mask: np.ndarray) -> None:
    packed = schema.pack_bits(mask)
    assert packed.shape == (mask.shape[0], -(-mask.shape[1] // 8))
    np.testing.assert_array_equal(schema.unpack_bits(packed, mask.shape[1]), mask)


def test_quantise_clips_counts_and_keeps_nan() -> None:
    values = np.array([1.5, 65504, 65505, 70000, -np.inf, np.inf, np.nan], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored, clipped = schema.quantise(values, "float16")
    assert stored.dtype == np.float16
    assert clipped == 4
    np.testing.assert_array_equal(stored, [1.5, 65504, 65504, 65504, -65504, 65504, np.nan])


def test_quantise_float32_keeps_what_float16_cannot_hold() -> None:
    stored, clipped = schema.quantise(np.array([70000.25, np.nan], dtype=np.float32), "float32")
    assert stored.dtype == np.float32
    assert clipped == 0
    np.testing.assert_array_equal(stored, np.array([70000.25, np.nan], dtype=np.float32))


def test_quantise_gives_every_nan_the_same_bytes() -> None:
    odd = np.array([0x7FC00001, 0xFFC00000], dtype=np.uint32).view(np.float32)
    stored, _ = schema.quantise(odd, "float32")
    assert stored.tobytes() == np.array([np.nan, np.nan], dtype=np.float32).tobytes()


def test_quantise_refuses_other_types() -> None:
    with pytest.raises(InputError, match="'bfloat16'.*float16, float32"):
        schema.quantise(np.zeros(1), "bfloat16")


def test_names() -> None:
    assert schema.epoch_folder(3) == "epochs/epoch-0003"
    assert schema.epoch_folder(12345) == "epochs/epoch-12345"
    assert schema.shard_file("train", 0, 1) == "train-00000-of-00001.safetensors"
    assert schema.tokens_file("validation") == "tokens/validation.safetensors"


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("epoch-0003", 3),
        ("epoch-12345", 12345),
        ("epoch-00003", None),
        ("epoch-3", None),
        ("epoch-0003.partial", None),
        ("xepoch-0003", None),
    ],
)
def test_parse_epoch(name: str, epoch: int | None) -> None:
    assert schema.parse_epoch(name) == epoch


def test_splits_are_listed_train_first() -> None:
    found = schema.in_split_order({"validation", "tuning", "train", "other"})
    assert found == ["train", "validation", "tuning", "other"]


def test_hashes_are_plain_sha256(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert schema.sha256_file(file) == known
    assert schema.file_entry(file) == {"sha256": known, "bytes": 3}


def test_config_hash_ignores_the_order_of_keys_only() -> None:
    first = schema.config_hash({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert first == schema.config_hash({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert first == hashlib.sha256(b'{"a":1,"b":{"c":[1,2],"d":null}}').hexdigest()
    assert first != schema.config_hash({"a": 1, "b": {"c": [2, 1], "d": None}})
    assert first != schema.config_hash({"a": 1.0, "b": {"c": [1, 2], "d": None}})


def test_difference_of_sequences() -> None:
    found, expected = np.array([1, 2, 2, 9]), np.array([1, 2, 3])
    message = schema.difference_of_sequences(found, expected)
    assert "1 sequences recorded twice (2)" in message
    assert "1 sequences missing (3)" in message
    assert "1 sequences not to be recorded (9)" in message


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "file"
    (tmp_path / "file.tmp").write_bytes(b"of a killed process")
    schema.atomic_write_bytes(file, b"one")
    schema.atomic_write_bytes(file, b"two")
    assert file.read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    schema.atomic_write_bytes(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        schema.atomic_write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_manifest_comes_back_as_plain_json(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    written = schema.write_manifest(file, {"shape": (2, 3), "by_epoch": {10: "x", 2: "y"}})
    assert schema.read_manifest(file) == written
    assert written["shape"] == [2, 3]
    assert written["by_epoch"] == {"10": "x", "2": "y"}
    rest = {key: value for key, value in written.items() if key != "manifest_sha256"}
    compact = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    assert written["manifest_sha256"] == hashlib.sha256(compact).hexdigest()


def test_a_changed_manifest_can_be_sealed_again(tmp_path: Path) -> None:
    sealed = schema.seal_manifest({"status": "running"})
    file = tmp_path / "manifest.json"
    schema.write_manifest(file, {**sealed, "status": "complete"})
    assert schema.read_manifest(file)["status"] == "complete"


def test_a_manifest_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        schema.write_manifest(tmp_path / "manifest.json", {"seconds": float("nan")})


def test_any_changed_byte_of_a_manifest_is_found(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    content = {"a": 0.1, "b": [1, 1e300, True, None], "c": {"text": "é"}}
    schema.write_manifest(file, content)
    good = file.read_bytes()
    for position in range(len(good)):
        for bit in range(8):
            flipped = bytearray(good)
            flipped[position] ^= 1 << bit
            file.write_bytes(bytes(flipped))
            with pytest.raises(DamagedRecordError, match=r"manifest\.json"):
                schema.read_manifest(file)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]\n", "manifest_sha256"),
        (b'{"a": 1}\n', "manifest_sha256"),
        (b'{"manifest_sha256": NaN}\n', "does not allow"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_what_is_no_manifest_is_damage(tmp_path: Path, raw: bytes, message: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(raw)
    with pytest.raises(DamagedRecordError, match=message):
        schema.read_manifest(file)


def test_equal_content_written_differently_is_found(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    sealed = schema.write_manifest(file, {"a": 1})
    file.write_text(json.dumps(sealed))  # same content, other blanks
    with pytest.raises(DamagedRecordError, match="was changed"):
        schema.read_manifest(file)


def test_a_missing_manifest_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecordError, match="cannot be read"):
        schema.read_manifest(tmp_path / "manifest.json")


def test_another_format_is_refused_with_a_remedy() -> None:
    schema.require_format({"format_version": 1}, "run")
    schema.require_format({"format_version": 2}, "run")
    with pytest.raises(InputError, match=r"run has records of format 3.*formats 1 and 2"):
        schema.require_format({"format_version": 3}, "run")
    with pytest.raises(InputError, match=r"format None"):
        schema.require_format({}, "run")


def test_the_moment_of_an_epoch_says_what_is_known_and_no_more() -> None:
    assert schema.epoch_moment(3, None, None) == {}
    assert schema.epoch_moment(3, 120, 3.0) == {"step": 120, "passes": 3.0}
    assert schema.epoch_moment(3, 100, 2.5) == {"step": 100, "passes": 2.5, "partial": True}
    for passes in (2.0, 3.25):
        with pytest.raises(AssertionError):
            schema.epoch_moment(3, None, passes)
