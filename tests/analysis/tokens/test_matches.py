from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.analysis.sums.document_sums import document_sums
from dynamics.analysis.tokens.buckets import TwoWayBuckets, entropy_buckets
from dynamics.analysis.tokens.matches import TASKS, groups_by_match, task_tokens
from dynamics.errors import InputError
from dynamics.records.reader import Run, open_run

# A made-up document in the form of GSM8K.
SUM = "Question: Two times 1,200?\nAnswer: 2*1200 = <<2*1200=2400>>2400, so = 5\n#### 2,400"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(make_run(tmp_path_factory.mktemp("matches") / "run", n_documents=12, epochs=1))


def cut(*documents: tuple[bytes, list[int]]) -> Any:
    """Records of one row: every document cut at the given bytes, an end-of-text token, and padding at the end."""
    rows = []
    for d, (raw, cuts) in enumerate(documents):
        edges = [0, *cuts, len(raw)]
        rows += [(d, *edge) for edge in zip(edges[:-1], edges[1:], strict=True)] + [(d, len(raw), len(raw))]
    columns = np.array([*rows, (-1, 0, 0)], dtype=np.int32).T[:, None, :]
    return cast(
        Any,
        SimpleNamespace(
            run=SimpleNamespace(path="here"),
            split="validation",
            document_id=columns[0],
            byte_start=columns[1],
            byte_end=columns[2],
            n_documents=len(documents),
            document_bytes=lambda d: documents[d][0],
            document_hash=np.array([list(hashlib.sha256(raw).digest()) for raw, _ in documents], dtype=np.uint8),
        ),
    )


def letters(text: str) -> Any:
    return cut((text.encode(), list(range(1, len(text.encode())))))


def matched(groups: Any, records: Any, raw: bytes) -> str:
    """The text of the tokens in the first group, where every byte is a token."""
    index = groups.index(records)[0]
    return bytes(raw[at] for at in range(len(raw)) if index[at] == 0).decode("utf-8", "surrogateescape")


def test_the_results_of_gsm8k() -> None:
    records = letters(SUM)
    tokens = task_tokens("gsm8k")
    assert (tokens.name, tokens.labels, tokens.moving, tokens.chosen_by_outcome) == ("gsm8k", ("result",), False, False)
    assert matched(tokens, records, SUM.encode()) == "2400" + "2,400"
    # Where in the text: the result of the calculation, not its repetition nor the question's numbers.
    index = tokens.index(records)[0]
    assert np.flatnonzero(index == 0).tolist() == [
        *range(SUM.index("=2400>>") + 1, SUM.index(">>2400")),
        *range(SUM.index("#### ") + 5, len(SUM)),
    ]
    # The end-of-text token and padding are in no group.
    assert index[-2:].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<<1+2=3=3>>", "3"),  # the last equation's
        ("<<=>> #### ", ""),  # nothing between
        ("####5\nand 6", "5"),  # up to the end of the line
        ("####\n5", ""),
        ("<<1=2 and <<3=4>>", "4"),
        ("#### -1.5 eggs", "-1.5 eggs"),
    ],
)
def test_forms_of_gsm8k(text: str, expected: str) -> None:
    other = "#### 7"
    groups, records = task_tokens("gsm8k"), cut((text.encode(), list(range(1, len(text)))), (other.encode(), [5]))
    index = groups.index(records)[0]
    assert "".join(text[at] for at in range(len(text)) if index[at] == 0) == expected
    assert index[len(text) :].tolist() == [-1, -1, 0, -1, -1]


def test_a_token_that_is_partly_in_a_match_is_in_it() -> None:
    # "#### 72": tokens "####", " 7", "2" of the first, "#", "### 72!" of the second, "#### ", "72" of the third.
    records = cut((b"#### 72", [4, 6]), (b"#### 72!", [1]), (b"#### 72", [5]))
    pattern = {"result": r"#### (\d+)"}
    assert groups_by_match(pattern).index(records)[0].tolist() == [-1, 0, 0, -1, -1, 0, -1, -1, 0, -1, -1]
    # By the bytes, not the characters: "é" is two, and a token that has but its second half shares it.
    text = "né 5é"
    halves = cut((text.encode(), [2, 3, 4, 5, 6]))
    assert groups_by_match("é").index(halves)[0].tolist() == [0, 0, -1, -1, 0, 0, -1, -1]
    assert groups_by_match("5").index(halves)[0].tolist() == [-1, -1, -1, 0, -1, -1, -1, -1]
    # A byte that is no character, as where a text was cut, moves nothing.
    broken = b"\xc3 5\xff5"
    assert matched(groups_by_match("5"), cut((broken, [1, 2, 3, 4])), broken) == "55"


