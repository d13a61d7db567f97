"""Tokenizers: train one, load one, and encode documents so that every token knows its bytes.

Offsets from tokenizers count characters, and one character may be several tokens. For byte-level
tokenizers the spans here are therefore computed from the bytes that each token stands for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dynamics.cache import placed_model
from dynamics.errors import InputError, hub_name

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
_N_BYTES = 256
_BATCH = 1024  # documents encoded at once; bounds the memory that their offsets take
# Characters of one word that training sees in one piece: its time grows with the square of a word's length, and a
# line of a megabyte without a space (base64, say) would take it minutes.
_LONGEST_WORD = 4096
_RUN = re.compile(rf"\S{{1,{_LONGEST_WORD}}}|\s{{1,{_LONGEST_WORD}}}")

# Saved by these classes, a tokenizer is what its tokenizer.json says and nothing else.
_GENERIC_CLASSES = {"TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer"}

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDocument:
    """The tokens of one document, the final end-of-text token included.

    Attributes
    ----------
    token_id, byte_start, byte_end
        (n_tokens,) int32; token i is bytes [start, end) of the document's UTF-8 text, and the
        end-of-text token is the empty span at its end. Starts and ends never decrease.
    """

    token_id: Int32
    byte_start: Int32
    byte_end: Int32


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; the same texts always give the same one.

    Parameters
    ----------
    texts
        What to learn from. Special tokens that occur in it are ordinary text.
    vocab_size
        How many entries there shall be: 2 special tokens (``<|endoftext|>`` 0, ``<|pad|>`` 1), 256
        bytes and the merges. Fewer when no pair occurs twice any more.

    Raises
    ------
    InputError
        `vocab_size` has no room for the bytes and the special tokens.
    """
    smallest = _N_BYTES + 2
    if vocab_size < smallest:
        raise InputError(
            f"tokenizer.train.vocab_size: {vocab_size} is too small; {_N_BYTES} bytes and 2 "
            f"special tokens need {smallest} or more"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_with_short_words(texts), trainer=trainer)
    wrap: Any = PreTrainedTokenizerFast  # untyped in transformers
    tokenizer: PreTrainedTokenizerFast = wrap(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=PADDING)
    return tokenizer


