"""Buckets of tokens: by reference entropy or loss, frequency, position, or any array of one's own.

*Frozen* buckets take their edges from the training set once, so that "a low-entropy token" means the same in both
splits, every arm and every seed. *Moving* buckets sort the tokens anew in every epoch by what the model then says.

Buckets that were *chosen by the outcome*, by losses that are then compared, regress to the mean: tokens whose loss was
high by luck are in the high bucket, and their next loss is lower on average whatever training does
(`Buckets.chosen_by_outcome`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.edges import Edges as Edges
from dynamics.analysis.tokens.edges import assign_buckets as assign_buckets
from dynamics.analysis.tokens.edges import at_least_one, rising
from dynamics.analysis.tokens.edges import bucket_labels as bucket_labels
from dynamics.analysis.tokens.edges import quantile_edges as quantile_edges
from dynamics.analysis.tokens.groups import Groups
from dynamics.analysis.tokens.signals import (
    REFERENCE_ENTROPY,
    By,
    Signal,
    find_signal,
    goes_with_surprise,
    signal_values,
)
from dynamics.analysis.tokens.token_records import TokenRecords, kept_sums_of
from dynamics.errors import InputError


class Bucketing(Protocol):
    """What sums and figures need of buckets: frozen (`Buckets`, `TwoWayBuckets`, `Groups`) or `MovingBuckets`."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def moving(self) -> bool: ...
    @property
    def key(self) -> tuple[Any, ...]: ...
    @property
    def by(self) -> str: ...
    @property
    def chosen_by_outcome(self) -> bool: ...
    def index(self, records: TokenRecords, epoch: int | None = None, /) -> NDArray[np.int16]: ...


@dataclass(frozen=True, slots=True)
class Buckets:
    """Frozen edges between buckets of tokens.

    Attributes
    ----------
    edges : ndarray of float64, shape (n - 1,)
        Interior edges, ascending; in the signal's unit (nats for entropy and loss, training tokens for frequency,
        tokens from the start of the sequence for position). A value equal to an edge belongs above it.
    labels : tuple of str, length n
        From the lowest bucket to the highest: ``low`` and ``high`` for two, ``1`` to ``n`` for more.
    signal : Signal
        What the edges cut. Default: the entropy of the reference model.
    """

    edges: Edges
    labels: tuple[str, ...]
    signal: Signal = REFERENCE_ENTROPY

    @property
    def n(self) -> int:
        """Number of buckets."""
        return len(self.labels)

    @property
    def moving(self) -> bool:
        """Whether tokens change their bucket between epochs."""
        return False

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal buckets, and hashable."""
        return ("frozen", self.labels, self.edges.tobytes(), self.signal)

    @property
    def by(self) -> str:
        """What the tokens are put into buckets by, in words."""
        return self.signal.name

    @property
    def chosen_by_outcome(self) -> bool:
        """Whether the buckets know the losses of their tokens, so that comparing their curves shows regression.

        False for reference entropy, frequency and position, true for the reference loss, with the token's luck in it.
        """
        return bool(self.signal.chosen_by_outcome)

    def assign(self, values: NDArray[Any]) -> NDArray[np.int16]:
        """Return the bucket of every value; see `assign_buckets`."""
        return assign_buckets(values, self.edges)

    def index(self, records: TokenRecords, epoch: int | None = None, /) -> NDArray[np.int16]:
        """Return the bucket of every token, shape (R, B); -1 where the signal is NaN."""
        return self.assign(signal_values(self.signal, records))


@dataclass(frozen=True, slots=True)
class MovingBuckets:
    """Buckets by what the model says in the very epoch that is looked at.

    Attributes
    ----------
    labels : tuple of str, length n
    value : {"entropy", "loss"}
        The recorded value that puts a token into a bucket, in nats.
    edges : ndarray of float64, shape (n - 1,), or None
        Fixed interior edges. None: in every epoch, edges that cut that epoch's predicted tokens of the same split into
        buckets of equal size.
    """

    labels: tuple[str, ...]
    value: Literal["entropy", "loss"] = "entropy"
    edges: Edges | None = None

    @property
    def n(self) -> int:
        """Number of buckets."""
        return len(self.labels)

    @property
    def moving(self) -> bool:
        """Whether tokens change their bucket between epochs."""
        return True

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal buckets, and hashable."""
        return ("moving", self.labels, self.value, None if self.edges is None else self.edges.tobytes())

    @property
    def by(self) -> str:
        """What the tokens are put into buckets by, in words."""
        return f"current {self.value}"

    @property
    def chosen_by_outcome(self) -> bool:
        """True for the entropy too, though it does not know the realised token.

        The tokens that a model is surest of at an epoch are in part those that it is too sure of just then, and their
        loss pays for it in the same epoch (docs/analysis.md has numbers).
        """
        return True

    def index(self, records: TokenRecords, epoch: int | None = None, /) -> NDArray[np.int16]:
        """Return the bucket of every token in `epoch`, shape (R, B); -1 where nothing is predicted.

        A predicted token whose value is NaN (a run that diverged) is in the highest bucket: in none, it would be left
        out of its epoch's mean, and flatter the run.
        """
        assert epoch is not None, "moving buckets are asked for one epoch"
        values = np.asarray(records.stored(self.value, epoch))
        predicted = np.asarray(records.predicted, dtype=bool)
        known = values[predicted]
        known = known[~np.isnan(known)]
        if self.edges is not None:
            edges = self.edges
        else:
            # An epoch that is NaN throughout has no quantiles, and needs none.
            edges = quantile_edges(known, self.n) if len(known) else np.full(self.n - 1, np.inf)
        index = assign_buckets(values, edges)
        index[predicted & np.isnan(values)] = self.n - 1
        index[~predicted] = -1
        return index


