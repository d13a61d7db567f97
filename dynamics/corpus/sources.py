"""Where documents come from: files, folders, hub data sets and the built-in corpora.

The network is used for ``hub:`` sources only. Everything read is checked here, so that later stages
may rely on documents that are not empty and can be written as UTF-8.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dynamics.corpus.builtin import BUILTIN_NAMES, builtin_texts
from dynamics.corpus.rows import RowText, Scalar, check_columns, kept_values, row_text
from dynamics.errors import InputError, nearest

EXTENSIONS = (".txt", ".md", ".jsonl", ".parquet")
_SOURCES = "a path (txt, md, jsonl, parquet; a file or a folder), builtin:NAME or hub:NAME"
_BYTE_ORDER_MARK = "\ufeff"

#: In `load_documents`' ``keep``, in the place of a field: which of the sources a document is from.
SOURCE = "<source>"

Kept = tuple[tuple[str, Scalar], ...]
#: The text, where it was found, and what is kept of its row.
Found = tuple[str, str, Kept]


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it was found (a file, a file and line, or a place in a named corpus).

    `kept` are the fields, and their values, that were asked for beside the text.
    """

    text: str
    origin: str
    kept: Kept = ()

    @property
    def content_hash(self) -> str:
        """sha256 of the text's UTF-8 bytes, as 64 hexadecimal digits; the origin has no part."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_documents(
    source: str | Sequence[str],
    *,
    documents: int | None = None,
    field: str = "text",
    template: str | None = None,
    split: str = "train",
    subset: str | None = None,
    keep: Sequence[str] = (),
) -> list[Document]:
    r"""Read the documents of one source, or of several in their order.

    Parameters
    ----------
    source
        ``builtin:NAME``, ``hub:OWNER/SET`` (or ``hub:OWNER/SET/FOLDER``, a folder of its files), a path, or a list of
        these. A txt or md file is one
        document, a line of jsonl or a row of parquet is one; a folder stands for all such files
        below it, sorted by relative path (names that begin with a dot are passed over).
    documents
        Keep only that many: those with the lowest content hash, in source order.
    field
        The key or column that holds the text, in jsonl, parquet and hub sources; or the turns of a conversation
        (``role`` and ``content``, or ``from`` and ``value``), whose texts are joined by blank lines, without roles.
    template
        Builds the text from several fields instead, as ``"{question}\n{answer}"``. Plain names
        only; ``{{`` and ``}}`` are braces.
    split, subset
        Which part and which configuration of a hub data set.
    keep
        Fields of jsonl, parquet and hub sources to keep beside the text (text, numbers, true or false); None where a
        document has none. ``<source>`` stands for the source, by the last part of its name.

    Returns
    -------
    list of Document
        Never empty; whitespace-only documents are left out.

    Raises
    ------
    InputError
        The source is missing, unknown, empty or malformed; the message names the place.
    """
    text_of = row_text(field, template)
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not sources:
        raise InputError(f"the corpus has an empty list of sources; give {_SOURCES}")
    labels = _source_labels([os.fspath(one) for one in sources])
    fields = [name for name in keep if name != SOURCE]
    found = [
        Document(text, origin, tuple((name, label if name == SOURCE else dict(kept)[name]) for name in keep))
        for one, label in zip(sources, labels, strict=True)
        for text, origin, kept in _read(os.fspath(one), text_of, fields, split=split, subset=subset)
        if text.strip()
    ]
    named = ", ".join(map(str, sources))
    if not found:
        raise InputError(f"corpus {named} holds no text: every document in it is empty")
    if documents is None:
        return found
    if not 0 < documents <= len(found):
        raise InputError(
            f"documents: {documents} was asked of {named}, which holds {len(found)} documents; "
            f"give a number from 1 to {len(found)}, or leave it out to take all"
        )
    by_hash = sorted(range(len(found)), key=lambda i: found[i].content_hash)
    return [found[i] for i in sorted(by_hash[:documents])]


def require_kept(docs: Sequence[Document]) -> None:
    """Raise InputError, naming it, for a field that was to be kept and that none of the documents has."""
    for at, (name, _) in enumerate(docs[0].kept):
        if all(document.kept[at][1] is None for document in docs):
            raise InputError(
                f"corpus.keep: none of the {len(docs)} documents has the field {name!r}; name a field of the rows "
                f"(jsonl, parquet and hub sources have them), or {SOURCE}"
            )


def corpus_hash(docs: Sequence[Document]) -> str:
    """Return the sha256 (hexadecimal) over the content hashes of `docs`, in their order."""
    whole = hashlib.sha256()
    for document in docs:
        whole.update(bytes.fromhex(document.content_hash))
    return whole.hexdigest()


def _source_labels(sources: Sequence[str]) -> list[str]:
    """Return the last parts of the names of sources; whole names where two end alike."""
    last = [name if ":" in name else os.path.basename(name.rstrip(os.sep)) for name in sources]
    return last if len(set(last)) == len(set(sources)) else list(sources)


def _read(source: str, text_of: RowText, fields: Sequence[str], *, split: str, subset: str | None) -> Iterator[Found]:
    scheme, _, name = source.partition(":")
    if scheme == "builtin":
        return ((text, origin, kept_values({}, fields, origin)) for text, origin in builtin_texts(name))
    if scheme == "hub":
        return _read_hub(name, text_of, fields, split=split, subset=subset)
    return _read_path(source, text_of, fields)


def _read_path(source: str, text_of: RowText, fields: Sequence[str]) -> Iterator[Found]:
    # os.path answers False where pathlib raises: names too long, NULs, unknown users.
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        for file in _files_below(Path(path)):
            yield from _read_file(file, text_of, fields)
    elif os.path.isfile(path):
        yield from _read_file(Path(path), text_of, fields)
    else:
        raise InputError(_missing(source, path))


def _missing(source: str, path: str) -> str:
    if os.path.exists(path):
        return f"corpus {source!r} is neither a file nor a folder; give {_SOURCES}"
    if source in BUILTIN_NAMES:
        return f"corpus {source!r} does not exist as a path; did you mean 'builtin:{source}'?"
    folder, name = os.path.split(os.path.abspath(path))
    siblings = os.listdir(folder) if os.path.isdir(folder) and os.access(folder, os.R_OK) else []
    known = [f"builtin:{builtin}" for builtin in BUILTIN_NAMES]
    hint = nearest(name, siblings) or nearest(source, known)
    return f"corpus {source!r} does not exist (looked for {os.path.abspath(path)!r}){hint}; give {_SOURCES}"


def _files_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS
        ]
    if not found:
        raise InputError(
            f"folder {folder} holds no file that can be read; looked, at any depth, for {', '.join(EXTENSIONS)}"
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _read_file(path: Path, text_of: RowText, fields: Sequence[str]) -> Iterator[Found]:
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise InputError(
            f"{path}: files ending in {extension or 'no extension'!r} are not read"
            f"{nearest(extension, EXTENSIONS)}; known are {', '.join(EXTENSIONS)}"
        )
    if extension == ".parquet":
        yield from _read_parquet(path, text_of, fields)
        return
    text = _decoded(path)
    if extension == ".jsonl":
        yield from _read_json_lines(path, text, text_of, fields)
    else:
        yield text, str(path), kept_values({}, fields, str(path))


def _decoded(path: Path) -> str:
    """Return a text file as it is: line ends and NULs stay, a byte-order mark goes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return data.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: not UTF-8 at byte {error.start} (line {line}, value 0x"
            f"{data[error.start]:02x}); save the file as UTF-8 or leave it out"
        ) from error


