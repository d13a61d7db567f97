"""A document's bytes are dealt out to its tokens, each byte once, whatever the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.analysis.tokens.token_bytes import bytes_of_spans, token_bytes
from dynamics.errors import InputError
from dynamics.records.reader import open_run

TEXTS = [
    "plain words, and more words",
    "\U0001f600 \U0001f468\u200d\U0001f469 flag \U0001f1e9\U0001f1ea",
    "e\u0301 A\u030a \u1e9b\u0323 ﬁne ½",
    "   leading and trailing   ",
    "漢字かな交じり文 und Straße",
    "x<|endoftext|>y\r\n\ta\x00b",
]


def dealt(*spans: tuple[int, int, int]) -> list[float]:
    document, start, end = (np.array(column, dtype=np.int32) for column in zip(*spans, strict=True))
    return bytes_of_spans(document, start, end).tolist()


def test_by_hand() -> None:
    # One after the other, end of text at the end: their lengths; a document begins anew.
    assert dealt((0, 0, 3), (0, 3, 4), (0, 4, 9), (0, 9, 9), (1, 0, 2)) == [3, 1, 5, 0, 2]
    # A blank that no token stands for goes to the next token, and what is left over at the end to the end of text.
    assert dealt((0, 0, 5), (0, 6, 11), (0, 13, 13)) == [5, 6, 2]
    # Three tokens of one character of four bytes, after a blank: equal shares of the character.
    assert dealt((0, 1, 5), (0, 1, 5), (0, 1, 5), (0, 5, 6)) == pytest.approx([1 + 4 / 3, 4 / 3, 4 / 3, 1])
    # Spans that overlap: the first has what both stand for.
    assert dealt((0, 0, 3), (0, 2, 5)) == [3, 2]
    # Equal spans of two documents are not of one character; empty spans share nothing.
    assert dealt((0, 0, 2), (0, 1, 2), (1, 1, 2), (1, 2, 2), (1, 2, 2), (1, 2, 4)) == [2, 0, 2, 0, 0, 2]
    assert bytes_of_spans(*(np.zeros(0, dtype=np.int32),) * 3).tolist() == []


def byte_level(normalizer: Any = None, **pre: bool) -> Any:
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **pre})
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer=trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def nfkc() -> Any:
    return byte_level(pytest.importorskip("tokenizers").normalizers.NFKC())


def prefixed() -> Any:
    return byte_level(add_prefix_space=True)


def fallback() -> Any:
    """As Llama 2's: characters that are not in the vocabulary are spelled as bytes."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghilmnoprstuwx"]
    model = tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def word_piece() -> Any:
    """As BERT's: lower case, accents removed, blanks left out."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    vocabulary = ["[UNK]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]")


@pytest.mark.parametrize("make", [byte_level, prefixed, nfkc, fallback, word_piece])
def test_tokens_of_a_document_have_its_bytes_together(make: Any) -> None:
    from dynamics.corpus.tokenizer import encode_documents

    encoded = encode_documents(make(), TEXTS)
    document = np.repeat(np.arange(len(TEXTS)), [len(one.token_id) for one in encoded])
    start, end = (np.concatenate([getattr(one, name) for one in encoded]) for name in ("byte_start", "byte_end"))
    found = bytes_of_spans(document, start, end)
    assert (found >= 0).all()
    np.testing.assert_allclose(np.bincount(document, found), [len(text.encode()) for text in TEXTS], rtol=1e-12)
    if make in (byte_level, prefixed):
        assert (found == end - start).all()  # what the tokens themselves are long


def test_bytes_that_spell_a_character_are_one_each() -> None:
    from dynamics.corpus.tokenizer import encode

    one = encode(fallback(), "a\U0001f600 é")
    found = bytes_of_spans(np.zeros(len(one.token_id), dtype=np.int32), one.byte_start, one.byte_end)
    assert found.tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 0]  # a, four bytes, a blank, two bytes, end of text


@pytest.mark.parametrize("block_size", [16, 4096])
def test_records_of_documents_that_are_cut_by_rows(tmp_path: Path, block_size: int) -> None:
    records = open_run(make_run(tmp_path / "run", epochs=[0], block_size=block_size)).records("train")
    found = token_bytes(records)
    assert (found == records.byte_end - records.byte_start).all()
    lengths = [len(records.document_bytes(d)) for d in range(records.n_documents)]
    real = records.document_id >= 0
    by_document = np.bincount(records.document_id[real], found[real])
    assert by_document.tolist() == lengths
    if block_size == 4096:
        # Nothing is cut: predicted tokens and the first one make the document.
        first = [found[0, np.flatnonzero(records.document_id[0] == d)[0]] for d in range(records.n_documents)]
        predicted = np.bincount(records.document_id[records.predicted], found[records.predicted])
        assert (predicted + first).tolist() == lengths


def test_recorded_rows_are_those_of_the_whole_split(tmp_path: Path) -> None:
    whole = open_run(make_run(tmp_path / "whole", epochs=[0])).records("train")
    some = open_run(make_run(tmp_path / "some", epochs=[0], recorded={"train": [1, 4, 5]})).records("train")
    assert token_bytes(some).tolist() == token_bytes(whole)[[1, 4, 5]].tolist()


def test_runs_that_do_not_know_the_bytes_of_their_tokens_are_refused_by_a_line(tmp_path: Path) -> None:
    records = open_run(make_run(tmp_path / "run", epochs=[0])).records("validation")
    manifest = records.run.manifest
    del manifest["tokenizer"]
    with pytest.raises(InputError, match=r"run does not say .* record anew"):
        token_bytes(records)
    manifest["token_text"] = {"spelled_as": "numbers", "special_ids": []}
    with pytest.raises(InputError, match="recorded without a tokenizer; give"):
        token_bytes(records)
    manifest["token_text"] = {"spelled_as": "vocabulary", "special_ids": []}
    with pytest.raises(InputError, match="no byte-level one; train by a recipe"):
        token_bytes(records)
    token = int(records.token_id[0, 1])
    manifest["token_text"] = {"spelled_as": "bytes", "special_ids": [0, token]}
    lengths = records.byte_end - records.byte_start
    assert lengths[records.token_id == token].sum() > 0
    expected = np.where(records.token_id == token, 0, lengths)
    assert token_bytes(records).tolist() == expected.tolist()
