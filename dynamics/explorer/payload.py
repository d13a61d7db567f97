"""The bytes of a passage, as the page's script reads them: little-endian columns, the widest first, then deflate.

Of every passage there are two chunks: a *head* (text, tokens, what became of them), which searching and sorting read,
and a *body* (every epoch), which reading does.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.explorer.quantise import Codes, over_epochs

NO_RANK = 65535
NEVER = 255


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Columns over the tokens of a split, or some of them; every array of shape (n,)."""

    start: NDArray[Any]
    end: NDArray[Any]
    sequence: NDArray[Any]
    position: NDArray[Any]
    token_id: NDArray[Any]
    rank: NDArray[np.uint16]
    reference_loss: Codes
    reference_entropy: Codes
    bucket: Codes
    predicted: Codes

    def take(self, tokens: NDArray[np.int64]) -> TokenTable:
        """Return the rows of some tokens."""
        return TokenTable(*(getattr(self, name)[tokens] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of tokens in one run; every array of shape (n,), in the codes of the page."""

    may_drop: Codes
    rebound: Codes
    gap: Codes
    first_learned: Codes
    forgetting: Codes
    kind: Codes

    def take(self, tokens: NDArray[np.int64]) -> Fates:
        """Return the rows of some tokens."""
        return Fates(*(getattr(self, name)[tokens] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Epochs:
    """The values of tokens in every epoch of one run; every array of shape (epoch, n)."""

    loss: Codes
    entropy: Codes
    correct: NDArray[np.bool_]
    dropped: NDArray[np.bool_] | None


def head(table: TokenTable, fates: list[Fates], text: bytes) -> bytes:
    """Return the head of a passage; spans in `table` count from the start of `text`."""
    n = len(table.start)
    columns = [np.array([n, len(text)])]
    columns += [table.start, table.end, table.sequence, table.token_id, table.position]
    words = [column.astype("<u4").tobytes() for column in columns] + [table.rank.astype("<u2").tobytes()]
    octets = [table.reference_loss, table.reference_entropy, table.bucket, table.predicted]
    for of_run in fates:
        octets += [getattr(of_run, name) for name in of_run.__slots__]
    return b"".join([*words, *(column.tobytes() for column in octets), text])


def body(runs: list[Epochs]) -> bytes:
    """Return the body of a passage."""
    parts = []
    for values in runs:
        parts += [over_epochs(values.loss).tobytes(), over_epochs(values.entropy).tobytes()]
        parts += [
            np.packbits(bits, axis=1, bitorder="little").tobytes()
            for bits in (values.correct, values.dropped)
            if bits is not None
        ]
    return b"".join(parts)


def packed(chunk: bytes) -> str:
    """Return a chunk as the page holds it: deflated, in base 64."""
    return base64.b64encode(zlib.compress(chunk, 6)).decode("ascii")
