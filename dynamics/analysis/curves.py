"""From per-token records to curves over epochs, by way of sums per document.

Everything that is drawn or tested is a ratio of sums over documents: the sum of the tokens' values
over the number of tokens. The sums per document are small, they are read from the records one epoch
at a time, and they are all that resampling documents needs (`dynamics.analysis.bootstrap`).

Shape suffixes: E epochs, D documents, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.cells import make_cells, rows_of_documents
from dynamics.errors import InputError, nearest

if TYPE_CHECKING:
    from dynamics.analysis.buckets import Bucketing

Value = Literal["loss", "entropy", "correct", "certainty"]
Floats = NDArray[np.float64]

# Epochs summed together, since that is faster (`Cells.sums_of`); as few as make it so.
_TOGETHER = 4


class TokenRecords(Protocol):
    """What the analysis reads of a split's records: arrays of shape (sequence, position)."""

    @property
    def run(self) -> Any: ...
    @property
    def token_id(self) -> NDArray[Any]: ...
    @property
    def document_id(self) -> NDArray[Any]: ...
    @property
    def predicted(self) -> NDArray[np.bool_]: ...
    @property
    def reference_loss(self) -> NDArray[Any]: ...
    @property
    def reference_entropy(self) -> NDArray[Any]: ...
    def stored(self, value: str, epoch: int, /) -> NDArray[Any]: ...
    def correct(self, epoch: int, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class DocumentSums:
    """Sums of a per-token value over the tokens of each document and bucket.

    Attributes
    ----------
    sums : ndarray of float64, shape (E, D, K)
        Sum of the value over the predicted tokens of a document in a bucket; nats, or tokens for
        ``correct``.
    counts : ndarray of float64, shape (D, K), or (E, D, K) for moving buckets
        Number of those tokens. The same in every epoch, since the tokens are, unless they move.
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
    buckets: Bucketing | None = None,
    value: Value = "loss",
) -> DocumentSums:
    """Sum a recorded value over each document's predicted tokens, epoch by epoch.

    A few epochs are looked at at a time, in the type in which they are stored. Only predicted tokens count, so padding,
    document starts and position 0 are in neither the sums nor the counts. A predicted token whose value is NaN (a run
    that diverged) makes its document's sum, and so that epoch's mean, NaN: leaving it out would
    flatter the run.

    Parameters
    ----------
    records : Records
        One split of a run.
    epochs : sequence of int, optional
        Epochs to read. Default: all complete epochs of the run.
    buckets : Buckets, TwoWayBuckets or MovingBuckets, optional
        Without, all tokens form one bucket named ``all``.
    value : {"loss", "entropy", "correct", "certainty"}
        ``certainty`` is exp(-entropy), the least probability that the most probable token can have
        (`dynamics.analysis.calibration`).

    Returns
    -------
    DocumentSums

    Raises
    ------
    InputError
        For an unknown value, no epoch, or records without a predicted token.
    """
    return sums_by_value(records, values=(value,), epochs=epochs, buckets=buckets)[value]


def sums_by_value(
    records: TokenRecords,
    *,
    values: Sequence[Value] = ("loss", "entropy"),
    epochs: Sequence[int] | None = None,
    buckets: Bucketing | None = None,
) -> dict[Value, DocumentSums]:
    """Return the sums of several values at once: the tokens are put in order once. As `document_sums`."""
    for value in values:
        if value not in get_args(Value):
            hint = nearest(value, get_args(Value))
            raise InputError(f"unknown value {value!r}; use loss, entropy, correct or certainty{hint}")
    epochs = records.run.epochs if epochs is None else epochs
    if not len(epochs):
        raise InputError("no complete epoch is recorded; there is nothing to sum")
    chosen = np.asarray(records.predicted, dtype=bool)
    if buckets is not None and buckets.moving:
        return _moving_sums(records, values, epochs, buckets, chosen)
    labels: tuple[str, ...] = ("all",)
    index = None
    if buckets is not None:
        labels = buckets.labels
        index = buckets.index(records)
        chosen = chosen & (index >= 0)
    _require_tokens(chosen)
    cells = make_cells(np.asarray(records.document_id), chosen, index, len(labels))
    sums = {value: np.empty((len(epochs), len(cells.documents), len(labels))) for value in values}
    for first in range(0, len(epochs), _TOGETHER):
        part = [(i, value) for i in range(first, min(first + _TOGETHER, len(epochs))) for value in values]
        added = cells.sums_of([read_value(records, value, int(epochs[i])) for i, value in part])
        for (i, value), by_cell in zip(part, added, strict=True):
            sums[value][i] = by_cell
    counts, at = cells.counts(), np.asarray(epochs, dtype=np.int64)
    return {value: DocumentSums(sums[value], counts, at, labels, cells.documents) for value in values}


def read_value(records: TokenRecords, value: Value, epoch: int) -> NDArray[Any]:
    """Return a value of every token in the type in which it is cheapest to read, shape (R, B)."""
    if value == "correct":
        return np.asarray(records.correct(epoch))
    if value == "certainty":
        return np.exp(-np.asarray(records.stored("entropy", epoch)).astype(np.float32))
    return np.asarray(records.stored(value, epoch))


def _moving_sums(
    records: TokenRecords,
    values: Sequence[Value],
    epochs: Sequence[int],
    buckets: Bucketing,
    chosen: NDArray[np.bool_],
) -> dict[Value, DocumentSums]:
    """Sum where every epoch has cells of its own: sorting would not pay, so bincount does it."""
    _require_tokens(chosen)
    where = np.flatnonzero(chosen)
    documents, row = rows_of_documents(np.asarray(records.document_id).reshape(-1)[where])
    n_buckets = len(buckets.labels)
    shape = (len(documents), n_buckets)
    first = row.astype(np.int64) * n_buckets
    sums = {value: np.empty((len(epochs), *shape)) for value in values}
    counts = np.empty((len(epochs), *shape))
    for i, epoch in enumerate(epochs):
        cell = first + buckets.index(records, int(epoch)).reshape(-1).take(where)
        counts[i] = np.bincount(cell, minlength=len(documents) * n_buckets).reshape(shape)
        for value in values:
            weights = read_value(records, value, int(epoch)).reshape(-1).take(where).astype(np.float64)
            sums[value][i] = np.bincount(cell, weights, minlength=len(documents) * n_buckets).reshape(shape)
    at = np.asarray(epochs, dtype=np.int64)
    return {value: DocumentSums(sums[value], counts, at, buckets.labels, documents) for value in values}


def _require_tokens(chosen: NDArray[np.bool_]) -> None:
    if not chosen.any():
        raise InputError("the records hold no predicted token; there is nothing to sum")


def coarsen(ds: DocumentSums, groups: Sequence[int], labels: Sequence[str]) -> DocumentSums:
    """Add neighbouring buckets together: deciles into halves, without reading the records again.

    Parameters
    ----------
    ds : DocumentSums
    groups : sequence of int, length K
        For each bucket the number of the one it goes to, from 0: ``[0] * 5 + [1] * 5`` for the halves of deciles, whose
        middle edge is the median.
    labels : sequence of str
        Names of the new buckets.

    Raises
    ------
    InputError
        If groups or labels do not fit.
    """
    into = np.asarray(groups)
    if into.shape != (len(ds.labels),) or set(into.tolist()) != set(range(len(labels))):
        raise InputError(
            f"groups {into.tolist()} do not put {len(ds.labels)} buckets into {len(labels)}; give one number for each "
            f"bucket, from 0 to {len(labels) - 1}"
        )

    def add(values: Floats) -> Floats:
        # Bucket by bucket: numpy's sum over a last axis of a few numbers is slow.
        total = np.zeros((*values.shape[:-1], len(labels)))
        for k, group in enumerate(into):
            total[..., group] += values[..., k]
        return total

    return replace(ds, sums=add(ds.sums), counts=add(ds.counts), labels=tuple(labels))


def average_sums(parts: Sequence[DocumentSums]) -> DocumentSums:
    """Average the sums of runs that share their tokens: the seeds of one arm.

    The seeds of a study see the same tokens, so averaging the sums per document before documents
    are resampled keeps the documents, and not the seeds, as the units of the interval. In moving buckets the seeds
    have other tokens, and the counts are averaged too: the mean is that of all seeds' tokens together.

    Raises
    ------
    InputError
        If documents, token counts, buckets or epochs differ.
    """
    first = parts[0]
    require_same_cells(parts)
    mean = np.mean([part.sums for part in parts], axis=0)
    counts = first.counts if first.counts.ndim == 2 else np.mean([part.counts for part in parts], axis=0)
    return DocumentSums(mean, counts, first.epochs, first.labels, first.documents)


def require_same_cells(parts: Sequence[DocumentSums]) -> None:
    """Raise InputError unless all have the same documents, token counts (but in moving buckets), buckets and epochs."""
    first = parts[0]
    for part in parts[1:]:
        same = (
            first.labels == part.labels
            and np.array_equal(first.epochs, part.epochs)
            and np.array_equal(first.documents, part.documents)
            and first.counts.ndim == part.counts.ndim
            and (first.counts.ndim == 3 or np.array_equal(first.counts, part.counts))
        )
        if not same:
            raise InputError(
                "runs with different tokens, buckets or epochs cannot be averaged; average the seeds of one study"
            )


def mean_curve(ds: DocumentSums) -> Floats:
    """Return the mean value per token, a ratio of sums, shape (E, K); NaN for an empty bucket."""
    return ratio(ds.sums.sum(axis=1), ds.counts.sum(axis=-2))


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


def epochs_to_reach(curve: Floats, epochs: NDArray[np.int64] | Sequence[int], level: float, axis: int = 0) -> Floats:
    """Return after how many epochs a curve first comes down to `level`, along `axis`.

    Between two recorded epochs the curve is taken to be straight, so that the answer is not a whole number. 0 where
    the first recorded value is at the level already (if that is epoch 0), infinity where no recorded value reaches it,
    NaN where any value is NaN.

    Parameters
    ----------
    curve : ndarray
        Values over epochs, along `axis`.
    epochs : sequence of int
        The epochs of the values, rising.
    level : float
        In the unit of the curve.
    """
    values = np.moveaxis(np.asarray(curve, dtype=np.float64), axis, 0)
    at = np.asarray(epochs, dtype=np.float64)
    assert len(values) == len(at), (values.shape, at.shape)
    reached = values <= level
    first = np.argmax(reached, axis=0)
    before = np.maximum(first - 1, 0)
    high = np.take_along_axis(values, before[None], axis=0)[0]
    low = np.take_along_axis(values, first[None], axis=0)[0]
    # Where the first value is there already, `before` is `first` and nothing is left to interpolate.
    fall = high - low
    share = np.divide(high - level, fall, out=np.zeros_like(fall), where=(first > 0) & (fall > 0))
    result = np.where(reached.any(axis=0), at[before] + share * (at[first] - at[before]), np.inf)
    return np.where(np.isnan(values).any(axis=0), np.nan, result)


def gap(train: Floats, validation: Floats) -> Floats:
    """Return the generalisation gap, validation minus training, elementwise."""
    return np.asarray(validation) - np.asarray(train)
