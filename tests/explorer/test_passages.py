"""Passages: by hand, and every recorded token once, in the order of the text."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.explorer.passages import passages, reading_order
from dynamics.records.reader import open_run


def records(*rows):
    """Rows of (document, start, end)."""
    document, start, end = np.moveaxis(np.array(rows, dtype=np.int32), -1, 0)
    return SimpleNamespace(document_id=document, byte_start=start, byte_end=end)


PADDING = (-1, 0, 0)
THREE_ROWS = records(
    [(0, 0, 3), (0, 3, 4), (0, 4, 9)],
    [(0, 9, 10), (0, 10, 10), (1, 0, 2)],  # the second is document 0's end of text
    [(1, 2, 5), (1, 5, 5), PADDING],
)


def told(found):
    return [(p.document, p.part, p.n_parts, p.tokens.tolist()) for p in found]


def test_documents_by_hand():
    assert told(passages(THREE_ROWS)) == [(0, 0, 1, [0, 1, 2, 3, 4]), (1, 0, 1, [5, 6, 7])]


def test_some_rows_are_counted_among_themselves():
    # Of document 1 the first token is left, of document 0 the last two.
    assert told(passages(THREE_ROWS, np.array([1]))) == [(0, 0, 1, [0, 1]), (1, 0, 1, [2])]
    # Rows 0 and 2: what is between them was not recorded, and lies in no passage.
    assert told(passages(THREE_ROWS, np.array([0, 2]))) == [(0, 0, 1, [0, 1, 2]), (1, 0, 1, [3, 4])]


def test_a_gap_tears_a_document():
    # 64 bytes may be white space that the tokenizer left out; 65 are a sequence that was not recorded.
    near = records([(0, 0, 5), (0, 69, 70)])
    far = records([(0, 0, 5), (0, 70, 71)])
    assert told(passages(near)) == [(0, 0, 1, [0, 1])]
    assert told(passages(far)) == [(0, 0, 2, [0]), (0, 1, 2, [1])]


def test_long_documents_come_in_parts_of_about_equal_length():
    ten = records([(7, i, i + 1) for i in range(10)], [(9, i, i + 1) for i in range(4)] + [PADDING] * 6)
    assert told(passages(ten, longest=4)) == [
        (7, 0, 3, [0, 1, 2, 3]),
        (7, 1, 3, [4, 5, 6]),
        (7, 2, 3, [7, 8, 9]),
        (9, 0, 1, [10, 11, 12, 13]),
    ]


def test_a_document_of_exactly_the_longest_is_one():
    assert told(passages(records([(0, i, i + 1) for i in range(4)]), longest=4)) == [(0, 0, 1, [0, 1, 2, 3])]


def test_nothing_but_padding():
    assert passages(records([PADDING, PADDING])) == []


@pytest.mark.parametrize("seed", range(4))
def test_every_recorded_token_once_and_in_order(seed, run_path):
    rng = np.random.default_rng(seed)
    some = {"train": np.flatnonzero(rng.random(150) < 0.6), "validation": np.arange(20)}
    run = open_run(make_run(run_path, n_documents=60, block_size=16, recorded=some, epochs=1))
    of = run.records("train")
    rows = np.flatnonzero(rng.random(len(of.sequence_id)) < 0.7)
    found = passages(of, rows, longest=20)
    document, start, end = (getattr(of, name)[rows].ravel() for name in ("document_id", "byte_start", "byte_end"))
    tokens = np.concatenate([p.tokens for p in found])
    assert sorted(tokens.tolist()) == np.flatnonzero(document >= 0).tolist()
    for p in found:
        assert set(document[p.tokens].tolist()) == {p.document}
        assert len(p.tokens) <= 20
        assert (start[p.tokens[1:]] - end[p.tokens[:-1]] <= 64).all()
        assert (np.diff(start[p.tokens]) >= 0).all()
    for one in set(document[document >= 0].tolist()):
        of_one = [p for p in found if p.document == one]
        assert [(p.part, p.n_parts) for p in of_one] == [(k, len(of_one)) for k in range(len(of_one))]
        assert (np.diff(start[np.concatenate([p.tokens for p in of_one])]) >= 0).all()


def test_reading_order_takes_turns():
    order = reading_order([np.array([0.1, 0.5, np.nan, 0.3]), np.array([1.0, 2.0])], seed=3)
    assert sorted((s, p) for s, p, _ in order) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    # Both splits give the one that rebounded most before any gives a second.
    assert [(s, why) for s, _, why in order[:4]] == [(0, "rebound"), (0, "random"), (1, "rebound"), (1, "random")]
    assert order[0][1] == 1 and order[2][1] == 1


def test_most_rebounding_come_in_their_order():
    values = np.array([0.3, np.nan, 0.9, -1.0, 0.9, 0.5])
    for seed in range(5):
        order = reading_order([values], seed=seed)
        most = [p for _, p, why in order if why == "rebound"]
        # Of equal ones the earlier; NaN last. What was drawn at random before is not there again.
        assert [p for p in [2, 4, 5, 0, 3, 1] if p in most] == most
        assert order[0] == (0, 2, "rebound")


def test_random_ones_depend_on_the_seed_alone():
    values = [np.zeros(50)]
    drawn = {tuple(reading_order(values, seed=seed)) for seed in range(4)}
    assert len(drawn) == 4
    assert reading_order(values, seed=2) == reading_order(values, seed=2)


def test_random_ones_do_not_look_at_the_rebound():
    n, hits = 100, np.zeros(100)
    for seed in range(200):
        order = reading_order([np.arange(n)[::-1]], seed=seed)
        for _, p, why in order[:20]:
            hits[p] += why == "random"
    # The ten that rebounded most are taken already; of the other ninety each is as likely: 200 * 10 / 90 at least.
    assert hits[20:].min() > 5 and hits[20:].mean() == pytest.approx(200 * 10 / 95, rel=0.1)
