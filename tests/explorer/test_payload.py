"""The bytes of a passage, written out by hand."""

from __future__ import annotations

import base64
import zlib

import numpy as np

from dynamics.explorer.payload import NO_RANK, Epochs, Fates, TokenTable, body, head, packed


def u8(*values):
    return np.array(values, dtype=np.uint8)


TABLE = TokenTable(
    start=np.array([0, 2]),
    end=np.array([2, 3]),
    sequence=np.array([5, 5]),
    position=np.array([14, 15]),
    token_id=np.array([300, 70000]),
    rank=np.array([258, NO_RANK], dtype=np.uint16),
    reference_loss=u8(9, 255),
    reference_entropy=u8(8, 255),
    bucket=u8(1, 255),
    predicted=u8(1, 0),
)
FATE = Fates(*(u8(k, k + 100) for k in range(6)))


def test_head_by_hand():
    expected = (
        bytes([2, 0, 0, 0, 3, 0, 0, 0])  # tokens, bytes of text
        + bytes([0, 0, 0, 0, 2, 0, 0, 0])  # start
        + bytes([2, 0, 0, 0, 3, 0, 0, 0])  # end
        + bytes([5, 0, 0, 0, 5, 0, 0, 0])  # sequence
        + bytes([44, 1, 0, 0, 112, 17, 1, 0])  # token id: 256 + 44, 65536 + 17 * 256 + 112
        + bytes([14, 0, 0, 0, 15, 0, 0, 0])  # position
        + bytes([2, 1, 255, 255])  # rank: 256 + 2, none
        + bytes([9, 255, 8, 255, 1, 255, 1, 0])
        + bytes([0, 100, 1, 101, 2, 102, 3, 103, 4, 104, 5, 105])
        + b"abc"
    )
    assert head(TABLE, [FATE], b"abc") == expected
    two = head(TABLE, [FATE, FATE], b"abc")
    assert len(two) == len(expected) + 12


def test_body_by_hand():
    bits = np.zeros((2, 9), dtype=bool)
    bits[0, 0] = bits[1, 8] = True
    values = Epochs(
        loss=np.array([[1] * 9, [4] * 9], dtype=np.uint8),
        entropy=np.full((2, 9), 7, np.uint8),
        correct=bits,
        dropped=None,
    )
    expected = bytes([1] * 9 + [3] * 9 + [7] * 9 + [0] * 9) + bytes([1, 0, 0, 1])
    assert body([values]) == expected
    dropped = Epochs(values.loss, values.entropy, bits, ~bits)
    assert body([values, dropped]) == expected + expected + bytes([254, 1, 255, 0])


def test_rows_of_tokens():
    one = TABLE.take(np.array([1]))
    assert (one.token_id.tolist(), one.rank.tolist(), one.position.tolist()) == ([70000], [NO_RANK], [15])
    assert FATE.take(np.array([1, 0])).kind.tolist() == [105, 5]


def test_packed_is_base64_of_zlib():
    chunk = bytes(range(256)) * 10
    assert zlib.decompress(base64.b64decode(packed(chunk), validate=True)) == chunk
