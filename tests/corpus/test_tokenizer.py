"""Tokenizers: training is reproducible, and every token knows its bytes."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus import tokenizer as tokenizer_module
from dynamics.corpus.tokenizer import (
    EncodedDocument,
    encode,
    encode_documents,
    load_tokenizer,
    pad_id,
    tokenizer_hash,
    train_tokenizer,
)
from dynamics.errors import InputError

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps.\n" * 3,
    "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return f(x) + 1\n" * 3,
    "Ein Satz über Bäume, Häuser und Straßen. Noch ein Satz über Bäume.\n" * 3,
]
AWKWARD = [
    "plain",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 flag \U0001f1e9\U0001f1ea",
    "e\u0301 A\u030a o\u0323\u0302 \u1e9b\u0323",  # combining, not in normal form
    "שלום עולם \u202eabc\u202c مرحبا",
    "a\x00b\x00\x00c",
    "one\r\ntwo\r\n\r\n\tthree \r",
    "x<|endoftext|>y<|pad|> <|endoftext|>",
    "   leading and trailing   ",
    "\ufeffmark \u2028 \u00a0 \u3000",
    "漢字かな交じり文",
    "",
]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@cache
def trained() -> Any:
    return train_tokenizer(TEXTS, vocab_size=300)


def wrap(backend: Any, **special: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def spans(document: EncodedDocument) -> list[tuple[int, int]]:
    return list(zip(document.byte_start.tolist(), document.byte_end.tolist(), strict=True))


def assert_exact(tokenizer: Any, text: str, document: EncodedDocument) -> None:
    """Assert that the spans lie one after the other and cover the text; eos alone is empty."""
    assert document.token_id[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in document.token_id[:-1]
    assert document.byte_start[0] == 0
    assert (document.byte_start[1:] == document.byte_end[:-1]).all()
    assert (document.byte_end > document.byte_start)[:-1].all()
    assert spans(document)[-1] == (len(text.encode()),) * 2
    for array in (document.token_id, document.byte_start, document.byte_end):
        assert array.dtype == np.int32


def test_training_fixes_the_special_tokens_and_the_size() -> None:
    tokenizer = trained()
    assert len(tokenizer) == 300
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 0)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|pad|>", 1)
    assert tokenizer.bos_token is None
    assert tokenizer.unk_token is None
    assert pad_id(tokenizer) == 1
    # No pair occurs twice in these: 2 special tokens and 256 bytes are all there is.
    assert len(train_tokenizer(["abcd", "ef"], vocab_size=300)) == 258
    assert len(train_tokenizer([], vocab_size=258)) == 258
    # "ab" twice: one merge.
    tokenizer = train_tokenizer(["ab", "ab"], vocab_size=300)
    assert encode(tokenizer, "abab a").token_id.tolist()[:2] == [258, 258]


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match=r"vocab_size: 257 .* 258"):
        train_tokenizer(TEXTS, vocab_size=257)


def test_training_is_reproducible() -> None:
    assert tokenizer_hash(train_tokenizer(iter(TEXTS), vocab_size=300)) == tokenizer_hash(trained())
    program = (
        "import json, sys; from dynamics.corpus.tokenizer import *; "
        "print(tokenizer_hash(train_tokenizer(json.load(sys.stdin), vocab_size=300)))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "RAYON_NUM_THREADS": "3"},
    )
    assert elsewhere.stdout.strip() == tokenizer_hash(trained())


def test_spans_by_hand() -> None:
    tokenizer = train_tokenizer(["aé"], vocab_size=258)  # bytes only
    document = encode(tokenizer, "aé\U0001f600")
    # One byte, two bytes and four bytes, though the offsets count three characters.
    assert spans(document) == [*((i, i + 1) for i in range(7)), (7, 7)]
    tokens = tokenizer.convert_ids_to_tokens(document.token_id.tolist())
    assert tokens == ["a", "Ã", "©", "ð", "Ł", "ĺ", "Ģ", "<|endoftext|>"]


@pytest.mark.parametrize("text", AWKWARD)
def test_spans_are_exact(text: str) -> None:
    document = encode(trained(), text)
    assert_exact(trained(), text, document)
    assert trained().decode(document.token_id[:-1].tolist()) == text


@settings(deadline=None)
@given(ANY_TEXT)
def test_spans_are_exact_for_any_text(text: str) -> None:
    assert_exact(trained(), text, encode(trained(), text))


def test_special_tokens_in_a_text_are_text() -> None:
    text = "a<|endoftext|>b<|pad|>"
    document = encode(trained(), text)
    assert set(document.token_id[:-1].tolist()).isdisjoint({0, 1})
    # and what the tokenizer itself does is not changed by it
    assert trained()("<|endoftext|>").input_ids == [0]


def test_many_documents_are_encoded_as_one_by_one() -> None:
    texts = AWKWARD * 120  # more than one batch
    together = encode_documents(trained(), texts)
    assert len(together) == len(texts)
    for text, document in list(zip(texts, together, strict=True))[-len(AWKWARD) :]:
        alone = encode(trained(), text)
        assert document.token_id.tolist() == alone.token_id.tolist()
        assert spans(document) == spans(alone)
    assert encode_documents(trained(), []) == []


def test_settings_of_the_tokenizer_do_not_matter_and_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    expected = encode(tokenizer, TEXTS[0])
    before = tokenizer_hash(tokenizer)
    tokenizer.model_max_length = 5
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=999)
    settings = (backend.truncation, backend.padding)
    transformers.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            document = encode_documents(tokenizer, [TEXTS[0], "a"])[0]
    finally:
        transformers.logging.disable_propagation()
    assert document.token_id.tolist() == expected.token_id.tolist()
    assert not caplog.records
    assert (backend.truncation, backend.padding) == settings
    assert tokenizer_hash(tokenizer) == before


def test_the_post_processor_adds_nothing() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|pad|> $A <|endoftext|>", special_tokens=[("<|pad|>", 1), ("<|endoftext|>", 0)]
    )
    assert tokenizer("a").input_ids[0] == 1
    assert encode(tokenizer, "a").token_id.tolist() == encode(trained(), "a").token_id.tolist()


def test_a_prefix_space_is_not_a_byte_of_the_text() -> None:
    backend = tokenizers.Tokenizer.from_str(trained().backend_tokenizer.to_str())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = wrap(backend, eos_token="<|endoftext|>")
    assert spans(encode(tokenizer, "zé")) == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 3)]
    assert spans(encode(tokenizer, " z"))[-1] == (2, 2)


def test_added_words_stand_for_themselves() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.add_tokens(["Ġword", "    "])  # the first is not a space and "word" here
    document = encode(tokenizer, "aĠword    b")
    assert 300 in document.token_id
    assert 301 in document.token_id
    assert spans(document) == [(0, 1), (1, 7), (7, 11), (11, 12), (12, 12)]


def test_a_normaliser_that_changes_the_text_leaves_sensible_spans() -> None:
    backend = tokenizers.Tokenizer.from_str(trained().backend_tokenizer.to_str())
    backend.normalizer = tokenizers.normalizers.NFC()
    tokenizer = wrap(backend, eos_token="<|endoftext|>")
    normal = unicodedata.normalize("NFC", "Bäume")
    assert_exact(tokenizer, normal, encode(tokenizer, normal))
    text = "xa\u0308y"  # x, a with a combining mark (1 + 2 bytes), y
    # The normaliser makes U+00E4 of two characters, and two byte tokens of that.
    found = spans(encode(tokenizer, text))
    assert found[0] == (0, 1)
    assert found[-2:] == [(4, 5), (5, 5)]
    assert all(1 <= start <= end <= 4 for start, end in found[1:-2])


def word_piece() -> Any:
    vocabulary = ["[UNK]", "[SEP]", "uber", "straße", "##n", "the", "##re", "."]
    model = tokenizers.models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return wrap(backend, eos_token="[SEP]", unk_token="[UNK]")


def unigram() -> Any:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("re", -1.0), ("é", -1.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    return wrap(backend, eos_token="</s>", unk_token="<unk>")


def test_word_piece_by_hand() -> None:
    text = "Über Straßen \U0001f600 there."
    # bytes: Ü 2, ber 3, space | Stra 4, ß 2, e, n | space, emoji 4 | space, the, re, point
    document = encode(word_piece(), text)
    assert document.token_id.tolist() == [2, 3, 4, 0, 5, 6, 7, 1]
    assert spans(document) == [
        *((0, 5), (6, 13), (13, 14), (15, 19), (20, 23), (23, 25), (25, 26)),
        (26, 26),
    ]


def test_unigram_by_hand() -> None:
    text = "there é"
    document = encode(unigram(), text)
    assert document.token_id.tolist() == [3, 4, 2, 5, 1]
    assert spans(document) == [(0, 3), (3, 5), (5, 6), (6, 8), (8, 8)]


@pytest.mark.parametrize("kind", [word_piece, unigram])
@settings(deadline=None)
@given(text=ANY_TEXT | st.sampled_from(AWKWARD))
def test_other_tokenizers_have_spans_in_order(kind: Any, text: str) -> None:
    document = encode(KINDS[kind], text)
    n_bytes = len(text.encode())
    edges = {0, *(len(text[:i].encode()) for i in range(len(text) + 1))}
    starts, ends = document.byte_start, document.byte_end
    assert (starts <= ends).all()
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()
    assert spans(document)[-1] == (n_bytes, n_bytes)
    assert {*starts.tolist(), *ends.tolist()} <= edges  # characters are not split


KINDS: dict[Any, Any] = {word_piece: word_piece(), unigram: unigram()}


def test_saving_and_loading_keep_the_tokenizer(tmp_path: Path) -> None:
    folder = str(tmp_path / "tokenizer")
    trained().save_pretrained(folder)
    loaded = load_tokenizer(folder)
    assert tokenizer_hash(loaded) == tokenizer_hash(trained())
    assert pad_id(loaded) == 1
    text = "".join(AWKWARD)
    assert encode(loaded, text).token_id.tolist() == encode(trained(), text).token_id.tolist()


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "gpt2"])
def test_a_model_beside_the_tokenizer_does_not_change_it(tmp_path: Path, model_type: str) -> None:
    """AutoTokenizer takes the model's own kind for some of these, with another normaliser."""
    trained().save_pretrained(tmp_path)
    transformers.AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    assert tokenizer_hash(load_tokenizer(str(tmp_path))) == tokenizer_hash(trained())


