"""Signals: numbers by which tokens are put into buckets; the same for every epoch, arm and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.token_records import TokenRecords
from dynamics.errors import InputError, nearest

By = Literal["reference_entropy", "reference_loss", "frequency", "position"]

_SIGNALS = ("reference_entropy", "reference_loss", "frequency", "position")


@dataclass(frozen=True, slots=True)
class Signal:
    """A number for every token, by which tokens are put into buckets.

    Attributes
    ----------
    name : str
    read : callable
        Takes the records of a split, gives an array of shape (R, B); NaN where a token has no value.
    """

    name: str
    read: Callable[[TokenRecords], NDArray[Any]]


def _reference_entropy(records: TokenRecords) -> NDArray[Any]:
    return np.asarray(records.reference_entropy)


def _reference_loss(records: TokenRecords) -> NDArray[Any]:
    return np.asarray(records.reference_loss)


def _position(records: TokenRecords) -> NDArray[Any]:
    n_sequences, block_size = records.document_id.shape
    return np.broadcast_to(np.arange(block_size, dtype=np.float32), (n_sequences, block_size))


REFERENCE_ENTROPY = Signal("reference_entropy", _reference_entropy)
REFERENCE_LOSS = Signal("reference_loss", _reference_loss)
POSITION = Signal("position", _position)


def token_frequency(train: TokenRecords) -> Signal:
    """Return the signal "how often the token occurs in the recorded training set".

    Every token of a document counts, predicted or not; padding does not. A token that never occurs there is 0.
    """
    used = np.asarray(train.token_id)[np.asarray(train.document_id) >= 0]
    counts = np.bincount(used.reshape(-1)).astype(np.float64) if used.size else np.zeros(1)
    # One 0 past the end stands for every id that is not in the training set.
    table = np.append(counts, 0.0)

    def read(records: TokenRecords) -> NDArray[Any]:
        found: NDArray[np.float64] = table[np.minimum(np.asarray(records.token_id), len(table) - 1)]
        return found

    return Signal("frequency", read)


def own_signal(name: str, values: Mapping[str, NDArray[Any]]) -> Signal:
    """Return a signal of one's own.

    Parameters
    ----------
    name : str
        For labels of figures.
    values : mapping
        By split, an array of shape (R, B): one number for every recorded token, NaN for none.
    """

    def read(records: TokenRecords) -> NDArray[Any]:
        split = getattr(records, "split", "train")
        if split not in values:
            raise InputError(f"signal {name!r} has no values for {split!r}: it has {', '.join(values) or 'none'}")
        return np.asarray(values[split])

    return Signal(name, read)


def find_signal(by: By | Signal, train: TokenRecords) -> Signal:
    """Return the signal of a name; frequencies are counted in `train`. Raises InputError for an unknown one."""
    if isinstance(by, Signal):
        return by
    if by == "frequency":
        return token_frequency(train)
    for signal in (REFERENCE_ENTROPY, REFERENCE_LOSS, POSITION):
        if by == signal.name:
            return signal
    raise InputError(
        f"tokens cannot be put into buckets by {by!r}; use {', '.join(_SIGNALS)}, or own_signal(name, arrays)"
        + nearest(by, _SIGNALS)
    )


def signal_values(signal: Signal, records: TokenRecords) -> NDArray[Any]:
    """Return a signal of every token, shape (R, B). Raises InputError where the signal has another shape."""
    values = signal.read(records)
    if values.shape != np.shape(records.predicted):
        raise InputError(
            f"signal {signal.name!r} has shape {values.shape}, and the records {np.shape(records.predicted)}: it "
            "needs one number for every recorded token"
        )
    return values
