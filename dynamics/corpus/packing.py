"""From documents to training and validation parts, and from tokens to sequences of equal length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dynamics.corpus.rows import Scalar
from dynamics.corpus.sources import Document
from dynamics.corpus.tokenizer import EncodedDocument
from dynamics.errors import InputError
from dynamics.predicted import predicted_mask

#: The label of a token that has no prediction, as transformers and torch have it.
IGNORED_LABEL = -100

Int32 = npt.NDArray[np.int32]


def split_documents(
    docs: Sequence[Document], *, fraction: float, tuning: float = 0.0, others: Mapping[str, float] | None = None
) -> dict[str, list[Document]]:
    """Split documents into parts, each by the hash of its own text.

    Equal texts therefore fall on the same side, and a document keeps its side whatever else is
    added or taken away: further parts take theirs from training.

    Parameters
    ----------
    docs
        The corpus.
    fraction, tuning
        The share that goes, in expectation, to validation and to tuning.
    others
        The shares of further parts, by their names.

    Returns
    -------
    dict
        "train", "validation", if `tuning` > 0 "tuning", and the others: documents in the order of `docs`.

    Raises
    ------
    InputError
        The shares are not in [0, 1), or a part that shall have documents has none.
    """
    others = others or {}
    shares = {"validation": fraction, **({"tuning": tuning} if tuning != 0 else {}), **others}
    left = 1 - sum(shares.values())
    if not (left > 0 and all(share >= 0 for share in shares.values())):
        named = [f"validation.fraction {fraction}", f"tuning.fraction {tuning}"]
        named += [f"the share of {name} {share}" for name, share in others.items()]
        raise InputError(
            f"{' and '.join(named)} must each be at least 0 and together below 1, so that something is left to train on"
        )
    names, edges = list(shares), np.cumsum(list(shares.values()))
    parts: dict[str, list[Document]] = {"train": [], **{name: [] for name in names}}
    for document in docs:
        at = int(np.searchsorted(edges, _uniform(document), side="right"))
        parts[names[at] if at < len(names) else "train"].append(document)
    for name, part in parts.items():
        wanted = left if name == "train" else shares[name]
        if wanted > 0 and not part:
            raise InputError(
                f"none of the {len(docs)} documents fell into the {name} part (its share is "
                f"{wanted:.3g}); use more documents or another fraction"
            )
    return parts


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """One part of the corpus as sequences of `block_size` tokens, with all of its text.

    Dimensions: S sequences, B positions, D documents.

    Attributes
    ----------
    token_id
        (S, B) int32; at padding a valid id.
    document_id
        (S, B) int32, the index of the token's document in this part; -1 at padding.
    byte_start, byte_end
        (S, B) int32, the token's bytes [start, end) in its document; 0 at padding.
    text
        (n_bytes,) uint8, the UTF-8 bytes of all documents, one after the other.
    text_offset
        (D + 1,) int64; document d is ``text[text_offset[d]:text_offset[d + 1]]``.
    document_hash
        (D, 32) uint8, the sha256 of each document's bytes.
    unlabelled
        (S, B) bool, tokens whose label is -100 for another reason (a prompt, say), or None.
    document_fields
        What the corpus kept of each document beside its text: by field, D values (text, numbers, true or false, None).
    """

    token_id: Int32
    document_id: Int32
    byte_start: Int32
    byte_end: Int32
    text: npt.NDArray[np.uint8]
    text_offset: npt.NDArray[np.int64]
    document_hash: npt.NDArray[np.uint8]
    unlabelled: npt.NDArray[np.bool_] | None = None
    document_fields: Mapping[str, Sequence[Scalar]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Assert the shapes and types that the class promises."""
        for name in ("token_id", "document_id", "byte_start", "byte_end"):
            array = getattr(self, name)
            assert array.ndim == 2 and array.shape == self.token_id.shape, (name, array.shape)
            assert array.dtype == np.int32, (name, array.dtype)
        assert self.document_hash.shape == (len(self.text_offset) - 1, 32)
        assert self.text_offset[-1] == len(self.text)
        assert self.document_id.max(initial=-1) < len(self.document_hash)

    @property
    def predicted(self) -> npt.NDArray[np.bool_]:
        """(S, B) whether the token is predicted from a token of its own document before it."""
        mask = predicted_mask(self.document_id)
        return mask if self.unlabelled is None else mask & ~self.unlabelled

    @property
    def n_predicted(self) -> int:
        """How many tokens are predicted."""
        return int(self.predicted.sum())

    def labels(self) -> npt.NDArray[np.int64]:
        """Return (S, B) the token id where it is predicted, and -100 elsewhere (unshifted)."""
        return np.where(self.predicted, self.token_id, IGNORED_LABEL).astype(np.int64)

    def tokens_hash(self) -> str:
        """Return the sha256 (hexadecimal) of shape, token ids, document ids and what is unlabelled.

        Two parts have the same one if and only if their tokens can be compared one by one.
        """
        shape = np.asarray(self.token_id.shape, dtype="<i8")
        whole = hashlib.sha256(shape.tobytes())
        for array in (self.token_id, self.document_id):
            whole.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
        if self.unlabelled is not None:
            whole.update(np.packbits(self.unlabelled).tobytes())
        return whole.hexdigest()


def pack_documents(
    encoded: Sequence[EncodedDocument], texts: Sequence[str], *, block_size: int, pad_id: int
) -> PackedSplit:
    """Concatenate documents in order and cut them into blocks, the last one padded on the right.

    Parameters
    ----------
    encoded, texts
        The tokens and the text of each document.
    block_size
        Tokens a sequence.
    pad_id
        The token id at padding, which is a valid id.

    Raises
    ------
    InputError
        No token would have a prediction: there are no documents, only documents of one token, or
        blocks of one token.
    """
    assert len(encoded) == len(texts), (len(encoded), len(texts))
    if block_size < 2:
        raise InputError(f"block_size: {block_size} is too small; a token needs one before it, so 2")
    if not encoded:
        raise InputError("there are no documents to pack; every part of a corpus needs at least one")
    n_tokens = sum(len(document.token_id) for document in encoded)
    n_sequences = -(-n_tokens // block_size)

    def blocks(arrays: Sequence[Int32], fill: int) -> Int32:
        flat = np.full(n_sequences * block_size, fill, dtype=np.int32)
        flat[:n_tokens] = np.concatenate(arrays)
        return flat.reshape(n_sequences, block_size)

    data = [text.encode() for text in texts]
    owner = [np.full(len(d.token_id), i, dtype=np.int32) for i, d in enumerate(encoded)]
    digests = b"".join(hashlib.sha256(one).digest() for one in data)
    packed = PackedSplit(
        token_id=blocks([d.token_id for d in encoded], pad_id),
        document_id=blocks(owner, -1),
        byte_start=blocks([d.byte_start for d in encoded], 0),
        byte_end=blocks([d.byte_end for d in encoded], 0),
        text=np.frombuffer(b"".join(data), dtype=np.uint8).copy(),
        text_offset=np.cumsum([0, *map(len, data)], dtype=np.int64),
        document_hash=np.frombuffer(digests, dtype=np.uint8).reshape(len(data), 32).copy(),
    )
    if packed.n_predicted == 0:
        raise InputError(
            f"none of the {n_tokens} tokens has one of its own document before it, so there is "
            "nothing to predict; use longer documents"
        )
    return packed


def _uniform(document: Document) -> float:
    """Return a number in [0, 1] that depends on the document's text alone."""
    digest = hashlib.sha256(f"split:{document.content_hash}".encode()).hexdigest()
    return int(digest[:16], 16) / 2**64