def _read_json_lines(path: Path, text: str, text_of: RowText, fields: Sequence[str]) -> Iterator[Found]:
    # Not splitlines: JSON strings may hold U+2028 and others that it would split at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{place}: not valid JSON ({error.msg} at character {error.pos + 1}); each line "
                "of a jsonl file is one JSON object"
            ) from error
        except (ValueError, RecursionError) as error:  # a number or a nesting beyond all measure
            raise InputError(f"{place}: this JSON cannot be read ({error})") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{place}: is {type(row).__name__}, not an object; each line of a jsonl file is "
                'one JSON object, as {"text": "..."}'
            )
        yield text_of(row, place), place, kept_values(row, fields, place)


def _read_parquet(path: Path, text_of: RowText, fields: Sequence[str]) -> Iterator[Found]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_columns(text_of, file.schema_arrow.names, str(path))
            number = 0
            for batch in file.iter_batches(columns=_columns(text_of, fields, file.schema_arrow.names)):
                for row in batch.to_pylist():
                    number += 1
                    place = f"{path} row {number}"
                    yield text_of(row, place), place, kept_values(row, fields, place)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({error})") from error


def _columns(text_of: RowText, fields: Sequence[str], present: Sequence[str]) -> list[str]:
    """Return the columns of a table that are read: all of the text's, and of what is kept those that are there."""
    return list(dict.fromkeys([*text_of.fields, *(name for name in fields if name in present)]))


class HubPlace(NamedTuple):
    """What of the hub a source names: a data set (or a folder on this machine, `local`), and a folder in it."""

    name: str
    folder: str | None
    local: bool


def hub_place(name: str) -> HubPlace:
    """Return what ``hub:NAME`` names: owner/set, owner/set/folder, or a folder on this machine."""
    local = os.path.isdir(name)
    owner, set_, folder = [*name.split("/", 2), "", ""][:3]
    if local or not folder or not owner:
        return HubPlace(name, None, local)
    return HubPlace(f"{owner}/{set_}", folder, local)


def _read_hub(name: str, text_of: RowText, fields: Sequence[str], *, split: str, subset: str | None) -> Iterator[Found]:
    if not name:
        raise InputError("'hub:' needs the name of a data set, as hub:owner/name")
    import datasets

    what = f"hub data set {name!r} (subset {subset!r}, split {split!r})"
    try:
        place_of = hub_place(name)
        data: Any = datasets.load_dataset(place_of.name, subset, data_dir=place_of.folder, split=split)
    except Exception as error:  # the library raises many kinds, for names, files and connections
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{what} could not be loaded: {reason}. Check the name, the subset, the split and the "
            "connection; offline, only data sets that were loaded before, or a local path, work"
        ) from error
    check_columns(text_of, data.column_names, what)
    # Only what is needed: other columns may hold images or sound that would be decoded.
    columns = _columns(text_of, fields, data.column_names)
    rows: Iterator[Mapping[str, object]] = iter(data.select_columns(columns))
    for number, row in enumerate(rows, start=1):
        place = f"hub:{name} {split} row {number}"
        yield text_of(row, place), place, kept_values(row, fields, place)
