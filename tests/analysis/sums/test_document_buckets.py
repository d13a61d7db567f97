from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynamics.analysis.sums.document_buckets import group_by_document_bucket, rows_of_documents

Array = np.ndarray[Any, Any]


def by_hand(document: Array, chosen: Array, bucket: Array, values: Array, n: int) -> tuple[list[int], Array, Array]:
    """Sums and counts, token by token."""
    documents = sorted(set(document[chosen].tolist()))
    sums, counts = np.zeros((len(documents), n)), np.zeros((len(documents), n))
    for at in zip(*np.nonzero(chosen), strict=True):
        row = documents.index(document[at])
        sums[row, bucket[at]] += values[at]
        counts[row, bucket[at]] += 1
    return documents, sums, counts


@pytest.mark.parametrize("block", [1, 7, 65_536])
def test_sums_of_random_tokens(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("dynamics.analysis.sums.document_buckets._BLOCK", block)
    rng = np.random.default_rng(0)
    # Documents in pieces all over the place, some never chosen; eighths, so that every order adds up alike.
    document = rng.choice([3, 4, 9, 250], size=(12, 16)).astype(np.int32)
    chosen = (rng.random(document.shape) < 0.7) & (document != 4)
    bucket = rng.integers(0, 5, document.shape).astype(np.int16)
    values = (rng.integers(0, 64, document.shape) / 8).astype(np.float16)
    grouped = group_by_document_bucket(document, chosen, bucket, 5)
    documents, sums, counts = by_hand(document, chosen, bucket, values, 5)
    assert grouped.documents.tolist() == documents == [3, 9, 250]
    np.testing.assert_array_equal(grouped.sums(values), sums)
    np.testing.assert_array_equal(grouped.counts(), counts)


def test_tokens_keep_their_order_within_a_document_bucket() -> None:
    grouped = group_by_document_bucket(
        np.array([[1, 0, 1], [0, 1, 1]]), np.ones((2, 3), dtype=bool), np.array([[1, 0, 0], [0, 1, 1]]), 2
    )
    # Document 0, bucket 0: tokens 1 and 3; document 1: token 2, then 0, 4, 5. Document 0 has no bucket 1.
    assert grouped.order.tolist() == [1, 3, 2, 0, 4, 5]
    assert grouped.start.tolist() == [0, 2, 3, 6]
    assert grouped.group.tolist() == [0, 2, 3]


def test_half_precision_is_added_in_double() -> None:
    n = 200_000
    grouped = group_by_document_bucket(np.zeros((1, n), dtype=np.int32), np.ones((1, n), dtype=bool))
    assert grouped.sums(np.ones((1, n), dtype=np.float16)).tolist() == [[200_000.0]]
    assert grouped.counts().tolist() == [[200_000.0]]


def test_nan_stays_in_its_document_bucket_and_unchosen_nan_is_not_seen() -> None:
    chosen = np.array([[True, True, False, True]])
    grouped = group_by_document_bucket(np.array([[0, 0, 0, 1]]), chosen, np.array([[0, 1, 0, 1]]), 2)
    values = np.array([[np.nan, 2.0, np.nan, 3.0]])
    np.testing.assert_array_equal(grouped.sums(values), [[np.nan, 2.0], [0.0, 3.0]])


def test_rows_of_documents() -> None:
    documents, row = rows_of_documents(np.array([7, 2, 7, 30]))
    assert documents.tolist() == [2, 7, 30]
    assert row.tolist() == [1, 0, 1, 2]
