"""From per-token records to sums per document, the stuff of every curve, gap and interval.

Everything that is drawn or tested is a ratio of sums over documents: the sum of the tokens' values
over the number of tokens. The sums per document are small, they are read from the records one epoch
at a time, and they are all that intervals need (`dynamics.analysis.intervals.contributions`).

Shape suffixes: E epochs, D documents, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.sums.document_buckets import group_by_document_bucket, rows_of_documents
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.sums.kept_sums import added, kept_sums
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_records import Floats, TokenRecords, kept_sums_of
from dynamics.errors import InputError, nearest

Value = Literal["loss", "entropy", "correct", "certainty"]

# Epochs summed together, since that is faster (`DocumentBuckets.sums_of`); as few as make it so.
_TOGETHER = 4


@dataclass(frozen=True, slots=True)
class DocumentSums(OverEpochs):
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
    passes : ndarray, shape (E,), or None
        Passes over the data at each epoch; None: the epochs' own numbers.
    source : str
        Where the records lie, for messages.
    """

    sums: Floats
    counts: Floats
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    documents: NDArray[np.int64]
    passes: Floats | None = None
    source: str = ""

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
    document starts and position 0 are in neither the sums nor the counts. A predicted token with a value of NaN (the
    run diverged) makes the sum of its document, and so the mean of that epoch, NaN: leaving it out would flatter the
    run. So does a value at the limit of the stored type (65,504 nats for float16): the records clip infinities there,
    and a mean of clipped values is no measurement.

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
        (`dynamics.analysis.estimands.calibration`).

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
    if (kept := kept_sums_of(records)) is not None:
        found = kept_sums(kept, values, epochs, buckets)
        return {value: _placed(records, epochs, found.sums[value], *found[1:]) for value in values}
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
    grouped = group_by_document_bucket(np.asarray(records.document_id), chosen, index, len(labels))
    sums = {value: np.empty((len(epochs), len(grouped.documents), len(labels))) for value in values}
    for first in range(0, len(epochs), _TOGETHER):
        part = [(i, value) for i in range(first, min(first + _TOGETHER, len(epochs))) for value in values]
        added = grouped.sums_of([read_value(records, value, int(epochs[i])) for i, value in part])
        for (i, value), by_group in zip(part, added, strict=True):
            sums[value][i] = by_group
    counts = grouped.counts()
    return {value: _placed(records, epochs, sums[value], counts, labels, grouped.documents) for value in values}


def read_value(records: TokenRecords, value: Value, epoch: int) -> NDArray[Any]:
    """Return a value of every token in the type in which it is cheapest to read, shape (R, B)."""
    if value == "correct":
        return np.asarray(records.correct(epoch))
    if value == "certainty":
        return np.exp(-np.asarray(records.stored("entropy", epoch)).astype(np.float32))
    return _unclipped(np.asarray(records.stored(value, epoch)))


def _unclipped(stored: NDArray[Any]) -> NDArray[Any]:
    """Return stored values with NaN for those that were clipped at the limit of their type, infinities among them."""
    # As integers: comparing float16 values is slow.
    bits = np.dtype(f"i{stored.dtype.itemsize}")
    clipped = stored.view(bits) == np.asarray(np.finfo(stored.dtype).max).view(bits)
    return np.where(clipped, stored.dtype.type(np.nan), stored) if clipped.any() else stored


def _moving_sums(
    records: TokenRecords,
    values: Sequence[Value],
    epochs: Sequence[int],
    buckets: Bucketing,
    chosen: NDArray[np.bool_],
) -> dict[Value, DocumentSums]:
    """Sum where every epoch has document buckets of its own: sorting would not pay, so bincount does it."""
    _require_tokens(chosen)
    where = np.flatnonzero(chosen)
    documents, row = rows_of_documents(np.asarray(records.document_id).reshape(-1)[where])
    n_buckets = len(buckets.labels)
    shape = (len(documents), n_buckets)
    first = row.astype(np.int64) * n_buckets
    sums = {value: np.empty((len(epochs), *shape)) for value in values}
    counts = np.empty((len(epochs), *shape))
    for i, epoch in enumerate(epochs):
        group = first + buckets.index(records, int(epoch)).reshape(-1).take(where)
        counts[i] = np.bincount(group, minlength=len(documents) * n_buckets).reshape(shape)
        for value in values:
            weights = read_value(records, value, int(epoch)).reshape(-1).take(where).astype(np.float64)
            sums[value][i] = np.bincount(group, weights, minlength=len(documents) * n_buckets).reshape(shape)
    return {value: _placed(records, epochs, sums[value], counts, buckets.labels, documents) for value in values}


