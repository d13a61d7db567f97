"""Files of tensors: written so that equal values are equal bytes, read only after cheap checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dynamics.errors import DamagedRecordError
from dynamics.records import schema

_METADATA_KEY = "dynamics"

Array = npt.NDArray[Any]


class Hashes:
    """Files whose bytes were found to be those of their manifest: each is hashed once, when it is first read."""

    def __init__(self) -> None:
        self._whole: set[tuple[Path, str, int, int]] = set()

    def require(self, path: Path, entry: Mapping[str, Any]) -> None:
        """Raise DamagedRecordError, naming the file, unless its SHA-256 is the entry's ``sha256``."""
        try:
            # A file that is replaced or written to later is another one, and hashed again.
            stat = path.stat()
            key = (path, entry["sha256"], stat.st_size, stat.st_mtime_ns)
            if key in self._whole:
                return
            found = schema.sha256_file(path)
        except OSError as error:
            raise DamagedRecordError(f"{path} cannot be read: {error.strerror or error}") from error
        if found != entry["sha256"]:
            raise DamagedRecordError(f"{path} was changed after it was written: its SHA-256 is not the manifest's")
        self._whole.add(key)


def write_tensors(path: Path, tensors: Mapping[str, Array], identity: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically, with `identity` (JSON values) in its header."""
    # One metadata key only: safetensors writes several in an order that differs by process.
    metadata = {_METADATA_KEY: schema.canonical_json(identity).decode("ascii")}
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    schema.atomic_write_bytes(path, save(contiguous, metadata=metadata))


def describe_tensors(path: Path) -> dict[str, Any]:
    """Return the entry of a file for a manifest: sha256, bytes, and the tensors' layout."""
    with safe_open(path, framework="numpy") as file:
        return {**schema.file_entry(path), "tensors": _layout(file)}


def read_identity(path: Path) -> dict[str, Any]:
    """Return what the header of a file says of it."""
    with safe_open(path, framework="numpy") as file:
        return _identity(file)


def read_tensors(
    path: Path,
    entry: Mapping[str, Any],
    names: Iterable[str],
    *,
    identity: Mapping[str, Any],
    mapped: bool = False,
    hashes: Hashes | None = None,
) -> dict[str, Array]:
    """Read some tensors of a file, once its size, identity and layout are as its manifest says.

    Parameters
    ----------
    entry
        What the manifest says of the file: ``bytes`` and ``tensors``.
    identity
        What the file's header must say of it, so that swapped files are found.
    mapped
        Return read-only views of the mapped file, whose pages are read when they are looked at, instead of copies.
    hashes
        Where every byte is to be compared too; without it a flipped bit among the values goes unseen.

    Raises
    ------
    DamagedRecordError
        Naming the file and what differs.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DamagedRecordError(f"{path} is missing") from error
    if size != entry["bytes"]:
        raise DamagedRecordError(f"{path} has {size} bytes; its manifest says {entry['bytes']}")
    try:
        with safe_open(path, framework="numpy") as file:
            found = _identity(file)
            differing = [key for key, value in identity.items() if not _same(key, found.get(key), value)]
            if differing:
                raise DamagedRecordError(
                    f"{path} is another file's content: "
                    + ", ".join(f"{key} is {found.get(key)!r}" for key in differing)
                )
            if _layout(file) != entry["tensors"]:
                raise DamagedRecordError(f"{path} holds other tensors than its manifest says")
            if hashes is not None:
                hashes.require(path, entry)
            if mapped:
                return _map(path, names)
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, DamagedRecordError):
            raise
        raise DamagedRecordError(f"{path} cannot be read: {error}") from error


def _map(path: Path, names: Iterable[str]) -> dict[str, Array]:
    """Map a file whose layout was compared already; safetensors itself only copies into numpy."""
    whole = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    first = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8:first].tobytes())
    tensors = {}
    for name in names:
        part = header[name]
        start, end = (first + offset for offset in part["data_offsets"])
        tensors[name] = whole[start:end].view(schema.DTYPE_NAMES[part["dtype"]]).reshape(part["shape"])
    return tensors


def _same(key: str, found: Any, expected: Any) -> bool:
    """Whether a header says what it should: of the versions of the format any that is read."""
    return bool(found in schema.READABLE_VERSIONS if key == "format_version" else found == expected)


def _identity(file: Any) -> dict[str, Any]:
    identity = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    return identity if isinstance(identity, dict) else {}


def _layout(file: Any) -> dict[str, dict[str, Any]]:
    layout = {}
    for name in file.keys():  # noqa: SIM118 (the handle of a file is no mapping)
        part = file.get_slice(name)
        dtype = schema.DTYPE_NAMES.get(part.get_dtype(), part.get_dtype())
        layout[name] = {"dtype": dtype, "shape": list(part.get_shape())}
    return layout
