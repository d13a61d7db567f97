"""What a recipe's corpus keeps of its documents comes through to the records, and groups are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.tiny import quiet, run_tiny, tiny_recipe

from dynamics.analysis.estimands.value_curves import bits_per_byte_curves
from dynamics.analysis.tokens.groups import groups_by_field
from dynamics.analysis.tokens.token_bytes import token_bytes
from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.training.recipe_run import train

WORDS = {"wind": "north wind and sun argue who is stronger", "road": "the cold road to the warm house"}


def corpus(path: Path) -> str:
    """Twenty documents of two topics, six of them without one."""
    rows = []
    for at in range(20):
        topic = ("wind", "road")[at % 2]
        row = {"text": f"{at} {WORDS[topic]} {at * at}", "topic": topic, "number": at}
        rows.append({key: value for key, value in row.items() if at % 3 or key != "topic"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.filterwarnings("ignore:intervals over")
def test_from_the_rows_of_a_corpus_to_curves_by_group(tmp_path: Path) -> None:
    other = tmp_path / "more.txt"
    other.write_text("a text without fields, and another source")
    rows = corpus(tmp_path / "rows.jsonl")
    settings = {"source": [rows, str(other)], "keep": ["topic", "<source>"]}
    run = run_tiny(tmp_path / "run", corpus=settings, recording={}, training={"num_train_epochs": 1})
    assert check_run(run.path).ok
    topics, sources = (groups_by_field(run, field) for field in settings["keep"])
    assert (topics.labels, sources.labels) == (("road", "wind"), ("more.txt", "rows.jsonl"))
    for split in run.splits:
        records = run.records(split)
        by_topic, by_source = topics.index(records), sources.index(records)
        for document in range(records.n_documents):
            text, here = records.document_text(document), records.document_id == document
            number = text.split()[0]
            known = number.isdecimal() and int(number) % 3
            expected = -1 if not known else int("wind" in text)
            assert set(by_topic[here]) == {expected}
            assert set(by_source[here]) == {int(number.isdecimal())}
    # Bits per byte of a topic, from its documents alone.
    (curve,) = bits_per_byte_curves(run, split="train", buckets=topics)
    records = run.records("train")
    here = records.predicted & (topics.index(records) == 1)
    bits = records.loss(1)[here].astype(np.float64).sum() / np.log(2)
    assert curve.values.estimate[1, 1] == pytest.approx(bits / token_bytes(records)[here].sum(), rel=1e-12)
    # Nothing of it is in what makes tokens the same.
    plain = run_tiny(tmp_path / "plain", corpus={"source": settings["source"]}, training={"num_train_epochs": 1})
    assert plain.manifest["tokens"]["train"]["tokens_hash"] == run.manifest["tokens"]["train"]["tokens_hash"]
    assert plain.manifest["data"] == run.manifest["data"]
    assert plain.records("train").document_fields == {}
    assert "keep" not in yaml.safe_load((plain.path / schema.CONFIG_FILE).read_text())["corpus"]


def test_a_field_that_no_document_has_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = tiny_recipe(corpus={"source": corpus(tmp_path / "rows.jsonl"), "keep": ["topik"]})
    with pytest.raises(InputError, match=r"corpus.keep: none of the 20 documents has the field 'topik'"):
        train(recipe, tmp_path / "run", reporter=quiet())
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_only_with_the_fields_it_began_with(tmp_path: Path) -> None:
    source = corpus(tmp_path / "rows.jsonl")
    run = run_tiny(tmp_path / "run", corpus={"source": source}, training={"num_train_epochs": 1})
    more = tiny_recipe(corpus={"source": source, "keep": ["topic"]}, training={"num_train_epochs": 2})
    with pytest.raises(InputError, match=r"corpus.keep \(not set then, \['topic'\] now\)"):
        train(more, run.path, resume=True, reporter=quiet())
