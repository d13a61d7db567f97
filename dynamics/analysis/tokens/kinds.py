"""Groups of tokens by what they are made of: words, parts of words, numbers, punctuation, white space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.groups import Groups
from dynamics.records.values import Records

#: The kinds, in the order of `groups_by_kind`.
KINDS = ("word", "part of a word", "number", "punctuation", "white space", "mixed", "end of text")
NAME = "kind of token"


def groups_by_kind() -> Groups:
    """Return groups of tokens by the characters that they are made of.

    White space at either end of a token does not count. A *word* has letters alone, with no letter right before it
    (unless it starts with white space) or right after it in its sequence; letters that belong to a longer word are
    *part of a word*. A *number* has digits alone. *Punctuation* has neither letters, digits nor underscores; a *mixed*
    token has some besides other characters. A token without text is the *end of text*.

    Returns
    -------
    Groups
        For `buckets=` of every function that takes buckets, with the labels of `KINDS`.

    Examples
    --------
    >>> groups_by_kind().labels
    ('word', 'part of a word', 'number', 'punctuation', 'white space', 'mixed', 'end of text')
    """
    known: dict[bytes, NDArray[np.int16]] = {}

    def of(records: Records) -> NDArray[np.int16]:
        # The same tokens are asked for in every seed and arm.
        key = records.token_id.tobytes() + records.document_hash.tobytes()
        if key not in known:
            known[key] = np.array([_kinds(records, row) for row in range(len(records.token_id))], dtype=np.int16)
        return known[key]

    return Groups(NAME, KINDS, ("kind", NAME), of)


def kind_of(before: str, text: str, after: str) -> str:
    """Return the kind of a token from its text and its neighbours' texts."""
    bare = text.strip()
    if not text:
        return "end of text"
    if not bare:
        return "white space"
    if bare.isalpha():
        starts = text[0].isspace() or not before[-1:].isalpha()
        ends = text[-1].isspace() or not after[:1].isalpha()
        return "word" if starts and ends else "part of a word"
    if bare.isdigit():
        return "number"
    return "mixed" if any(character.isalnum() or character == "_" for character in bare) else "punctuation"


def _kinds(records: Records, row: int) -> list[int]:
    texts = ["", *records.token_texts(row), ""]
    return [KINDS.index(kind_of(*texts[at : at + 3])) for at in range(len(texts) - 2)]