def test_labels_in_their_order_and_the_others() -> None:
    text = "ab #1 bc"
    groups = groups_by_match({"number": r"#(\d)", "b": "b", "hash": "#."}, other="rest", name="kind")
    assert groups.labels == ("number", "b", "hash", "rest") and groups.n == 4 and groups.by == "kind"
    # "1" matches the first and the third, and is in the first; the end of the document is in none, others or not.
    assert groups.index(letters(text))[0].tolist() == [3, 1, 3, 2, 0, 3, 1, 3, -1, -1]
    # Nested groups, and matches of nothing.
    assert matched(groups_by_match("(a(b))|x*"), letters(text), text.encode()) == "ab"
    assert matched(groups_by_match("B", flags=re.IGNORECASE), letters(text), text.encode()) == "bb"
    keys = {groups.key, groups_by_match("b").key, groups_by_match("b", flags=re.IGNORECASE).key, task_tokens("b").key}
    assert len(keys) == 4 and groups_by_match("b").key == groups_by_match("b").key
    assert task_tokens("b").key == task_tokens("b").key


def test_against_bytes_one_by_one(run: Run) -> None:
    records = run.records("train")
    pattern = r"[uü]\w*|donn"
    expected = np.full(records.token_id.shape, -1)
    for row, at in np.argwhere(records.byte_end > records.byte_start):
        document = int(records.document_id[row, at])
        text = records.document_text(document)
        within = {
            byte
            for match in re.finditer(pattern, text)
            for byte in range(len(text[: match.start()].encode()), len(text[: match.end()].encode()))
        }
        if within.intersection(range(records.byte_start[row, at], records.byte_end[row, at])):
            expected[row, at] = 0
    assert 0.1 < (expected == 0).mean() < 0.8
    groups = groups_by_match(pattern)
    assert groups.index(records).tolist() == expected.tolist() and groups.index(records).dtype == np.int16
    sums = document_sums(records, buckets=groups, value="correct")
    of = (expected == 0) & records.predicted
    assert sums.counts.sum() == of.sum() and sums.sums[1].sum() == records.correct(1)[of].sum()
    assert sums.documents.tolist() == sorted(set(records.document_id[of].tolist()))
    # Where buckets are, groups are.
    pairs = TwoWayBuckets(groups, entropy_buckets(records, 2))
    assert document_sums(records, buckets=pairs).counts.sum() == of.sum()


def test_recorded_sequences_alone(tmp_path: Path, run: Run) -> None:
    few = open_run(make_run(tmp_path / "few", n_documents=12, epochs=1, recorded={"train": [3, 5]}))
    whole = groups_by_match("a").index(run.records("train"))
    assert groups_by_match("a").index(few.records("train")).tolist() == whole[[3, 5]].tolist()


def test_texts_are_searched_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, records = groups_by_match("a"), run.records("train")
    before = groups.index(records)
    monkeypatch.setattr("dynamics.analysis.tokens.matches._matches", lambda *_: pytest.fail("searched again"))
    assert groups.index(run.records("train")).tolist() == before.tolist()


def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    records = run.records("validation")
    with pytest.raises(InputError, match=r"no document of the validation split of .*run matches 'gsm8'; .*'gsm8k'\?"):
        task_tokens("gsm8").index(records)
    with pytest.raises(InputError, match="give a pattern that its text has$"):
        task_tokens("gsm8k").index(records)
    assert (groups_by_match("#{4}", other="rest").index(records)[records.predicted] >= 0).any()
    with pytest.raises(InputError, match="a task is named .gsm8k. or given by the pattern"):
        task_tokens("")
    with pytest.raises(InputError, match=r"the pattern '\(' of 'result' is no regular expression"):
        task_tokens("(")
    with pytest.raises(InputError, match="groups_by_match needs a pattern"):
        groups_by_match({})
    with pytest.raises(InputError, match="the label 'a' is that of a pattern and of all others"):
        groups_by_match("a", other="a")
    assert set(TASKS) == {"gsm8k"}