def _with_short_words(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, those with a run of letters or of spaces beyond all measure in several parts."""
    for text in texts:
        lengths = [len(word) for word in text.split()]
        start = 0
        # Splitting at spaces is quick; going from run to run is for the few texts that may need it.
        if max(lengths, default=0) > _LONGEST_WORD or len(text) - sum(lengths) > _LONGEST_WORD:
            for run in _RUN.finditer(text):
                if run.end() - run.start() == _LONGEST_WORD:
                    yield text[start : run.end()]
                    start = run.end()
        yield text[start:]


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder, as ``cache:NAME`` or, where there is no such path, by its hub name.

    Raises
    ------
    InputError
        It is missing or unreadable, has no fast backend, or has no end-of-text token.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        path = Path(os.path.expanduser(placed_model(name_or_path)))
    except InputError as error:
        raise InputError(f"tokenizer {error}") from error
    is_local = path.is_dir()
    if not is_local:
        _check_hub_name(name_or_path, path)
    # Given the configuration of a model beside it, AutoTokenizer may rebuild a tokenizer as that
    # model's own kind (a trained one beside a qwen2 model gets another normaliser, silently).
    loader: Any = PreTrainedTokenizerFast if is_local and _is_generic(path) else AutoTokenizer
    try:
        tokenizer: PreTrainedTokenizerFast = loader.from_pretrained(
            str(path) if is_local else name_or_path,
            local_files_only=is_local,
            trust_remote_code=False,
        )
    except Exception as error:  # the library raises many kinds
        reason, owned = " ".join(str(error).split()) or type(error).__name__, hub_name(name_or_path)
        raise InputError(
            f"tokenizer {name_or_path!r} could not be loaded: {reason.rstrip('.')}. Give a folder that save_pretrained "
            f"wrote, a hub name or cache:NAME{'' if owned is None else f'; on the hub it is {owned}'}"
        ) from error
    _check(tokenizer, name_or_path)
    return tokenizer


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id to pad with: the padding token's or, where there is none, end of text's."""
    padding = tokenizer.pad_token_id
    return int(_eos_id(tokenizer) if padding is None else padding)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> EncodedDocument:
    """Encode one document; for many, `encode_documents` is much faster."""
    return encode_documents(tokenizer, [text])[0]


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[EncodedDocument]:
    """Encode documents, each followed by the end-of-text token and by no other special token.

    Special tokens that occur inside a text are encoded as ordinary text. Nothing is truncated.

    Parameters
    ----------
    tokenizer
        Any fast tokenizer with an end-of-text token.
    texts
        The documents.

    Returns
    -------
    list of EncodedDocument
        Where the tokens stand for the bytes of the text exactly, as those of byte-level tokenizers
        do, so do the spans: they follow one another without a gap. Elsewhere (another kind, or a
        normaliser that changed this text) a span is that of the characters a token came from.

    Raises
    ------
    InputError
        The tokenizer has no fast backend or no end-of-text token.
    """
    _check(tokenizer, tokenizer.name_or_path)
    eos = _eos_id(tokenizer)
    backend = tokenizer.backend_tokenizer
    token_bytes = _TokenBytes(backend)
    encoded: list[EncodedDocument] = []
    with _plain(backend):
        for first in range(0, len(texts), _BATCH):
            batch = list(texts[first : first + _BATCH])
            encodings = backend.encode_batch(batch, add_special_tokens=False)
            for text, encoding in zip(batch, encodings, strict=True):
                ids = encoding.ids  # a new list each time that it is asked for
                exact = _by_bytes(token_bytes(ids), ids, text, eos)
                encoded.append(exact or _by_offsets(encoding, text, eos))
    return encoded


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a sha256 (hexadecimal) of all that decides which ids a text gets.

    The same before saving and after loading; padding, truncation and the post-processor, which
    `encode_documents` does not use, have no part in it.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for unused in ("padding", "truncation", "post_processor"):
        content.pop(unused, None)
    content["eos_token_id"] = tokenizer.eos_token_id
    content["pad_token_id"] = tokenizer.pad_token_id
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def token_pieces(tokenizer: Any, ids: Iterable[int]) -> list[bytes]:
    """Return the bytes that each token stands for, with no text at hand to compare with.

    Exact for byte-level tokenizers. For others the token as its vocabulary spells it, with the usual marks of a
    space ("\u2581", "\u0120") as a space; without a tokenizer its number and a space.
    """
    ids = list(ids)
    kind = token_text_facts(tokenizer)["spelled_as"]
    if kind == "numbers":
        return [f"{i} ".encode() for i in ids]
    if kind == "bytes":
        return _TokenBytes(tokenizer.backend_tokenizer)(ids)
    spelled = tokenizer.convert_ids_to_tokens(ids)
    return [(token or "").replace("\u2581", " ").replace("\u0120", " ").encode() for token in spelled]


def token_text_facts(tokenizer: Any) -> dict[str, Any]:
    """Return what the texts of `token_pieces` are, for the manifest of a run that has no other.

    Returns
    -------
    dict
        ``spelled_as``: "bytes" (those of the text itself), "vocabulary" or "numbers". ``special_ids``: the tokens
        that stand for no text, rising.
    """
    if tokenizer is None:
        return {"spelled_as": "numbers", "special_ids": []}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {i for i, token in added.items() if token.special} | set(getattr(tokenizer, "all_special_ids", ()))
    byte_level = backend is not None and "ByteLevel" in backend.to_str()
    return {"spelled_as": "bytes" if byte_level else "vocabulary", "special_ids": sorted(map(int, special))}


class _TokenBytes:
    """The bytes that tokens stand for if their tokenizer is byte-level, looked up once a token."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
        added = backend.get_added_tokens_decoder()
        self._known = {i: token.content.encode() for i, token in added.items()}

    def __call__(self, ids: Iterable[int]) -> list[bytes]:
        known = self._known
        for i in set(ids).difference(known):
            token = self._backend.id_to_token(i) or ""
            if self._byte_of.keys() >= set(token):
                known[i] = bytes(self._byte_of[character] for character in token)
            else:  # not written in byte characters: taken as it stands
                known[i] = token.encode()
        return [known[i] for i in ids]


def _byte_characters() -> list[str]:
    """Return the printable character that byte-level tokenizers write for each byte.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for the characters
    from U+0100 on. Source: ``bytes_to_unicode`` in GPT-2's encoder.py.
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters: list[str] = []
    moved = 0
    for byte in range(_N_BYTES):
        if byte in itself:
            characters.append(chr(byte))
        else:
            characters.append(chr(_N_BYTES + moved))
            moved += 1
    return characters


def _by_bytes(pieces: list[bytes], ids: list[int], text: str, eos: int) -> EncodedDocument | None:
    """Spans from the lengths of the tokens; None if the tokens are not this text, byte for byte."""
    data = text.encode()
    joined = b"".join(pieces)
    # Some tokenizers (add_prefix_space) put one space before the text.
    extra = 1 if joined != data and joined == b" " + data else 0
    if not extra and joined != data:
        return None
    lengths = np.fromiter((len(piece) for piece in pieces), dtype=np.int64, count=len(pieces))
    ends = np.maximum(np.cumsum(lengths) - extra, 0)
    starts = np.concatenate([[0], ends[:-1]])[: len(ends)]
    return _with_eos(ids, starts, ends, n_bytes=len(data), eos=eos)


def _by_offsets(encoding: tokenizers.Encoding, text: str, eos: int) -> EncodedDocument:
    """Spans from offsets in characters: tokens that share a character share its bytes."""
    byte_at = _byte_at_character(text)
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    # Normalisers may reorder characters; running maxima keep spans in the order of the tokens.
    starts = np.maximum.accumulate(byte_at[offsets[:, 0]])
    ends = np.maximum.accumulate(np.maximum(byte_at[offsets[:, 1]], starts))
    return _with_eos(encoding.ids, starts, ends, n_bytes=int(byte_at[-1]), eos=eos)


def _byte_at_character(text: str) -> npt.NDArray[np.int64]:
    """Return (n_characters + 1,) the byte at which each character starts, and the byte length."""
    code = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)
    return np.concatenate([[0], np.cumsum(widths)])