@dataclass(frozen=True, slots=True)
class TwoWayBuckets:
    """Every pair of a bucket of `first` and a bucket of `second`, both frozen; groups are buckets too.

    Pairs are in rows: ``labels[i * second.n + j]`` is ``"<first i> x <second j>"``; `grid` folds the last axis of a
    result back into (first, second).

    Parameters
    ----------
    first, second : Buckets or Groups
        Frozen buckets; each pair of one of these and one of those is a bucket.
    """

    first: Buckets | Groups
    second: Buckets | Groups

    def __post_init__(self) -> None:
        """Refuse more pairs than `index` can number."""
        if self.n > np.iinfo(np.int16).max:
            raise InputError(f"{self.first.n} by {self.second.n} buckets are too many pairs; make fewer of either")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the pairs."""
        return tuple(f"{first} x {second}" for first in self.first.labels for second in self.second.labels)

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.first.n * self.second.n

    @property
    def moving(self) -> bool:
        """Whether tokens change their bucket between epochs."""
        return False

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal buckets, and hashable."""
        return ("two-way", self.first.key, self.second.key)

    @property
    def by(self) -> str:
        """What the tokens are put into buckets by, in words."""
        return f"{self.first.by} and {self.second.by}"

    @property
    def chosen_by_outcome(self) -> bool:
        """Whether either of the two is."""
        return self.first.chosen_by_outcome or self.second.chosen_by_outcome

    def index(self, records: TokenRecords, epoch: int | None = None, /) -> NDArray[np.int16]:
        """Return the pair of every token, shape (R, B); -1 where either signal is NaN."""
        first, second = self.first.index(records), self.second.index(records)
        pair = first * np.int16(self.second.n) + second
        pair[(first < 0) | (second < 0)] = -1
        return pair

    def grid(self, values: NDArray[Any]) -> NDArray[Any]:
        """Fold (..., n) into (..., first.n, second.n)."""
        return np.asarray(values).reshape(*np.shape(values)[:-1], self.first.n, self.second.n)


def make_buckets(
    train: TokenRecords,
    by: By | Signal = "reference_entropy",
    *,
    n: int | None = None,
    edges: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
) -> Buckets:
    """Return frozen buckets: quantiles of the training set, or edges that are given.

    Parameters
    ----------
    train : Records
        The training split's records. Only predicted tokens count for the quantiles.
    by : {"reference_entropy", "reference_loss", "frequency", "position"} or Signal
        `own_signal` makes one from arrays.
    n : int, optional
        Number of buckets of equal size.
    edges : sequence of float, optional
        Interior edges, strictly rising, instead of `n`.
    labels : sequence of str, optional
        Names instead of those of `bucket_labels`.

    Raises
    ------
    InputError
        For an unknown signal, neither or both of `n` and `edges`, edges that do not rise, a number of labels that is
        not that of the buckets, or no predicted training token.
    """
    signal = find_signal(by, train)
    if signal.chosen_by_outcome is None:
        signal = replace(signal, chosen_by_outcome=goes_with_surprise(signal, train))
    if (n is None) == (edges is None):
        raise InputError(f"buckets need either n or edges; got n={n!r} and edges={edges!r}")
    if n is not None:
        cut = quantile_edges(signal_values(signal, train)[np.asarray(train.predicted, dtype=bool)], n)
    else:
        cut = rising(edges)
    names = bucket_labels(len(cut) + 1) if labels is None else tuple(labels)
    if len(names) != len(cut) + 1:
        raise InputError(f"{len(cut) + 1} buckets need as many labels; got {len(names)}: {', '.join(names)}")
    return Buckets(cut, names, signal)


def moving_buckets(
    n: int | None = None, *, value: Literal["entropy", "loss"] = "entropy", edges: Sequence[float] | None = None
) -> MovingBuckets:
    """Return buckets that follow the model: `n` of equal size in every epoch, or between fixed edges.

    Parameters
    ----------
    n : int, optional
        Buckets of equal size in every epoch; or give `edges`.
    value : {"entropy", "loss"}, default "entropy"
        What tokens are ordered by in each epoch, nats.
    edges : sequence of float, optional
        Fixed edges in nats, rising, instead of `n`.

    Raises
    ------
    InputError
        For neither or both of `n` and `edges`, an unknown value, `n` below 1, or edges that do not rise.
    """
    if value not in ("entropy", "loss"):
        raise InputError(f"tokens cannot be put into moving buckets by {value!r}; use entropy or loss")
    if (n is None) == (edges is None):
        raise InputError(f"buckets need either n or edges; got n={n!r} and edges={edges!r}")
    if n is not None:
        return MovingBuckets(bucket_labels(at_least_one(n)), value)
    cut = rising(edges)
    return MovingBuckets(bucket_labels(len(cut) + 1), value, cut)


def entropy_buckets(train: TokenRecords, n: int = 2) -> Buckets:
    """Return `n` buckets of equal size by the reference entropy of the recorded training tokens.

    Parameters
    ----------
    train : Records
        The training split's records. Only predicted tokens count.
    n : int
        2 for the low and the high half, 10 for deciles.

    Raises
    ------
    InputError
        If `n` is below 1, no predicted training token was recorded, or sums alone were kept, of other buckets.
    """
    if (kept := kept_sums_of(train)) is not None:
        return Buckets(kept.edges_of(at_least_one(n)), bucket_labels(n))
    return make_buckets(train, n=n)
