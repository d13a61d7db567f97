r"""Groups of tokens by the text: inside what a regular expression matches, or by the characters of a token.

The tokens that carry the result of a task are such a group. A model's accuracy on them, given the text before them
(teacher forcing), tells from the records alone what training does to the task, where exact match needs generation.

A token lies in a match if they share a byte, so one that is partly in it is in it: it cannot be predicted without
predicting that part. Tokens without text (the end of a document) lie in none.
"""

from __future__ import annotations

from collections.abc import Mapping
from re import Pattern

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.groups import Groups, compiled_patterns, require_few_groups
from dynamics.errors import InputError, nearest
from dynamics.records.values import Records

#: By task, the pattern of the tokens that carry its results.
#:
#: ``gsm8k`` (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168): what follows ``####`` in its line, the answer, and
#: the results of calculations, what stands between the last ``=`` and ``>>`` of ``<<48/2=24>>``.
TASKS: dict[str, str] = {"gsm8k": r"####[^\S\n]*(\S[^\n]*)|<<[^<>\n]*=([^<>=\n]+)>>"}

#: The kinds of tokens, in the order of `groups_by_kind`.
KINDS = ("word", "part of a word", "number", "punctuation", "white space", "mixed", "end of text")
_KIND = "kind of token"

# (label, first byte, end) of every match of a document.
_Spans = NDArray[np.int64]


def groups_by_match(
    patterns: Mapping[str, str] | str, *, other: str | None = None, name: str = "text", flags: int = 0
) -> Groups:
    r"""Return groups of tokens by regular expressions: those inside of what a pattern matches.

    Parameters
    ----------
    patterns : mapping of str to str, or str
        By label, what is searched for all over a document's text (`re.finditer`). Where a pattern has groups, a token
        must lie in what one of them matched; without, in the match. A token is in the group of the first pattern that
        it lies in the match of, be it with one byte. A single pattern is its own label.
    other : str or None
        The group of all other tokens; None leaves them out.
    name : str
        What the groups say, for axes and titles.
    flags : int
        Those of `re`.

    Raises
    ------
    InputError
        For no pattern, one that is malformed, or a label that is given twice. A split in which nothing matches raises
        when its groups are asked for, unless the others are a group.

    Examples
    --------
    >>> groups_by_match({"steps": r"<<.*?=(.*?)>>", "answer": r"#### (.*)"}, other="words").labels
    ('steps', 'answer', 'words')
    """
    named = {patterns: patterns} if isinstance(patterns, str) else dict(patterns)
    compiled = compiled_patterns("groups_by_match", named, other, flags)
    labels = (*named, *([] if other is None else [other]))
    require_few_groups(labels, name)
    rest = -1 if other is None else len(named)
    # By the hash of the text: the same documents are asked after in every seed and arm.
    known: dict[bytes, _Spans] = {}

    def of(records: Records) -> NDArray[np.int16]:
        begin = np.cumsum([0, *(len(records.document_bytes(d)) for d in range(records.n_documents))])
        spans = []
        for document, digest in enumerate(records.document_hash):
            found = known.get(digest.tobytes())
            if found is None:
                found = known[digest.tobytes()] = _matches(records.document_bytes(document), compiled)
            spans.append(found + [0, begin[document], begin[document]])
        every = np.concatenate(spans)
        if other is None and not len(every):
            raise InputError(
                f"no document of the {records.split} split of {records.run.path} matches "
                f"{' or '.join(map(repr, named.values()))}; give a pattern that its text has"
                f"{'' if name in TASKS else nearest(name, TASKS)}"
            )
        real = (records.document_id >= 0) & (records.byte_end > records.byte_start)
        offset = begin[np.maximum(records.document_id, 0)]
        start, end = records.byte_start + offset, records.byte_end + offset
        index = np.where(real, np.int16(rest), np.int16(-1))
        for label in reversed(range(len(compiled))):
            index[real & _overlap(start, end, every[every[:, 0] == label])] = label
        return index

    return Groups(name, labels, ("match", name, tuple(named.items()), other, int(flags)), of)


def task_tokens(task: str) -> Groups:
    """Return the tokens that carry the results of a task, one group ``result`` with the task's name.

    Parameters
    ----------
    task : str
        ``gsm8k`` (`TASKS`), or a regular expression as for `groups_by_match`, with its flags within: ``(?m)^= (.*)``.

    Raises
    ------
    InputError
        For a pattern that is malformed or empty; and as `groups_by_match`, where nothing matches.
    """
    if not task:
        raise InputError(f"a task is named ({', '.join(TASKS)}) or given by the pattern of its results, not by nothing")
    return groups_by_match({"result": TASKS.get(task, task)}, name=task)


def _matches(raw: bytes, compiled: list[Pattern[str]]) -> _Spans:
    """Return (label, first byte, end) of all that the patterns match in a document, shape (N, 3)."""
    # Bytes that are no UTF-8 (a cut character) become a character each, and their own byte again.
    text = raw.decode("utf-8", "surrogateescape")
    found = [
        (label, *match.span(group))
        for label, pattern in enumerate(compiled)
        for match in pattern.finditer(text)
        for group in (range(1, pattern.groups + 1) if pattern.groups else [0])
    ]
    spans = np.array([span for span in found if span[2] > span[1]], dtype=np.int64).reshape(-1, 3)
    if len(raw) > len(text):
        widths = [len(character.encode("utf-8", "surrogateescape")) for character in text]
        spans[:, 1:] = np.cumsum([0, *widths])[spans[:, 1:]]
    return spans


def _overlap(start: NDArray[np.int64], end: NDArray[np.int64], spans: _Spans) -> NDArray[np.bool_]:
    """Return which of [start, end) share a byte with a span: more begin before its end than end by its start."""
    begun = np.searchsorted(np.sort(spans[:, 1]), end, side="left")
    ended = np.searchsorted(np.sort(spans[:, 2]), start, side="right")
    shared: NDArray[np.bool_] = begun > ended
    return shared


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

    return Groups(_KIND, KINDS, ("kind", _KIND), of)


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