def _with_eos(
    ids: Sequence[int],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    *,
    n_bytes: int,
    eos: int,
) -> EncodedDocument:
    return EncodedDocument(
        token_id=np.asarray([*ids, eos], dtype=np.int32),
        byte_start=np.append(starts, n_bytes).astype(np.int32),
        byte_end=np.append(ends, n_bytes).astype(np.int32),
    )


@contextmanager
def _plain(backend: tokenizers.Tokenizer) -> Iterator[None]:
    """Encode without truncation, padding and special tokens; restore the settings afterwards."""
    truncation, padding = backend.truncation, backend.padding
    splits_special = backend.encode_special_tokens
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # as transformers' split_special_tokens sets it
    try:
        yield
    finally:
        backend.encode_special_tokens = splits_special
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def _is_generic(folder: Path) -> bool:
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # A folder without tokenizer.json, or with code of its own, is AutoTokenizer's business.
    return (
        isinstance(config, dict)
        and config.get("tokenizer_class") in _GENERIC_CLASSES
        and "auto_map" not in config
        and (folder / "tokenizer.json").is_file()
    )


def _check_hub_name(name: str, path: Path) -> None:
    if path.exists():
        raise InputError(f"tokenizer {name!r} is a file; give the folder that holds it")
    looks_local = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_local:
        raise InputError(
            f"tokenizer {name!r} does not exist (looked for the folder {path.absolute()}); give a "
            "folder, a hub name, or train one (tokenizer: {train: {vocab_size: N}})"
        )


def _check(tokenizer: Any, name: str) -> None:
    named = f"tokenizer {name!r}" if name else "the tokenizer"
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{named} has no fast backend, which is needed to know the bytes of each token; use "
            "one with a tokenizer.json"
        )
    # Where a model's folder holds no tokenizer, transformers makes an empty one of its kind.
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):
        raise InputError(
            f"{named} has no vocabulary: no tokenizer is there; give the folder or the hub name of one, tokenizer: PATH"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{named} has no end-of-text token, which closes every document; set eos_token in its "
            "tokenizer_config.json, or use another tokenizer"
        )


def _eos_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return int(tokenizer.eos_token_id)
