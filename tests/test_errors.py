"""Suggested spellings: near words are suggested, far-fetched ones are not."""

from __future__ import annotations

import time

import pytest

from dynamics.errors import hub_name, nearest

KEYS = ["block_size", "corpus", "model", "ratio", "regularizers", "seed", "source", "template", "tokenizer", "training"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("modle", "model"),  # two letters swapped
        ("corpu", "corpus"),  # one left out
        ("sseed", "seed"),  # one too many
        ("ratia", "ratio"),  # another one
        ("blocksize", "block_size"),
        ("block-size", "block_size"),
        ("Block_Size", "block_size"),
        ("regularisers", "regularizers"),
        ("regulariser", "regularizers"),  # two edits of twelve letters
        ("tokeniser", "tokenizer"),
        ("train", "training"),  # the beginning of this one alone
    ],
)
def test_near_words(word: str, meant: str) -> None:
    assert nearest(word, KEYS) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize(
    "word",
    ["", "s", "mode_l_x", "optimizer", "temp", "copies", "node", "sedes", "rate", "dropout", "entrodrop"],
)
def test_far_words(word: str) -> None:
    assert nearest(word, KEYS) == ""


def test_the_nearest_of_several_and_an_end_that_two_words_have() -> None:
    assert nearest("seads", ["seats", "seeds", "seas"]) == "; did you mean 'seats'?"
    assert nearest("train", ["train_sequences", "training_pass"]) == ""
    assert nearest("ab", ["a", "b", "abc"]) == "; did you mean 'abc'?"
    assert nearest("word", []) == ""


def test_long_words_take_no_time() -> None:
    start = time.process_time()
    nearest("x" * 5000, ["quickstart"])
    nearest("x" * 60, [f"{'y' * 50}{number}" for number in range(300)])
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("name", "owned"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("distilgpt2", "distilbert/distilgpt2"),
        ("distilroberta-base", "distilbert/distilroberta-base"),
        ("bert-base-cased", "google-bert/bert-base-cased"),
        ("roberta-large", "FacebookAI/roberta-large"),
        ("t5-small", "google-t5/t5-small"),
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("gpt3", None),
        ("nano", None),
        ("openai-community/gpt2", None),
    ],
)
def test_owners_on_the_hub(name: str, owned: str | None) -> None:
    assert hub_name(name) == owned
