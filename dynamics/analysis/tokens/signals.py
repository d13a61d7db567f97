"""Signals: numbers by which tokens are put into buckets; the same for every epoch, arm and seed."""

from __future__ import annotations

import math
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
    chosen_by_outcome : bool or None
        Whether the losses that are measured, or the realised token's loss under another model, had a hand in the
        number, so that buckets by it regress to the mean (`Buckets.chosen_by_outcome`). None: not known; `make_buckets`
        finds out (`goes_with_surprise`).
    """

    name: str
    read: Callable[[TokenRecords], NDArray[Any]]
    chosen_by_outcome: bool | None = None


def _reference_entropy(records: TokenRecords) -> NDArray[Any]:
    return np.asarray(records.reference_entropy)


def _reference_loss(records: TokenRecords) -> NDArray[Any]:
    return np.asarray(records.reference_loss)


def _position(records: TokenRecords) -> NDArray[Any]:
    n_sequences, block_size = records.document_id.shape
    return np.broadcast_to(np.arange(block_size, dtype=np.float32), (n_sequences, block_size))


# The entropy is known before the token is: no luck of its loss is in it. The reference model's loss of the token is
# that of epoch 0 where training starts from the reference model, and holds the token's own luck in any case.
REFERENCE_ENTROPY = Signal("reference_entropy", _reference_entropy, False)
REFERENCE_LOSS = Signal("reference_loss", _reference_loss, True)
POSITION = Signal("position", _position, False)

#: A signal whose correlation with the surprise (loss minus entropy) of validation tokens in the first or last epoch is
#: beyond this is taken to be made of losses. In the packaged example losses of any epoch or seed have 0.80 to 0.88,
#: rises 0.68; frequencies, their logarithms, entropies and positions at most 0.46.
SURPRISE = 0.6

_FEWEST = 100  # Tokens below which a correlation says nothing.


def token_frequency(train: TokenRecords) -> Signal:
    """Return the signal "how often the token occurs in the recorded training set".

    Every token of a document counts, predicted or not; padding does not. A token that never occurs there is 0.

    Parameters
    ----------
    train : TokenRecords
        The recorded training set, such as ``run.records("train")``.
    """
    used = np.asarray(train.token_id)[np.asarray(train.document_id) >= 0]
    counts = np.bincount(used.reshape(-1)).astype(np.float64) if used.size else np.zeros(1)
    # One 0 past the end stands for every id that is not in the training set.
    table = np.append(counts, 0.0)

    def read(records: TokenRecords) -> NDArray[Any]:
        found: NDArray[np.float64] = table[np.minimum(np.asarray(records.token_id), len(table) - 1)]
        return found

    return Signal("frequency", read, False)


def own_signal(name: str, values: Mapping[str, NDArray[Any]], *, chosen_by_outcome: bool | None = None) -> Signal:
    """Return a signal of one's own.

    Parameters
    ----------
    name : str
        For labels of figures.
    values : mapping
        By split, an array of shape (R, B): one number for every recorded token, NaN for none.
    chosen_by_outcome : bool, optional
        True if the numbers were made from losses: of a run that is to be compared, or of any model for the same token.
        Buckets by it then warn where epochs are compared. Default: `make_buckets` takes it to be so where the numbers
        go with the surprise of validation tokens (`goes_with_surprise`), as losses and rises do. Means and deviations
        of probabilities (cartography) may not: say True for those.

    Raises
    ------
    InputError
        When the signal is read of a split that `values` does not have.
    """

    def read(records: TokenRecords) -> NDArray[Any]:
        split = getattr(records, "split", "train")
        if split not in values:
            raise InputError(f"signal {name!r} has no values for {split!r}: it has {', '.join(values) or 'none'}")
        return np.asarray(values[split])

    return Signal(name, read, chosen_by_outcome)


def goes_with_surprise(signal: Signal, train: TokenRecords) -> bool:
    """Return whether a signal follows the surprise, loss minus entropy, of the validation tokens of a run.

    The mean surprise given the text before a token is 0 where a model's probabilities are right, so that what is known
    before the token hardly goes with it, and what was made from the token's losses does. On training text, which is
    learned by heart, there is no surprise to tell them apart.

    Parameters
    ----------
    signal : Signal
    train : Records
        Of the run. The answer is no where it has no epoch, fewer than 100 validation tokens, or none of the signal.
    """
    run = train.run
    if not run.epochs or "validation" not in run.splits:
        return False
    records = run.records("validation")
    predicted = np.asarray(records.predicted, dtype=bool)
    try:
        values = signal_values(signal, records)[predicted].astype(np.float64)
    except InputError:  # No values for this split: whoever asks for its buckets is told so.
        return False
    for epoch in {run.epochs[0], run.epochs[-1]}:
        loss, entropy = (np.asarray(records.stored(name, epoch))[predicted] for name in ("loss", "entropy"))
        surprise = loss.astype(np.float64) - entropy
        n_known = (np.isfinite(values) & np.isfinite(surprise)).sum()
        if n_known >= _FEWEST and abs(correlation(values, surprise)) > SURPRISE:
            return True
    return False


def correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Pearson's correlation over where both are finite; NaN where one of them does not vary there."""
    known = np.isfinite(first) & np.isfinite(second)
    a, b = (values[known].astype(np.float64) for values in (first, second))
    if not len(a):
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else math.nan


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
