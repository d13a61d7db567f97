"""The formats of a run on disk: names, types, hashes, and the few functions that fix their meaning.

A run directory holds ``config.yaml``, ``manifest.json``, ``tokens/``, ``epochs/``, ``model/``,
``checkpoints/`` and ``metrics.jsonl``. Every manifest is *sealed*: it carries the SHA-256 of its
own content and its bytes are the one rendering of that content, so that no byte of it can change
unseen. Nothing here is pickled and nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamics.errors import DamagedRecordError, InputError
from dynamics.predicted import predicted_mask

#: What is written. From version 2 the manifest of an epoch may say ``step``, ``passes`` and ``partial``; nothing else
#: changed. A file of tokens may hold tensors that not every run has (``unlabelled``, ``document_fields``), and a run's
#: manifest ``token_text``: what does not know them reads the rest.
FORMAT_VERSION = 2
#: What is read.
READABLE_VERSIONS = (1, 2)

CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.jsonl"
STUDY_FILE = "study.yaml"
SUMMARY_FILE = "study.json"
TUNING_FILE = "tuning.json"
TOKENS_FOLDER = "tokens"
EPOCHS_FOLDER = "epochs"
MODEL_FOLDER = "model"
CHECKPOINTS_FOLDER = "checkpoints"
RUNS_FOLDER = "runs"
TUNING_FOLDER = "tuning"
PARTIAL_SUFFIX = ".partial"
TEMPORARY_SUFFIX = ".tmp"

#: The parts of a corpus, in the order in which they are listed.
SPLITS = ("train", "validation", "tuning")

#: The types that recorded values may have on disk. numpy cannot read bfloat16, so it is not one.
VALUE_DTYPES = ("float16", "float32")

#: What the optimiser saw, where it was recorded; kept apart from the clean values.
TRAINING_VALUES = ("training_loss", "training_entropy")

#: Names of numpy types by the code that a safetensors header gives them.
DTYPE_NAMES = {
    "F16": "float16",
    "F32": "float32",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
}

SELF_HASH = "manifest_sha256"

_EPOCH_NAME = re.compile(r"epoch-(\d{4,})")


# ---------------------------------------------------------------------------------------- names


def tokens_file(split: str) -> str:
    """Return the path, relative to the run, of the tokens of `split`."""
    return f"{TOKENS_FOLDER}/{split}.safetensors"


def epoch_folder(epoch: int) -> str:
    """Return the path, relative to the run, of the records of `epoch`."""
    return f"{EPOCHS_FOLDER}/epoch-{epoch:04d}"


def trial_folder(arm: str, number: int) -> str:
    """Return the path, relative to the study, of the run of an arm's trial."""
    return f"{TUNING_FOLDER}/{arm}/trial-{number}"


def shard_file(split: str, rank: int, world: int) -> str:
    """Return the name of the file that process `rank` of `world` writes for `split`."""
    return f"{split}-{rank:05d}-of-{world:05d}.safetensors"


def parse_epoch(name: str) -> int | None:
    """Return the epoch that a folder name stands for, or None when it stands for none."""
    match = _EPOCH_NAME.fullmatch(name)
    # The name must be the one that would be written: "epoch-00003" is not epoch 3.
    return int(match[1]) if match and name == f"epoch-{int(match[1]):04d}" else None


def in_split_order(splits: Collection[str]) -> list[str]:
    """Sort splits as `SPLITS` does, any others after them by name."""
    known = [split for split in SPLITS if split in splits]
    return known + sorted(set(splits) - set(SPLITS))


# ------------------------------------------------------------------------------------- identity


def tokens_identity(split: str) -> dict[str, Any]:
    """Return what the header of a file of tokens says of it; read, it may say another of `READABLE_VERSIONS`."""
    return {"format_version": FORMAT_VERSION, "kind": "tokens", "split": split}


def shard_identity(epoch: int, split: str, rank: int, world: int) -> dict[str, Any]:
    """Return what a shard's own header says of it, as `tokens_identity`: swapped files are found without hashing."""
    return {
        "format_version": FORMAT_VERSION,
        "kind": "epoch",
        "epoch": epoch,
        "split": split,
        "rank": rank,
        "world": world,
    }


