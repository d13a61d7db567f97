"""Splitting by hash and packing into blocks, against examples worked by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.packing import PackedSplit, pack_documents, split_documents
from dynamics.corpus.sources import Document
from dynamics.corpus.tokenizer import EncodedDocument
from dynamics.errors import InputError

EOS = 0
PAD = 1


def by_character(text: str) -> EncodedDocument:
    """Encode with one token a character, its code point plus 2."""
    lengths = [len(character.encode()) for character in text]
    ends = np.cumsum([0, *lengths])
    return EncodedDocument(
        token_id=np.asarray([*(ord(c) + 2 for c in text), EOS], dtype=np.int32),
        byte_start=ends.astype(np.int32),
        byte_end=np.append(ends[1:], ends[-1]).astype(np.int32),
    )


def pack(texts: list[str], block_size: int) -> PackedSplit:
    encoded = [by_character(text) for text in texts]
    return pack_documents(encoded, texts, block_size=block_size, pad_id=PAD)


def documents(texts: list[str]) -> list[Document]:
    return [Document(text, "test") for text in texts]


def test_the_side_of_a_document_is_a_function_of_its_hash() -> None:
    texts = [f"text {i}" for i in range(200)]
    expected: dict[str, list[str]] = {"train": [], "validation": [], "tuning": []}
    for text in texts:
        content = hashlib.sha256(text.encode()).hexdigest()
        first = int(hashlib.sha256(f"split:{content}".encode()).hexdigest()[:16], 16)
        # u < 1/4, u < 3/8, in integers
        side = "train"
        if first < 2**62:
            side = "validation"
        elif first < 2**62 + 2**61:
            side = "tuning"
        expected[side].append(text)
    parts = split_documents(documents(texts), fraction=0.25, tuning=0.125)
    assert {name: [d.text for d in part] for name, part in parts.items()} == expected
    assert list(parts) == ["train", "validation", "tuning"]
    # 50 and 25 are expected; the standard deviations are 6.1 and 4.7.
    assert 32 <= len(parts["validation"]) <= 68
    assert 11 <= len(parts["tuning"]) <= 39
    assert list(split_documents(documents(texts), fraction=0.25)) == ["train", "validation"]


def test_equal_documents_fall_on_one_side() -> None:
    docs = documents([f"text {i % 20}" for i in range(60)])
    parts = split_documents(docs, fraction=0.4)
    sides = [{d.text for d in part} for part in parts.values()]
    assert not sides[0] & sides[1]
    assert sum(map(len, parts.values())) == 60


def test_adding_a_document_moves_no_other() -> None:
    docs = documents([f"text {i}" for i in range(40)])
    before = split_documents(docs, fraction=0.3)
    after = split_documents([Document("new", "x"), *docs[::-1]], fraction=0.3)
    for name, part in before.items():
        assert {d.text for d in after[name]} - {"new"} == {d.text for d in part}
        # and the order is that of the input
        assert [d.text for d in after[name] if d.text != "new"] == [d.text for d in part][::-1]
    # A larger share keeps what a smaller one had; tuning is taken from training.
    assert set(before["validation"]) <= set(split_documents(docs, fraction=0.5)["validation"])
    assert split_documents(docs, fraction=0.3, tuning=0.2)["validation"] == before["validation"]


def test_further_parts_take_theirs_from_training_alone() -> None:
    docs = documents([f"text {i}" for i in range(200)])
    before = split_documents(docs, fraction=0.25, tuning=0.125)
    parts = split_documents(docs, fraction=0.25, tuning=0.125, others={"validation-b": 0.25, "validation-a": 0.125})
    assert list(parts) == ["train", "validation", "tuning", "validation-b", "validation-a"]
    assert parts["validation"] == before["validation"] and parts["tuning"] == before["tuning"]
    assert sum(map(len, parts.values())) == 200 and set(parts["train"]) < set(before["train"])
    for document in docs:
        first = int(hashlib.sha256(f"split:{document.content_hash}".encode()).hexdigest()[:16], 16) / 2**64
        # The edges, in eighths: 2, 3, 5, 6.
        side = ["validation", "validation", "tuning", "validation-b", "validation-b", "validation-a", "train", "train"]
        assert document in parts[side[int(first * 8)]]
    with pytest.raises(InputError, match=r"the share of x 0\.5 must each be .* together below 1"):
        split_documents(docs, fraction=0.25, tuning=0.25, others={"x": 0.5})
    with pytest.raises(InputError, match="none of the 200 documents fell into the x part"):
        split_documents(docs, fraction=0.25, others={"x": 1e-9})


def test_shares_that_are_refused() -> None:
    docs = documents(["a", "b"])
    for fraction, tuning in [(1.0, 0.0), (0.6, 0.4), (-0.1, 0.0), (0.1, -0.1), (float("nan"), 0)]:
        with pytest.raises(InputError, match=r"validation\.fraction .* tuning\.fraction"):
            split_documents(docs, fraction=fraction, tuning=tuning)
    with pytest.raises(InputError, match="none of the 2 documents fell into the validation part"):
        split_documents(docs, fraction=1e-9)
    with pytest.raises(InputError, match="the train part"):
        split_documents(docs, fraction=1 - 1e-9)
    # Validation text may come from elsewhere.
    assert split_documents(docs, fraction=0.0) == {"train": docs, "validation": []}


def test_packing_by_hand() -> None:
    # Tokens: a b . | é . | c d e f .   (10 tokens, blocks of 4)
    packed = pack(["ab", "é", "cdef"], 4)
    a, b, c, d, e, f, e_acute = (ord(x) + 2 for x in "abcdefé")
    assert packed.token_id.tolist() == [
        [a, b, EOS, e_acute],
        [EOS, c, d, e],
        [f, EOS, PAD, PAD],
    ]
    assert packed.document_id.tolist() == [[0, 0, 0, 1], [1, 2, 2, 2], [2, 2, -1, -1]]
    assert packed.byte_start.tolist() == [[0, 1, 2, 0], [2, 0, 1, 2], [3, 4, 0, 0]]
    assert packed.byte_end.tolist() == [[1, 2, 2, 2], [2, 1, 2, 3], [4, 4, 0, 0]]
    assert packed.predicted.tolist() == [
        [False, True, True, False],
        [False, False, True, True],
        [False, True, False, False],
    ]
    assert packed.n_predicted == 5
    assert packed.labels().tolist() == [
        [-100, b, EOS, -100],
        [-100, -100, d, e],
        [-100, EOS, -100, -100],
    ]
    assert packed.labels().dtype == np.int64
    assert packed.text.tobytes() == "abécdef".encode()
    assert packed.text_offset.tolist() == [0, 2, 4, 8]
    assert [row.tobytes() for row in packed.document_hash] == [
        hashlib.sha256(text.encode()).digest() for text in ("ab", "é", "cdef")
    ]
    assert packed.text_offset.dtype == np.int64
    assert packed.text.dtype == packed.document_hash.dtype == np.uint8
    for array in (packed.token_id, packed.document_id, packed.byte_start, packed.byte_end):
        assert array.dtype == np.int32
        assert array.flags.writeable  # torch warns of arrays that are not


def test_a_document_over_several_blocks_and_a_full_last_block() -> None:
    packed = pack(["abcdefg", "hij"], 4)  # 8 + 4 tokens: no padding
    assert packed.document_id.tolist() == [[0] * 4, [0] * 4, [1] * 4]
    # Position 0 has no context even where its document began in an earlier block.
    assert packed.predicted.tolist() == [[False, True, True, True]] * 3
    assert packed.byte_start[1].tolist() == [4, 5, 6, 7]


def test_the_tokens_hash_is_of_shape_tokens_and_documents() -> None:
    one = pack(["ab", "cd"], 4)
    by_hand = hashlib.sha256((2).to_bytes(8, "little") + (4).to_bytes(8, "little"))
    for array in (one.token_id, one.document_id):
        for value in array.ravel().tolist():
            by_hand.update(value.to_bytes(4, "little", signed=True))
    assert one.tokens_hash() == by_hand.hexdigest()
    assert one.tokens_hash() == pack(["ab", "cd"], 4).tokens_hash()
    others = [pack(["ab", "cd"], 2), pack(["ab", "ce"], 4), pack(["ab", "cd"], 3)]
    assert len({one.tokens_hash(), *(other.tokens_hash() for other in others)}) == 4


def test_what_cannot_be_packed() -> None:
    with pytest.raises(InputError, match="block_size: 1 is too small"):
        pack(["ab"], 1)
    with pytest.raises(InputError, match="no documents to pack"):
        pack([], 4)
    with pytest.raises(InputError, match="nothing to predict"):
        pack(["", ""], 4)


@settings(deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1),
    st.integers(2, 9),
)
def test_packing_loses_nothing(texts: list[str], block_size: int) -> None:
    texts = [*texts, "ab"]
    packed = pack(texts, block_size)
    owner = packed.document_id.ravel()
    n_tokens = sum(len(text) + 1 for text in texts)
    assert (owner[:n_tokens] >= 0).all() and (owner[n_tokens:] == -1).all()
    assert len(owner) - n_tokens < block_size
    for i, text in enumerate(texts):
        own = owner == i
        assert packed.token_id.ravel()[own].tolist() == [*(ord(c) + 2 for c in text), EOS]
        low, high = packed.text_offset[i : i + 2]
        data = packed.text[low:high].tobytes()
        assert data == text.encode()
        spans = zip(packed.byte_start.ravel()[own], packed.byte_end.ravel()[own], strict=True)
        assert b"".join(data[start:end] for start, end in spans) == data
    # By the definition, one token at a time.
    for s, row in enumerate(packed.document_id):
        for p in range(block_size):
            expected = p > 0 and row[p] >= 0 and row[p] == row[p - 1]
            assert packed.predicted[s, p] == expected
            assert packed.labels()[s, p] == (packed.token_id[s, p] if expected else -100)
