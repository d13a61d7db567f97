"""How many bytes of text each token stands for: what makes losses under different tokenizers comparable.

A document's bytes are dealt out to its tokens, each to exactly one, so that all its tokens together have as many as the
text, whatever the tokenizer:

- A token has the bytes from the end of the token before it to its own end. Where tokens stand for the bytes of the text
  exactly, as those of byte-level tokenizers do, that is their own length, within a character too.
- Bytes that no token stands for (a blank that the tokenizer leaves out, what a normaliser removed) go to the token that
  follows them.
- Tokens that came from the same characters (a character spelled as several bytes, or one that a normaliser made several
  of) have equal shares of its bytes. Shares are why the result is not whole.
- The end-of-text token has none, and neither has any other special token: nothing of the text is in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError
from dynamics.records.values import Records


def token_bytes(records: Records) -> Floats:
    """Return the UTF-8 bytes of text that each token stands for, shape (S, P); 0 at padding and for special tokens.

    Parameters
    ----------
    records : Records
        One split of a run.

    Raises
    ------
    InputError
        If the run does not know the text of its tokens byte for byte: a training of one's own without a tokenizer, or
        with one that is not byte-level, or recorded before runs said which.
    """
    special = _special_ids(records)
    whole, spans = records.whole, records.whole_spans
    real = whole.document_id >= 0
    found = np.zeros(real.shape)
    found[real] = bytes_of_spans(whole.document_id[real], spans.byte_start[real], spans.byte_end[real])
    if special:
        found[np.isin(spans.token_id, special)] = 0.0
    return found if len(whole.recorded) == len(found) else found[whole.recorded]


def bytes_of_spans(document_id: NDArray[np.int32], start: NDArray[np.int32], end: NDArray[np.int32]) -> Floats:
    """Deal the bytes of documents out to their tokens; see the head of this module.

    Parameters
    ----------
    document_id, start, end : ndarray of int, shape (N,)
        All tokens, document by document in the order of the text, and their spans [start, end) in the bytes of their
        document. Within a document neither starts nor ends decrease.

    Returns
    -------
    ndarray of float64, shape (N,)
        Over a document they sum to the end of its last token.
    """
    begins = np.ones(len(document_id), dtype=bool)
    begins[1:] = document_id[1:] != document_id[:-1]
    before = np.zeros(len(end), dtype=np.int64)
    before[1:] = end[:-1]
    before[begins] = 0
    left_out = np.maximum(start - before, 0)
    own = end - np.maximum(before, start)
    # Equal spans came from the same characters; all but the first of them add nothing to the text so far.
    shares = np.zeros(len(document_id), dtype=bool)
    shares[1:] = ~begins[1:] & (start[1:] == start[:-1]) & (end[1:] == end[:-1])
    group = np.cumsum(~shares) - 1
    size = np.bincount(group)
    equal: Floats = np.bincount(group, own) / size if len(group) else np.zeros(0)
    dealt: Floats = left_out + equal[group]
    return dealt


def _special_ids(records: Records) -> list[int]:
    """Return the ids that stand for no text; raises InputError where the text of the others is not exact."""
    run = records.run
    told = run.manifest.get("token_text")
    if told is None and "tokenizer" in run.manifest:
        return []  # A recipe's: spans come from the documents themselves, and special tokens' are empty.
    if told is not None and told["spelled_as"] == "bytes":
        return list(told["special_ids"])
    why = {
        None: "does not say whether the texts of its tokens are exact, as it was recorded before runs did; record anew",
        "numbers": "was recorded without a tokenizer; give the trainer its processing_class, or LoopRecorder.begin its "
        "tokenizer",
        "vocabulary": "spells its tokens as its tokenizer's vocabulary does, which is no byte-level one; train by a "
        "recipe, which knows the documents themselves",
    }
    reason = why[None if told is None else told["spelled_as"]]
    raise InputError(f"the bytes of its tokens, which bits per byte need, are not known: {run.path} {reason}")
