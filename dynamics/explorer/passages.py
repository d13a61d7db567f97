"""What a reader sees at a time: a document, or a part of one, whose tokens were recorded without a gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamics.records.values import Records

#: Tokens of a passage: what a browser colours anew within 50 ms, twice.
LONGEST = 1024
# Bytes between two tokens that are shown as they are: tokenizers leave out white space. A sequence that was not
# recorded is longer.
_GAP = 64


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of one document that follow each other.

    Attributes
    ----------
    document : int
        Its `document_id` in the split.
    part, n_parts : int
        Its place among the passages of the document, from 0.
    tokens : ndarray of int64, shape (n,)
        Flat indices into arrays of shape (sequence, position), in the order of the text.
    """

    document: int
    part: int
    n_parts: int
    tokens: NDArray[np.int64]


def passages(records: Records, rows: NDArray[np.intp] | None = None, *, longest: int = LONGEST) -> list[Passage]:
    """Cut recorded tokens into passages.

    Parameters
    ----------
    records : Records
        One split of a run.
    rows : ndarray of integers, optional
        The sequences to take; all by default. `Passage.tokens` counts within these.
    longest : int
        Tokens of a passage at most.
    """
    chosen = slice(None) if rows is None else rows
    document = records.document_id[chosen].reshape(-1)
    start, end = (getattr(records, name)[chosen].reshape(-1) for name in ("byte_start", "byte_end"))
    # Within a document tokens come in the order of its text: stable, so that end-of-text stays behind.
    order = np.argsort(document, kind="stable")
    order = order[np.searchsorted(document[order], 0) :]  # padding is -1
    if not len(order):
        return []
    new_document = np.diff(document[order]) != 0
    torn = start[order[1:]] - end[order[:-1]] > _GAP
    begins = np.flatnonzero(np.concatenate([[True], new_document | torn]))
    pieces = []
    for begin, stop in zip(begins, [*begins[1:], len(order)], strict=True):
        n_parts = -(-(stop - begin) // longest)  # of about equal length
        pieces += np.array_split(order[begin:stop], n_parts)
    of = np.array([document[piece[0]] for piece in pieces])
    _, first, place, count = np.unique(of, return_index=True, return_inverse=True, return_counts=True)
    return [
        Passage(int(of[i]), int(i - first[place[i]]), int(count[place[i]]), piece) for i, piece in enumerate(pieces)
    ]


def reading_order(rebounds: list[NDArray[np.float64]], *, seed: int = 0) -> list[tuple[int, int, str]]:
    """Return in which order passages go into a page until it is full, and why each does.

    In turn, from every split: one drawn at random, and the one that rebounded most.

    Parameters
    ----------
    rebounds : list of ndarray
        For every split, a number a passage: how much it rebounded; NaN counts as least.
    seed : int
        Of the random draws.

    Returns
    -------
    list of (split, passage, why)
        Indices, and ``random`` or ``rebound``. Every passage once.
    """
    generator = np.random.default_rng(seed)
    queues: list[tuple[int, str, list[int]]] = []
    for split, values in enumerate(rebounds):
        queues.append((split, "rebound", np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable").tolist()[::-1]))
        queues.append((split, "random", generator.permutation(len(values)).tolist()))
    taken: set[tuple[int, int]] = set()
    order = []
    while any(queue for _, _, queue in queues):
        for split, why, queue in queues:
            while queue:
                passage = queue.pop()
                if (split, passage) not in taken:
                    taken.add((split, passage))
                    order.append((split, passage, why))
                    break
    return order
