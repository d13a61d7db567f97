"""A pretrained model and its tokenizer: its own by default; another one fits in its ids, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.models import build
from support.tiny import quiet, run_tiny, tiny_recipe
from transformers import PreTrainedTokenizerFast

from dynamics.corpus.tokenizer import load_tokenizer, train_tokenizer
from dynamics.errors import InputError
from dynamics.training.preparation.documents import n_ids
from dynamics.training.recipe_run import make_ready

TEXTS = ["The text of a document, and of another document; the words of it."] * 3


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A saved model of 300 ids with its tokenizer of 280."""
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    build(vocab_size=300, max_position_embeddings=64).save_pretrained(folder)
    train_tokenizer(TEXTS, vocab_size=280).save_pretrained(folder)
    return folder


def renumbered(folder: Path, source: Path, number) -> Path:
    """A tokenizer whose entries have other ids."""
    load_tokenizer(str(source)).save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = {token: number(index) for token, index in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        token["id"] = number(token["id"])
    file.write_text(json.dumps(content))
    return folder


def ready(tmp_path, model, **changes):
    fields = {"model": {"name": str(model)}, "tokenizer": None, **changes}
    return make_ready(tiny_recipe(**fields), tmp_path / "run", quiet())[0]


def test_its_own_tokenizer_is_the_default(tmp_path, model):
    run = run_tiny(tmp_path / "run", model={"name": str(model)}, tokenizer=None, training={"num_train_epochs": 1})
    assert run.config["tokenizer"] == str(model)
    own = load_tokenizer(str(model))
    assert run.manifest["tokenizer"]["vocab_size"] == len(own)
    saved = PreTrainedTokenizerFast.from_pretrained(run.path / "model")
    assert saved.get_vocab() == own.get_vocab()


def test_a_copy_of_it_is_as_good(tmp_path, model, recwarn):
    copy = renumbered(tmp_path / "copy", model, lambda index: index)
    assert ready(tmp_path, model, tokenizer=str(copy)).facts["tokenizer"]["vocab_size"] == 280
    assert not recwarn.list


def test_a_larger_one_is_refused(tmp_path, model):
    texts = [" ".join(f"{stem}{ending}" for stem in ("wind", "road", "sun", "cloak") for ending in ("s", "ed", "ing"))]
    train_tokenizer([*TEXTS, *texts * 2], vocab_size=310).save_pretrained(tmp_path / "larger")
    with pytest.raises(InputError, match=r"^tokenizer: it needs 310 ids, more than the 300 .*leave tokenizer out"):
        ready(tmp_path, model, tokenizer=str(tmp_path / "larger"))


def test_ids_count_and_not_entries(tmp_path, model):
    # 280 entries are fewer than the model's 300 ids; the last of them is beyond these.
    holes = renumbered(tmp_path / "holes", model, lambda index: index if index < 270 else index + 100)
    assert len(load_tokenizer(str(holes))) == 280 and n_ids(load_tokenizer(str(holes))) == 380
    with pytest.raises(InputError, match=r"^tokenizer: it needs 380 ids, more than the 300"):
        ready(tmp_path, model, tokenizer=str(holes))


def test_ids_of_other_texts_are_warned_of(tmp_path, model):
    turned = renumbered(tmp_path / "turned", model, lambda index: index if index < 2 else 281 - index)
    with pytest.warns(UserWarning, match=r"^tokenizer: 278 of its 280 ids stand for other texts .*leave tokenizer out"):
        ready(tmp_path, model, tokenizer=str(turned))


def test_a_model_without_a_tokenizer_needs_one(tmp_path, model):
    bare = tmp_path / "bare"
    build(vocab_size=300, max_position_embeddings=64).save_pretrained(bare)
    with pytest.raises(InputError, match=r"^model.name: its own tokenizer .*bare' has no vocabulary.*tokenizer: PATH"):
        ready(tmp_path, bare)
    assert ready(tmp_path, bare, tokenizer=str(model)).facts["tokenizer"]["vocab_size"] == 280
