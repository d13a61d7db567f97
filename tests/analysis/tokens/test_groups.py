from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.analysis.sums.document_sums import document_sums
from dynamics.analysis.tokens.buckets import TwoWayBuckets, entropy_buckets
from dynamics.analysis.tokens.groups import Groups, groups_by_field, groups_by_regex, own_groups
from dynamics.errors import InputError
from dynamics.records.reader import Run, open_run

FIELDS = {"topic": ["b", "a", None], "year": [10, 9, 2.5]}


def fields_of(n_documents: int) -> dict[str, list[Any]]:
    return {name: [values[d % 3] for d in range(n_documents)] for name, values in FIELDS.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("groups") / "run"
    return open_run(make_run(path, n_documents=12, epochs=1, document_fields=fields_of))


def of_documents(groups: Groups, records: Any) -> list[int]:
    """The group of every document, from those of its tokens, which must be the same; -1 at padding."""
    index = groups.index(records)
    assert index.dtype == np.int16 and (index[records.document_id < 0] == -1).all()
    found = [set(index[records.document_id == d].tolist()) for d in range(records.n_documents)]
    assert all(len(each) == 1 for each in found)
    return [each.pop() for each in found]


def test_regular_expressions_on_the_text(run: Run) -> None:
    records = run.records("validation")
    groups = groups_by_regex({"tenth": r"^1\d*:", "umlaut": "ü"}, other="rest")
    assert groups.labels == ("tenth", "umlaut", "rest") and groups.n == 3 and not groups.moving
    texts = [records.document_text(d) for d in range(records.n_documents)]
    expected = [0 if text.startswith("1") else 1 if "über" in text else 2 for text in texts]
    assert len(set(expected)) > 1
    assert of_documents(groups, records) == expected
    # Without others they are in no group, and left out of the sums.
    some = groups_by_regex({"tenth": r"^1\d*:"}, other=None)
    assert of_documents(some, records) == [0 if e == 0 else -1 for e in expected]
    sums = document_sums(records, buckets=some)
    assert sums.labels == ("tenth",) and sums.documents.tolist() == [d for d, e in enumerate(expected) if e == 0]
    # One pattern is its own label; flags are re's.
    assert groups_by_regex("ÜBER", flags=re.IGNORECASE).labels == ("ÜBER", "other")
    assert 0 in of_documents(groups_by_regex("ÜBER", flags=re.IGNORECASE), records)
    assert groups.key == groups_by_regex({"tenth": r"^1\d*:", "umlaut": "ü"}, other="rest").key
    assert len({groups.key, some.key, groups_by_regex("ü").key, groups_by_regex("ü", flags=re.IGNORECASE).key}) == 4


def test_texts_are_searched_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, records = groups_by_regex("ü"), run.records("train")
    before = groups.index(records)
    monkeypatch.setattr(type(records), "document_text", lambda self, document: pytest.fail("read again"))
    assert groups.index(run.records("train")).tolist() == before.tolist()


@pytest.mark.parametrize(
    ("patterns", "other", "message"),
    [
        ({}, "other", "needs a pattern"),
        ({"open": "("}, "other", r"the pattern '\(' of 'open' is no regular expression: missing \)"),
        ({"other": "a"}, "other", "the label 'other' is that of a pattern and of all others"),
    ],
)
def test_bad_patterns(patterns: dict[str, str], other: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        groups_by_regex(patterns, other=other)


def test_fields_that_the_corpus_kept(run: Run) -> None:
    validation = run.records("validation")
    topics = groups_by_field(run, "topic")
    assert (topics.name, topics.labels) == ("topic", ("a", "b"))
    assert of_documents(topics, validation) == [1, 0, -1, 1, 0, -1]
    told = groups_by_field(run, "topic", missing="none")
    assert told.labels == ("a", "b", "none") and of_documents(told, validation) == [1, 0, 2, 1, 0, 2]
    years = groups_by_field(run, "year")
    assert years.labels == ("2.5", "9", "10")  # as numbers
    assert of_documents(years, validation) == [2, 1, 0, 2, 1, 0]
    with pytest.raises(InputError, match=r"run did not keep the field 'topik' .* it kept topic, year; did you mean"):
        groups_by_field(run, "topik")


def test_fields_of_another_corpus_are_not_mistaken(run: Run, tmp_path: Path) -> None:
    def others(n_documents: int) -> dict[str, list[Any]]:
        return {"topic": ["a", "c"] * (n_documents // 2)}

    other = open_run(make_run(tmp_path / "other", epochs=[0], document_fields=others))
    none = open_run(make_run(tmp_path / "none", epochs=[0]))
    with pytest.raises(InputError, match=r"documents of .*other have 'c', which none of .*run has"):
        groups_by_field(run, "topic").index(other.records("train"))
    with pytest.raises(InputError, match=r"none did not keep the field 'topic' .*: it kept none\. Set corpus.keep"):
        groups_by_field(run, "topic").index(none.records("train"))


def test_a_split_without_fields_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    def training_alone(n_documents: int) -> dict[str, list[Any]]:
        return {"topic": ["a", "b"] * 6} if n_documents == 12 else {}

    run = open_run(make_run(tmp_path / "run", epochs=[0], document_fields=training_alone))
    groups = groups_by_field(run, "topic")
    assert of_documents(groups, run.records("train")) == [0, 1] * 6
    with pytest.raises(InputError, match="did not keep the field 'topic' of its validation documents"):
        groups.index(run.records("validation"))


def test_labels_of_ones_own(run: Run) -> None:
    records = run.records("validation")
    by_document = own_groups("kind", {"validation": ["x", None, "y", "x", float("nan"), "10"]})
    assert by_document.labels == ("10", "x", "y")
    assert of_documents(by_document, records) == [1, -1, 2, 1, -1, 0]
    ordered = own_groups("kind", {"validation": ["x", "y"] * 3}, order=["y", "empty", "x"], missing="none")
    assert ordered.labels == ("y", "empty", "x", "none") and of_documents(ordered, records) == [2, 0] * 3
    sums = document_sums(records, buckets=ordered)
    assert sums.counts.sum(axis=0)[1] == sums.counts.sum(axis=0)[3] == 0
    # One label a token: numbers, numpy's text, booleans.
    parity = np.arange(records.token_id.size).reshape(records.token_id.shape) % 2
    by_token = own_groups("parity", {"validation": parity})
    real = records.document_id >= 0
    assert by_token.labels == ("0", "1")
    assert by_token.index(records).tolist() == np.where(real, parity, -1).tolist()
    words = own_groups("parity", {"validation": np.where(parity == 1, "odd", "even")})
    assert words.index(records).tolist() == np.where(real, parity, -1).tolist()
    assert own_groups("parity", {"validation": parity == 1}).labels == ("false", "true")
    assert own_groups("floats", {"validation": np.where(parity == 1, np.nan, 3.0)}).labels == ("3",)
    assert by_token.key == own_groups("parity", {"validation": parity}).key
    assert by_token.key != own_groups("parity", {"validation": 1 - parity}).key


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0.5, 1.0], {}, "the label 0.5 is neither text nor a whole number"),
        ([["a", "b"], ["c"]], {}, r"the label \['a', 'b'\] is neither"),
        (np.zeros((2, 2, 2)), {}, r"the labels of 'train' have shape \(2, 2, 2\)"),
        ([None, float("nan")], {}, "nothing has a label of 'mine'"),
        (["a", "b"], {"order": ["a"]}, "order lacks b"),
        (range(1001), {}, "'mine' has 1001 labels, and at most 1000"),
    ],
)
def test_bad_labels(labels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        own_groups("mine", {"train": labels}, **options)


def test_labels_that_do_not_fit_the_records(run: Run) -> None:
    groups = own_groups("mine", {"train": ["a", "b"]})
    with pytest.raises(InputError, match=r"labels of shape \(2,\) for 'train', which has 12 documents and"):
        groups.index(run.records("train"))
    with pytest.raises(InputError, match="have no labels for 'validation': they have train"):
        groups.index(run.records("validation"))


def test_groups_and_buckets_in_pairs(run: Run) -> None:
    records = run.records("validation")
    halves, topics = entropy_buckets(run.records("train")), groups_by_field(run, "topic")
    pairs = TwoWayBuckets(topics, halves)
    assert pairs.labels == ("a x low", "a x high", "b x low", "b x high")
    first, second = topics.index(records), halves.index(records)
    expected = np.where((first < 0) | (second < 0), -1, 2 * first + second)
    assert pairs.index(records).tolist() == expected.tolist()
    both, alone = document_sums(records, buckets=pairs), document_sums(records, buckets=topics)
    np.testing.assert_allclose(pairs.grid(both.sums).sum(axis=-1), alone.sums, rtol=1e-12)
    many = own_groups("many", {"train": range(1000)})
    with pytest.raises(InputError, match="1000 by 1000 buckets are too many pairs"):
        TwoWayBuckets(many, many)
