"""Text that breaks pages, templates, terminals and parsers goes through a real run byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny import run_tiny, tiny_recipe

from dynamics.corpus.sources import load_documents
from dynamics.errors import InputError
from dynamics.records.check import check_run
from dynamics.records.reader import Records, open_run

HOSTILE = {
    "ends a script": "</script><script>alert(1)</script><!-- ]]> --> <![CDATA[ &amp; &lt;",
    "template braces": "{{ config }} {% raw %} ${HOME} $(id) `id` {text} {0} %s %(x)s {{{{",
    "controls": "nul \0 in \x01 the \x7f middle \x1b[31m red \x08\x08 bell \x07\0\0",
    "escapes of lone surrogates, spelled out": "\\ud800 \\udfff \\uD83D \\x00 \\N{NULL}",
    "right to left": "\u202eabc\u202c שלום \u200fمرحبا\u200e \u2067x\u2069 end",
    "joined emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇺🇳 ❤️‍🔥",
    "stacked marks": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤ e\u0301 é \u0301\u0301 한국어 ﷽",
    "ends of lines": "a\r\nb\rc\nd\u2028e\u2029f\x85g\x0bh\x0ci\n\n\n",
    "marks of byte order": "\ufeffmiddle\ufeff \ufffe \uffff \U0010ffff",
    "special tokens as text": "<|endoftext|><|pad|><|endoftext|> <s></s> [MASK] <unk>",
    "spaces": "  leading\t\ttabs \u00a0\u3000 trailing   \n ",
    "replacement characters": "\ufffd is a character of its own \ufffd\ufffd",
    "looks like JSON": '{"text": "not this", "loss": NaN}\n[1, 2',
}
# One line of a megabyte that is one word to a tokenizer, of letters of 1, 2, 3 and 4 bytes; so regular that it merges
# into tokens enough for a test of seconds.
HUGE = "aéक𝒳" * (1_000_000 // len("aéक𝒳".encode()) + 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    plain = [f"Document {number} is a plain one." for number in range(4)]
    hostile = list(HOSTILE.values())
    for name, texts in (("train", [HUGE, *plain, *hostile[::2]]), ("validation", hostile[1::2])):
        # Half of it escaped: JSON has surrogate pairs for characters beyond U+FFFF.
        rows = [json.dumps({"text": text}, ensure_ascii=at % 2 == 0) for at, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def records(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Records]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        run = run_tiny(
            tmp_path_factory.mktemp("runs") / "run",
            corpus={"source": str(corpus / "train.jsonl")},
            validation={"source": str(corpus / "validation.jsonl")},
            tokenizer={"train": {"vocab_size": 400}},
            recording={"train_sequences": "all", "validation_sequences": "all"},
            training={"num_train_epochs": 1, "per_device_train_batch_size": 32},
            block_size=128,
        )
    assert check_run(run.path).ok
    opened = open_run(run.path, verify=True)
    return {split: opened.records(split) for split in opened.splits}


def test_every_document_is_there_as_it_was(records: dict[str, Records], corpus: Path) -> None:
    found = [one.document_text(document) for one in records.values() for document in range(one.n_documents)]
    assert len(HUGE.encode()) > 1_000_000 and "\n" not in HUGE
    assert {*HOSTILE.values(), HUGE} <= set(found)
    assert len(found) == len(HOSTILE) + 1 + 4


def test_tokens_join_to_the_documents_byte_for_byte(records: dict[str, Records]) -> None:
    split_characters = 0
    for one in records.values():
        shape = one.token_id.shape
        texts = np.array([one.token_texts(row) for row in range(shape[0])], dtype=object)
        for document in range(one.n_documents):
            raw = one.document_text(document).encode()
            here = one.document_id == document
            starts, ends = one.byte_start[here], one.byte_end[here]
            # One after another without a gap, from the first byte to the last, and the empty end-of-text token.
            assert starts[0] == 0 and ends[-1] == starts[-1] == len(raw)
            assert (starts[1:] == ends[:-1]).all()
            pieces = [raw[start:end] for start, end in zip(starts, ends, strict=True)]
            assert b"".join(pieces) == raw
            shown = list(texts[here])
            assert shown == [piece.decode("utf-8", "replace") for piece in pieces]
            whole = all(piece == text.encode() for piece, text in zip(pieces, shown, strict=True))
            split_characters += not whole
            if whole:
                assert "".join(shown) == raw.decode()
    assert split_characters > 0  # some character is several tokens, or this would show less than it says


def test_sequences_join_to_the_text(records: dict[str, Records]) -> None:
    for one in records.values():
        raws = [one.document_text(document).encode() for document in range(one.n_documents)]
        for row in range(len(one.token_id)):
            at = one.document_id[row] >= 0
            documents = one.document_id[row][at]
            expected = b"".join(
                raws[document][start:end]
                for document, start, end in zip(documents, one.byte_start[row][at], one.byte_end[row][at], strict=True)
            )
            # A character cut by the sequence's edge, or by that of a document's part, is U+FFFD on both sides.
            assert one.text(row).replace("\ufffd", "") == expected.decode("utf-8", "replace").replace("\ufffd", "")


def test_values_are_where_predictions_are(records: dict[str, Records]) -> None:
    for one in records.values():
        for epoch in (0, 1):
            assert np.array_equal(~np.isnan(one.loss(epoch)), one.predicted)
            assert (one.loss(epoch)[one.predicted] >= 0).all()


@pytest.mark.parametrize("escape", [r"\ud800", r"\udfff", r"a\ud83db", r"\udc00\ud800"])
def test_a_lone_surrogate_is_refused_with_its_line(escape: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "good"}\n{"text": "' + escape + '"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: holds a lone surrogate \(U\+D"):
        load_documents(str(file))


def test_hostile_names_are_data_too(tmp_path: Path) -> None:
    file = tmp_path / "<script>" / "{{x}} $(id) 😀\u202e.txt"
    file.parent.mkdir()
    file.write_text("text")
    (document,) = load_documents(str(file))
    assert document.origin == str(file)
    assert tiny_recipe(corpus={"source": str(file)}).corpus.source == str(file)
