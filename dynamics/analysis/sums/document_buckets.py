"""Sums of per-token values over document buckets, the tokens of one document in one bucket: the inner loop of it all.

How it is done was measured, in nanoseconds a value on one thread (AMD EPYC of the 5th generation, numpy 2.4, 2 million
float16 losses, documents of 500 tokens in 10 buckets): casting to float32, choosing the predicted tokens and
``np.bincount`` takes 6 to 9; bincount in blocks that fit the cache 2.1; a sparse matrix of document buckets by tokens
0.7, after 0.6 for the cast and with one vector at a time only (2.3 with eight). What is here takes 1.4: the tokens are
put in the order of their document buckets once; then a block of them is gathered in that order while it is still
float16 (0.3, since such tokens lie near each other on disk too), cast to float64 (0.6, less than to float32), and every
run of equal ones added up by ``np.add.reduceat`` (0.45). Several epochs and values of a block are done before the next
block, so that its order, four times as large as its values, is read from memory once for all of them: 1.65 one by one,
1.55 by twos, 1.4 by eights.

A table of all 65,536 float16 values is no faster than the cast. Shifting the bits of float16 into place for float32 is
(by 0.4), but it is wrong for NaN and makes subnormal numbers of the small losses of memorised tokens, on which many
processors are slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.results import Shown

_BLOCK = 131_072  # tokens: 256 kB as float16 and 1 MB as float64, about a core's second-level cache


@dataclass(frozen=True, slots=True, repr=False)
class DocumentBuckets(Shown):
    """Tokens in the order of document and then bucket; document buckets without a token are left out.

    Attributes
    ----------
    order : ndarray of intp, shape (N,)
        Flat indices of the tokens.
    start : ndarray of intp, shape (G + 1,)
        Where the run of each document bucket begins in `order`, and N.
    group : ndarray of int64, shape (G,)
        Document row times the number of buckets, plus bucket; rising.
    documents : ndarray of int64, shape (D,)
        Ids of the documents, rising.
    n_buckets : int
    """

    order: NDArray[np.intp]
    start: NDArray[np.intp]
    group: NDArray[np.int64]
    documents: NDArray[np.int64]
    n_buckets: int

    def counts(self) -> Floats:
        """Return the number of tokens of each document and bucket, shape (D, K)."""
        return self._dense(np.diff(self.start).astype(np.float64))

    def sums(self, values: NDArray[Any]) -> Floats:
        """Return the sums of `values`, one a token in any shape, over each document and bucket, shape (D, K).

        Added in float64 whatever the type: float16 sums would stop growing at 2,048. NaN makes its own document bucket
        NaN.
        """
        return self.sums_of([values])[0]

    def sums_of(self, arrays: Sequence[NDArray[Any]]) -> list[Floats]:
        """Return what `sums` does, of several arrays in less time: eight are enough."""
        flat = [np.asarray(values).reshape(-1) for values in arrays]
        sums = np.empty((len(flat), len(self.group)))
        cuts = np.unique(np.searchsorted(self.start, np.arange(0, len(self.order), _BLOCK)))
        for first, last in zip(cuts, [*cuts[1:], len(self.group)], strict=True):
            begin = self.start[first]
            order, start = self.order[begin : self.start[last]], self.start[first:last] - begin
            for values, into in zip(flat, sums, strict=True):
                np.add.reduceat(values.take(order).astype(np.float64), start, out=into[first:last])
        return [self._dense(by_group) for by_group in sums]

    def _dense(self, by_group: Floats) -> Floats:
        dense = np.zeros(len(self.documents) * self.n_buckets)
        dense[self.group] = by_group
        return dense.reshape(len(self.documents), self.n_buckets)


def rows_of_documents(document_id: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the ids that occur, rising, and the row among them of every token.

    As ``np.unique(..., return_inverse=True)``, without its sort (40 ns a token): ids are small whole numbers.
    """
    present = np.zeros(int(document_id.max()) + 1, dtype=bool)
    present[document_id] = True
    row: NDArray[np.int32] = (np.cumsum(present, dtype=np.int32) - 1)[document_id]
    return np.flatnonzero(present), row


def group_by_document_bucket(
    document_id: NDArray[Any], chosen: NDArray[np.bool_], bucket: NDArray[Any] | None = None, n_buckets: int = 1
) -> DocumentBuckets:
    """Put the chosen tokens in the order of their document buckets.

    Parameters
    ----------
    document_id : ndarray of int, shape (S, P)
        Not negative where chosen.
    chosen : ndarray of bool, shape (S, P)
        At least one.
    bucket : ndarray of int, shape (S, P), optional
        In [0, n_buckets) where chosen. Without, all are in bucket 0.
    n_buckets : int
    """
    where = np.flatnonzero(chosen)
    documents, row = rows_of_documents(document_id.reshape(-1)[where])
    n_groups = len(documents) * n_buckets
    group = row if n_groups < 2**31 else row.astype(np.int64)
    group *= n_buckets
    if bucket is not None:
        group += bucket.reshape(-1)[where].astype(group.dtype)
    # From coordinates to rows, scipy sorts by counting: linear in the tokens, stable, and several times faster than
    # any argsort of numpy.
    token = where.astype(np.int32) if chosen.size < 2**31 else where
    n_tokens = len(where)
    del where, row
    matrix = sparse.coo_array((np.ones(n_tokens, dtype=np.int8), (group, token)), shape=(n_groups, chosen.size)).tocsr()
    del group, token
    filled = np.flatnonzero(np.diff(matrix.indptr))
    start = np.append(matrix.indptr[filled], n_tokens).astype(np.intp)
    return DocumentBuckets(matrix.indices.astype(np.intp), start, filled, documents, n_buckets)
