"""From per-token records to curves over epochs, by way of sums per document.

Everything that is drawn or tested is a ratio of sums over documents: the sum of the tokens' values
over the number of tokens. The sums per document are small, they are read from the records one epoch
at a time, and they are all that resampling documents needs (`dynamics.analysis.bootstrap`).

Shape suffixes: E epochs, D documents, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamics.errors import InputError, nearest

if TYPE_CHECKING:
    from dynamics.analysis.buckets import Buckets

Value = Literal["loss", "entropy", "correct"]
Floats = NDArray[np.float64]


class TokenRecords(Protocol):
    """What the analysis reads of a split's records: arrays of shape (sequence, position)."""

    @property
    def run(self) -> Any: ...
    @property
    def document_id(self) -> NDArray[Any]: ...
    @property
    def predicted(self) -> NDArray[np.bool_]: ...
    @property
    def reference_entropy(self) -> NDArray[Any]: ...
    def loss(self, epoch: int, /) -> NDArray[Any]: ...
    def entropy(self, epoch: int, /) -> NDArray[Any]: ...
    def correct(self, epoch: int, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class DocumentSums:
    """Sums of a per-token value over the tokens of each document and bucket.

    Attributes
    ----------
    sums : ndarray of float64, shape (E, D, K)
        Sum of the value over the predicted tokens of a document in a bucket; nats, or tokens for
        ``correct``.
    counts : ndarray of float64, shape (D, K)
        Number of those tokens. The same in every epoch, since the tokens are.
    epochs : ndarray of int64, shape (E,)
        Epochs, ascending; 0 is the model before training.
    labels : tuple of str, length K
        Names of the buckets.
    documents : ndarray of int64, shape (D,)
        Document ids. Documents without a recorded predicted token are left out.
    """

    sums: Floats
    counts: Floats
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    documents: NDArray[np.int64]

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.documents)


def document_sums(
    records: TokenRecords,
    *,
    epochs: Sequence[int] | None = None,
    buckets: Buckets | None = None,
    value: Value = "loss",
) -> DocumentSums:
    """Sum a recorded value over each document's predicted tokens, epoch by epoch.

    One epoch is in memory at a time. Only predicted tokens count, so padding, document starts and
    position 0 are in neither the sums nor the counts. A predicted token whose value is NaN (a run
    that diverged) makes its document's sum, and so that epoch's mean, NaN: leaving it out would
    flatter the run.

    Parameters
    ----------
    records : Records
        One split of a run.
    epochs : sequence of int, optional
        Epochs to read. Default: all complete epochs of the run.
    buckets : Buckets, optional
        Buckets by reference entropy. Without, all tokens form one bucket named ``all``.
    value : {"loss", "entropy", "correct"}

    Returns
    -------
    DocumentSums

    Raises
    ------
    InputError
        For an unknown value, no epoch, or records without a predicted token.
    """
    if value not in ("loss", "entropy", "correct"):
        hint = nearest(value, ("loss", "entropy", "correct"))
        raise InputError(f"unknown value {value!r}; use loss, entropy or correct{hint}")
    epochs = records.run.epochs if epochs is None else epochs
    if not len(epochs):
        raise InputError("no complete epoch is recorded; there is nothing to sum")
    chosen = np.asarray(records.predicted, dtype=bool)
    labels: tuple[str, ...] = ("all",)
    bucket: NDArray[np.int64] | int = 0
    if buckets is not None:
        labels = buckets.labels
        assigned = buckets.assign(records.reference_entropy)
        chosen = chosen & (assigned >= 0)
        bucket = assigned[chosen].astype(np.int64)
    if not chosen.any():
        raise InputError("the records hold no predicted token; there is nothing to sum")
    documents, row = np.unique(np.asarray(records.document_id)[chosen], return_inverse=True)
    n_cells = len(documents) * len(labels)
    cell = row.reshape(-1).astype(np.int64) * len(labels) + bucket
    shape = (len(documents), len(labels))
    read = getattr(records, value)
    sums = np.empty((len(epochs), *shape))
    for i, epoch in enumerate(epochs):
        # bincount adds in float64 whatever the records' type: float16 sums would stop growing at
        # 2,048.
        weights = np.asarray(read(int(epoch)))[chosen].astype(np.float64)
        sums[i] = np.bincount(cell, weights=weights, minlength=n_cells).reshape(shape)
    counts = np.bincount(cell, minlength=n_cells).reshape(shape).astype(np.float64)
    return DocumentSums(sums, counts, np.asarray(epochs, dtype=np.int64), labels, documents.astype(np.int64))


def average_sums(parts: Sequence[DocumentSums]) -> DocumentSums:
    """Average the sums of runs that share their tokens: the seeds of one arm.

    The seeds of a study see the same tokens, so averaging the sums per document before documents
    are resampled keeps the documents, and not the seeds, as the units of the interval.

    Raises
    ------
    InputError
        If documents, token counts, buckets or epochs differ.
    """
    first = parts[0]
    for part in parts[1:]:
        same = (
            first.labels == part.labels
            and np.array_equal(first.epochs, part.epochs)
            and np.array_equal(first.documents, part.documents)
            and np.array_equal(first.counts, part.counts)
        )
        if not same:
            raise InputError(
                "runs with different tokens, buckets or epochs cannot be averaged; average the seeds of one study"
            )
    mean = np.mean([part.sums for part in parts], axis=0)
    return DocumentSums(mean, first.counts, first.epochs, first.labels, first.documents)


def mean_curve(ds: DocumentSums) -> Floats:
    """Return the mean value per token, a ratio of sums, shape (E, K); NaN for an empty bucket."""
    return ratio(ds.sums.sum(axis=1), ds.counts.sum(axis=0))


def ratio(sums: Floats, counts: Floats) -> Floats:
    """Return sums / counts, NaN where the count is 0."""
    counts = np.broadcast_to(counts, sums.shape)
    quotient: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return quotient


def rebound(curve: Floats, axis: int = 0) -> Floats:
    """Return the last value of a curve minus its lowest, along `axis`; NaN where any value is NaN.

    With a curve measured on a sample of documents this is biased upward: even on a curve that is
    flat in truth, the lowest of several noisy values lies below the last. `cross_fitted_rebound`
    does not have that bias.
    """
    curve = np.asarray(curve, dtype=np.float64)
    last: Floats = np.take(curve, -1, axis=axis)
    lowest: Floats = np.min(curve, axis=axis)
    return last - lowest


def best_epoch(curve: Floats, epochs: NDArray[np.int64] | Sequence[int]) -> int:
    """Return the epoch of the lowest value of a curve (E,); the first of equals, -1 if all NaN."""
    curve = np.asarray(curve, dtype=np.float64)
    assert curve.shape == (len(epochs),), (curve.shape, len(epochs))
    return -1 if np.isnan(curve).all() else int(np.asarray(epochs)[np.nanargmin(curve)])


def gap(train: Floats, validation: Floats) -> Floats:
    """Return the generalisation gap, validation minus training, elementwise."""
    return np.asarray(validation) - np.asarray(train)