def _placed(
    records: TokenRecords,
    epochs: Sequence[int],
    sums: Floats,
    counts: Floats,
    labels: tuple[str, ...],
    documents: NDArray[np.int64],
) -> DocumentSums:
    """Return the sums with what their epochs stand for in the run, and where it lies."""
    passes = np.asarray([records.run.passes(int(epoch)) for epoch in epochs], dtype=np.float64)
    at = np.asarray(epochs, dtype=np.int64)
    return DocumentSums(sums, counts, at, labels, documents, passes, str(records.run.path))


def _require_tokens(chosen: NDArray[np.bool_]) -> None:
    if not chosen.any():
        raise InputError("the records hold no predicted token; there is nothing to sum")


def coarsen(ds: DocumentSums, groups: Sequence[int], labels: Sequence[str]) -> DocumentSums:
    """Return sums with neighbouring buckets added: deciles into halves, without reading the records again.

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

    sums, counts = (added(values, into.tolist(), len(labels)) for values in (ds.sums, ds.counts))
    return replace(ds, sums=sums, counts=counts, labels=tuple(labels))


def average_sums(parts: Sequence[DocumentSums]) -> DocumentSums:
    """Return the sums of runs that share their tokens, the seeds of one arm, averaged.

    The seeds of a study see the same tokens, so that averaging the sums per document keeps the documents, and not the
    seeds, as the units of an interval. In moving buckets the seeds
    have other tokens, and the counts are averaged too: the mean is that of all seeds' tokens together.

    Parameters
    ----------
    parts : sequence of DocumentSums
        One a seed.

    Raises
    ------
    InputError
        If documents, token counts, buckets, epochs, or the passes over the data at an epoch differ.
    """
    first = parts[0]
    require_like_sums(parts)
    mean = np.mean([part.sums for part in parts], axis=0)
    counts = first.counts if first.counts.ndim == 2 else np.mean([part.counts for part in parts], axis=0)
    return replace(first, sums=mean, counts=counts)


def require_like_sums(parts: Sequence[DocumentSums]) -> None:
    """Raise InputError unless documents, token counts (but in moving buckets), buckets, epochs and passes are alike."""
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
        require_same_passes(first, part)


def require_same_passes(first: DocumentSums, second: DocumentSums) -> None:
    """Raise InputError, naming both runs, if an epoch of the same number stands for other passes in each.

    Parameters
    ----------
    first, second : DocumentSums
        With epochs of the same numbers.
    """
    here, there = first.at, second.at
    for e in np.flatnonzero(here != there):
        raise InputError(
            f"epoch {first.epochs[e]} stands for {here[e]:g} passes over the data in {first.source or 'the first'} and "
            f"for {there[e]:g} in {second.source or 'the second'}, as training was cut there: values after different "
            "passes are not compared. Leave that epoch out (dynamics.analysis.sums.arms.at_common_epochs), or train "
            "both for the same passes"
        )


def require_same_documents(first: DocumentSums, second: DocumentSums) -> None:
    """Raise InputError unless both hold the same documents with the same tokens (or tokens that move)."""
    moving = first.counts.ndim == second.counts.ndim == 3
    if not np.array_equal(first.documents, second.documents) or not (
        moving or np.array_equal(first.counts, second.counts)
    ):
        raise InputError("a paired difference needs the same tokens on both sides; these runs have different ones")
