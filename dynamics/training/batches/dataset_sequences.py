"""The examples of any trainer as sequences: collated once, cut where the collator packed, known by key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.tokenizer import token_pieces
from dynamics.errors import InputError
from dynamics.training.batches.layout import Layout, layout, segment_hashes


class SequenceIndex:
    """From the key of a sequence to its row.

    Parameters
    ----------
    keys : Tensor of int64, shape (n_sequences,)
        A `sequence_id` each, or a hash of its tokens; no two are equal.
    """

    def __init__(self, keys: torch.Tensor) -> None:
        self._sorted, self._row = torch.sort(keys)

    def rows(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the row of each key, -1 where there is none."""
        known, row = self._sorted.to(keys.device), self._row.to(keys.device)
        place = torch.searchsorted(known, keys).clamp_max(len(known) - 1)
        return torch.where(known[place] == keys, row[place], -1)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Examples as sequences.

    Attributes
    ----------
    packed : PackedSplit
        One row and one document a sequence; rows are padded on the right to the longest.
    keys : Tensor of int64, shape (n_sequences,)
    """

    packed: PackedSplit
    keys: torch.Tensor


def where_in(inputs: Mapping[str, Any], *, pad_token_id: int | None) -> Layout:
    """Return where each token of a collated batch stands.

    Raises
    ------
    InputError
        The batch has no token ids or no labels.
    """
    for name in ("input_ids", "labels"):
        if inputs.get(name) is None:
            raise InputError(
                f"the batches of this trainer have no {name} (they have {', '.join(map(str, inputs))}), by which "
                "tokens are known; use a collator that keeps them"
            )
    return layout(
        inputs["input_ids"],
        inputs["labels"],
        attention_mask=inputs.get("attention_mask"),
        position_ids=inputs.get("position_ids"),
        pad_token_id=pad_token_id,
    )


def keys_of(inputs: Mapping[str, Any], where: Layout) -> torch.Tensor:
    """Return the key of each sequence of a batch: its `sequence_id` where the collator keeps one, else its hash.

    Raises
    ------
    InputError
        Rows with a `sequence_id` hold several sequences.
    """
    given = inputs.get("sequence_id")
    if given is None:
        return segment_hashes(inputs["input_ids"], where)
    if where.n_segments != len(given):
        raise InputError(
            f"a batch of {len(given)} rows holds {where.n_segments} sequences (position_ids start again at 0), so "
            "sequence_id does not say which is which; leave that column out, and they are known by their tokens"
        )
    return torch.as_tensor(given)


def survey(batches: Iterable[Mapping[str, Any]], *, tokenizer: Any, pad_token_id: int | None) -> Survey:
    """Gather the sequences of collated batches, each once.

    Parameters
    ----------
    batches : iterable of mappings
        With input_ids and labels, and attention_mask, position_ids and sequence_id where there are any.
    tokenizer : PreTrainedTokenizerBase, optional
        For the text of the tokens.
    pad_token_id : int, optional
        What pads rows that have no attention mask.

    Raises
    ------
    InputError
        A batch lacks token ids or labels, or nothing in it is predicted.
    """
    tokens: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    keys: list[int] = []
    seen: set[int] = set()
    for inputs in batches:
        where = where_in(inputs, pad_token_id=pad_token_id)
        of = keys_of(inputs, where).tolist()
        real = where.segment >= 0
        sizes = torch.bincount(where.segment[real], minlength=where.n_segments).tolist()
        parts: Any = torch.split(inputs["input_ids"][real], sizes), torch.split(where.predicted[real], sizes)
        for key, ids, mask in zip(of, *parts, strict=True):
            # Lone tokens are what padding-free collators pad with: nothing in them is predicted.
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
    return Survey(packed=_packed(tokens, predicted, tokenizer), keys=torch.tensor(keys))


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