# -------------------------------------------------------------------------------------- meaning


def predicted_of(arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Return which tokens of a file of tokens have a prediction: (S, B) bool.

    Those of `predicted_mask`, without the ones that the trainer gave no label (a prompt's).
    """
    predicted = predicted_mask(arrays["document_id"])
    if "unlabelled" in arrays:
        predicted &= ~unpack_bits(arrays["unlabelled"], predicted.shape[1])
    return predicted


def pack_fields(fields: Mapping[str, Sequence[Any]], *, n_documents: int) -> npt.NDArray[np.uint8]:
    """Return what is kept of documents, by field one JSON scalar each, as the bytes of its canonical JSON."""
    assert all(len(values) == n_documents for values in fields.values()), "one value a document"
    content = canonical_json({name: list(values) for name, values in fields.items()})
    return np.frombuffer(content, dtype=np.uint8)


def fields_of(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, list[Any]]:
    """Undo `pack_fields` for a file of tokens; {} where nothing was kept.

    Raises
    ------
    DamagedRecordError
        If the file holds something else, or not one value for each of its documents.
    """
    if "document_fields" not in arrays:
        return {}
    n_documents = len(arrays["document_hash"])
    try:
        fields = json.loads(arrays["document_fields"].tobytes().decode("ascii"))
        lengths = {name: len(values) if isinstance(values, list) else -1 for name, values in fields.items()}
    except (ValueError, RecursionError, AttributeError) as error:
        raise DamagedRecordError(f"document_fields is not what was kept of the documents: {error}") from error
    wrong = [name for name, length in lengths.items() if length != n_documents]
    if wrong:
        raise DamagedRecordError(f"document_fields has not one {wrong[0]!r} for each of {n_documents} documents")
    return dict(fields)


def difference_of_sequences(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str:
    """Say how the recorded sequences differ from those that should have been recorded."""
    ids, counts = np.unique(found, return_counts=True)
    parts = []
    for what, which in (
        ("recorded twice", ids[counts > 1]),
        ("missing", np.setdiff1d(expected, ids)),
        ("not to be recorded", np.setdiff1d(ids, expected)),
    ):
        if len(which):
            shown = ", ".join(str(i) for i in which[:5])
            parts.append(f"{len(which)} sequences {what} ({shown}{', ...'[: 5 * (len(which) > 5)]})")
    return "; ".join(parts) or "the sequences are not in order"


def epoch_moment(epoch: int, step: int | None, passes: float | None) -> dict[str, Any]:
    """Return what an epoch's manifest says of when it was recorded: what is known, and nothing else."""
    assert step is None or step >= 0, f"step {step}"
    moment: dict[str, Any] = {} if step is None else {"step": int(step)}
    if passes is not None:
        assert passes == epoch or epoch - 1 < passes < epoch, f"epoch {epoch} ends a pass; {passes} passes do not"
        moment["passes"] = float(passes)
        if passes != epoch:
            moment["partial"] = True
    return moment


def pack_bits(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Pack a (S, B) bool array into (S, ceil(B / 8)) bytes, lowest bit first."""
    return np.packbits(np.asarray(mask, dtype=bool), axis=-1, bitorder="little")


def unpack_bits(bits: npt.NDArray[np.uint8], block_size: int) -> npt.NDArray[np.bool_]:
    """Undo `pack_bits`: (S, ceil(B / 8)) bytes into a (S, `block_size`) bool array."""
    return np.unpackbits(bits, axis=-1, count=block_size, bitorder="little").astype(bool)


def quantise(values: npt.ArrayLike, dtype: str) -> tuple[npt.NDArray[np.floating[Any]], int]:
    """Turn values into the type in which they are stored, clipping what it cannot hold.

    Parameters
    ----------
    values
        Floats of any shape, NaN where undefined.
    dtype
        "float16" (clipped at +-65,504) or "float32".

    Returns
    -------
    array, n_clipped
        The values in `dtype`, and how many were clipped (infinities are). NaN is kept, with one
        bit pattern, so that equal values are equal bytes.

    Raises
    ------
    InputError
        If `dtype` is neither of the two.
    """
    if dtype not in VALUE_DTYPES:
        raise InputError(f"Cannot record values as {dtype!r}: use one of {', '.join(VALUE_DTYPES)}")
    exact = np.asarray(values)
    limit = float(np.finfo(dtype).max)
    clipped = int(np.count_nonzero(np.abs(exact) > limit))
    stored = np.clip(exact, -limit, limit).astype(dtype)
    stored[np.isnan(stored)] = np.nan
    return stored, clipped


# --------------------------------------------------------------------------------------- hashes


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one compact JSON rendering of `value`; raises ValueError for NaN or infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a resolved recipe, whatever the order of its keys."""
    return hashlib.sha256(canonical_json(config)).hexdigest()


def file_entry(path: Path) -> dict[str, Any]:
    """Return what a manifest says of any file: ``{"sha256", "bytes"}``."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


# -------------------------------------------------------------------------------------- writing


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable, as fsync does for the bytes of a file."""
    if os.name == "nt":  # Windows cannot open a folder, and does not need to.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part of one."""
    path = Path(path)
    # One fixed name: what a killed process left is replaced by the next attempt.
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    atomic_write_bytes(path, _render(value))


# ------------------------------------------------------------------------------------ manifests


def seal_manifest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` as plain JSON values with the hash of all the rest in `SELF_HASH`.

    Sealing a sealed manifest again (after changing it) replaces the hash.
    """
    # Through JSON and back: tuples become lists and integer keys strings, as a reader sees them.
    plain: dict[str, Any] = json.loads(json.dumps(dict(content), allow_nan=False))
    plain.pop(SELF_HASH, None)
    plain[SELF_HASH] = hashlib.sha256(canonical_json(plain)).hexdigest()
    return plain


def write_manifest(path: str | os.PathLike[str], content: Mapping[str, Any]) -> dict[str, Any]:
    """Seal `content`, write it atomically to the file `path`, and return it as sealed."""
    sealed = seal_manifest(content)
    atomic_write_json(path, sealed)
    return sealed


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a sealed manifest, run's or epoch's.

    Raises
    ------
    DamagedRecordError
        If the file is missing, is no JSON, or differs in any byte from what was written.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DamagedRecordError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(raw.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or SELF_HASH not in content:
        raise DamagedRecordError(f"{path} has no {SELF_HASH!r}: it is damaged or was not sealed")
    # The rendering is compared too: the hash alone would not see a changed blank or a double key.
    if seal_manifest(_finite(content, path)) != content or _render(content) != raw:
        raise DamagedRecordError(f"{path} was changed after it was written (its hash differs)")
    return content


def require_format(manifest: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise InputError unless this version of the library reads the format of `manifest`."""
    version = manifest.get("format_version")
    if version not in READABLE_VERSIONS:
        raise InputError(
            f"{path} has records of format {version!r}, and this version reads formats "
            f"{' and '.join(map(str, READABLE_VERSIONS))}: use the version of dynamics that wrote it"
        )


def read_tuning(study_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what a study chose by tuning, by arm; None where it tunes nothing, or has not chosen yet.

    Of an arm: ``choose`` ("best" or "final" loss), ``seed``, ``budget`` (``trials``, and ``epochs`` of all), ``trials``
    (each with ``settings`` by dotted key, its ``run`` in the study, ``loss`` in nats per token and ``epoch``; neither
    where it diverged), ``chosen`` (which of them), ``settings`` and ``unequal_budget``.

    Raises
    ------
    DamagedRecordError
        If the file is damaged.
    """
    path = Path(study_dir) / TUNING_FILE
    if not path.exists():
        return None
    manifest = read_manifest(path)
    require_format(manifest, path)
    arms: dict[str, Any] = manifest.get("arms", {})
    return arms


def require_run(manifest: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise DamagedRecordError if a sealed manifest is no run's: an epoch's in its place, say."""
    if not isinstance(manifest.get("tokens"), dict):
        raise DamagedRecordError(f"{path} is no run's manifest: it names no tokens")


def _finite(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Refuse the NaN and Infinity that Python's JSON reader lets pass."""
    try:
        canonical_json(content)
    except ValueError as error:
        raise DamagedRecordError(f"{path} holds a number that JSON does not allow") from error
    return content


def _render(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False)
    return (text + "\n").encode("ascii")
