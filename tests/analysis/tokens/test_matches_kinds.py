from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.analysis.estimands.value_curves import value_curves
from dynamics.analysis.tokens.matches import KINDS, groups_by_kind, kind_of
from dynamics.analysis.tokens.told_groups import groups_key, remade_groups, told_groups
from dynamics.records.reader import open_run


@pytest.mark.parametrize(
    ("before", "text", "after", "kind"),
    [
        (" a", " word", " next", "word"),
        ("", "Word", ".", "word"),
        ("re", "turns", " x", "part of a word"),
        (" x", " re", "turns", "part of a word"),
        (" x", " re", "1", "word"),
        ("é", "tude", "", "part of a word"),
        ("(", "12", ")", "number"),
        ("(", " 1.5", ")", "mixed"),
        ("a", "_", "b", "mixed"),
        ("a", "->", "b", "punctuation"),
        ("a", " \n", "b", "white space"),
        ("a", "", "b", "end of text"),
    ],
)
def test_the_kind_of_a_token(before: str, text: str, after: str, kind: str) -> None:
    assert kind_of(before, text, after) == kind


def test_every_token_is_in_the_group_of_its_kind(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=40, epochs=[0, 1]))
    records = run.records("validation")
    index = groups_by_kind().index(records)
    assert index.shape == records.token_id.shape
    assert (index[records.document_id < 0] == -1).all()
    for row in range(len(index)):
        texts = ["", *[records.token_text(row, at) for at in range(index.shape[1])], ""]
        for at in np.flatnonzero(records.document_id[row] >= 0):
            assert KINDS[index[row, at]] == kind_of(texts[at], texts[at + 1], texts[at + 2])


def test_kinds_are_buckets_and_can_be_told(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=40, epochs=[0, 1]))
    groups = groups_by_kind()
    (curve,) = value_curves(run, buckets=groups)
    assert curve.labels == KINDS
    records = run.records("validation")
    filled = 0
    for k in range(len(KINDS)):
        here = (groups.index(records) == k) & records.predicted
        if here.any():
            filled += 1
            expected = records.loss(1)[here].astype(np.float64).mean()
            assert curve.values.estimate[1, k] == pytest.approx(expected, rel=1e-6)
    assert filled >= 3
    told = told_groups(groups)
    assert told is not None and groups_key(told) == groups.key
    assert remade_groups(None, told["key"]).key == groups.key  # type: ignore[arg-type]
