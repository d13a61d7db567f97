"""Converts any trainer's examples into sequences: collates each once, splits packed rows, and assigns keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.tokenizer import token_pieces
from dynamics.errors import InputError
from dynamics.training.batches.batch_reader import where_in
from dynamics.training.batches.layout import Layout, segment_hashes

#: The limit on examples gathered from an iterable without a length, which may be endless.
MOST_EXAMPLES = 1_000_000


def endless_message(what: str, unit: str) -> str:
    """Return the message that `what`, which has no length, gave more than `MOST_EXAMPLES` of a unit."""
    return f"{what} has no length and did not end after {MOST_EXAMPLES:,} {unit}; give it a length, or an end"


def has_length(something: Any) -> bool:
    """Whether an object has a length. A data loader has the method, but raises if its data set has none."""
    try:
        len(something)
    except TypeError:
        return False
    return True


def ending(batches: Iterable[Mapping[str, Any]], what: str) -> Iterator[Mapping[str, Any]]:
    """Yield batches. Raise InputError if they have no length and more than `MOST_EXAMPLES` rows."""
    n_rows = 0
    for batch in batches:
        n_rows += len(batch.get("input_ids", ()))
        if n_rows > MOST_EXAMPLES and not has_length(batches):
            raise InputError(endless_message(what, "rows"))
        yield batch


@dataclass(frozen=True, kw_only=True)
class DatasetSequences:
    """Examples as sequences.

    Attributes
    ----------
    packed : PackedSplit
        Each row is one sequence and one document, padded on the right to the longest.
    keys : Tensor of int64, shape (S,)
    """

    packed: PackedSplit
    keys: torch.Tensor


def keys_of(inputs: Mapping[str, Any], where: Layout) -> torch.Tensor:
    """Return the key of each sequence of a batch: its `sequence_id` if the collator keeps it, or a hash of its tokens.

    Raises
    ------
    InputError
        Rows with a `sequence_id` hold several sequences.
    """
    given, n_segments = inputs.get("sequence_id"), where.n_segments()
    if given is None:
        return segment_hashes(inputs["input_ids"], where, size=n_segments)
    if n_segments != len(given):
        raise InputError(
            f"a batch of {len(given)} rows holds {n_segments} sequences (position_ids start again at 0), so "
            "sequence_id does not identify each sequence; remove that column, and the tokens identify them"
        )
    return torch.as_tensor(given)


def gather_sequences(
    batches: Iterable[Mapping[str, Any]], *, tokenizer: Any, pad_token_id: int | None
) -> DatasetSequences:
    """Collect the sequences of collated batches, each once.

    Parameters
    ----------
    batches : iterable of mappings
        With input_ids and labels, and optionally attention_mask, position_ids and sequence_id.
    tokenizer : PreTrainedTokenizerBase, optional
        Gives the text of the tokens.
    pad_token_id : int, optional
        The token that pads rows without an attention mask.

    Raises
    ------
    InputError
        A batch has no token ids or labels, or no batch has a token to predict.
    """
    tokens: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    keys: list[int] = []
    seen: set[int] = set()
    for inputs in batches:
        where = where_in(inputs, pad_token_id=pad_token_id)
        of = keys_of(inputs, where).tolist()
        real = where.segment >= 0
        sizes = torch.bincount(where.segment[real], minlength=where.n_segments()).tolist()
        parts: Any = torch.split(inputs["input_ids"][real], sizes), torch.split(where.predicted[real], sizes)
        for key, ids, mask in zip(of, *parts, strict=True):
            # Padding-free collators pad with single tokens, in which nothing is predicted.
            if len(ids) > 1 and key not in seen:
                seen.add(key)
                keys.append(key)
                tokens.append(ids.cpu().numpy())
                predicted.append(mask.cpu().numpy())
    if not any(mask.any() for mask in predicted):
        raise InputError(
            "none of the examples has a token to predict (a label other than -100 after its first token); check the "
            "labels that the collator makes"
        )
    known = torch.tensor(keys, dtype=torch.int64, device="cpu")
    return DatasetSequences(packed=_packed(tokens, predicted, tokenizer), keys=known)


def _packed(tokens: list[np.ndarray], predicted: list[np.ndarray], tokenizer: Any) -> PackedSplit:
    shape = (len(tokens), max(map(len, tokens)))
    token_id, start, end = (np.zeros(shape, dtype=np.int32) for _ in range(3))
    document_id = np.full(shape, -1, dtype=np.int32)
    unlabelled = np.zeros(shape, dtype=bool)
    vocabulary = np.unique(np.concatenate(tokens))
    piece_of = dict(zip(vocabulary.tolist(), token_pieces(tokenizer, vocabulary.tolist()), strict=True))
    texts = []
    for row, (ids, mask) in enumerate(zip(tokens, predicted, strict=True)):
        here = slice(0, len(ids))
        pieces = [piece_of[i] for i in ids.tolist()]
        ends = np.cumsum([len(piece) for piece in pieces])
        token_id[row, here], document_id[row, here] = ids, row
        start[row, here], end[row, here] = np.concatenate([[0], ends[:-1]]), ends
        unlabelled[row, 1 : len(ids)] = ~mask[1:]
        texts.append(b"".join(pieces))
    digests = b"".join(hashlib.sha256(text).digest() for text in texts)
    return PackedSplit(
        token_id=token_id,
        document_id=document_id,
        byte_start=start,
        byte_end=end,
        text=np.frombuffer(b"".join(texts), dtype=np.uint8).copy(),
        text_offset=np.cumsum([0, *map(len, texts)], dtype=np.int64),
        document_hash=np.frombuffer(digests, dtype=np.uint8).reshape(len(texts), 32).copy(),
        unlabelled=unlabelled,
    )