def test_the_hash_tells_tokenizers_apart() -> None:
    hashes = {
        tokenizer_hash(tokenizer)
        for tokenizer in (
            trained(),
            train_tokenizer(TEXTS, vocab_size=301),
            train_tokenizer(TEXTS[:2], vocab_size=300),
            wrap(trained().backend_tokenizer, eos_token="<|endoftext|>"),
            wrap(trained().backend_tokenizer, eos_token="<|pad|>", pad_token="<|pad|>"),
        )
    }
    assert len(hashes) == 5


def test_padding_without_a_padding_token_is_end_of_text() -> None:
    assert pad_id(unigram()) == 1


def test_tokenizers_that_cannot_be_used(tmp_path: Path) -> None:
    plain = wrap(trained().backend_tokenizer)
    with pytest.raises(InputError, match=r"no end-of-text token.*eos_token"):
        encode(plain, "a")
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match=r"plain' has no end-of-text token"):
        load_tokenizer(str(tmp_path / "plain"))
    with pytest.raises(InputError, match="no fast backend"):
        encode(transformers.ByT5Tokenizer(), "a")


def test_tokenizers_that_cannot_be_loaded(tmp_path: Path) -> None:
    for name in (str(tmp_path / "missing"), "./missing", "~/missing", "a/b/c"):
        with pytest.raises(InputError, match=f"tokenizer '{name}' does not exist"):
            load_tokenizer(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' could not be loaded: .*save_pretrained"):
        load_tokenizer(str(tmp_path / "empty"))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="is a file; give the folder"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    with pytest.raises(InputError, match="could not be loaded"):
        load_tokenizer(str(tmp_path))


def test_a_hub_name_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="'someone/no-such-tokenizer' could not be loaded"):
        load_tokenizer("someone/no-such-tokenizer")


def test_a_word_beyond_all_measure_is_learned_from_in_parts() -> None:
    # Time grows with the square of a word's length: a line of a megabyte took seven minutes.
    longest = tokenizer_module._LONGEST_WORD
    word, blank = "aé" * (2 * longest), "\n" * (2 * longest + 1)
    texts = [f"before {word} after{blank}end", "x" * (longest + 1)]
    for text in texts:
        parts = list(tokenizer_module._with_short_words([text]))
        assert "".join(parts) == text
        longest_run = max((len(run) for part in parts for run in re.findall(r"\S+|\s+", part)), default=0)
        assert longest_run <= longest and len(parts) > 1
    ordinary = [*TEXTS, *AWKWARD, "x" * longest, "many words " * longest]
    assert list(tokenizer_module._with_short_words(ordinary)) == ordinary
    tokenizer = train_tokenizer([word * 60], vocab_size=300)  # a million bytes
    assert b"".join(token_bytes(encode(tokenizer, word), word)) == word.encode()


def token_bytes(encoded: EncodedDocument, text: str) -> list[bytes]:
    raw = text.encode()
    return [raw[start:end] for start, end in zip(encoded.byte_start, encoded.byte_end, strict=True)]
