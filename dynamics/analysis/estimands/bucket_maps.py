"""A value by bucket and epoch: the numbers of heat maps and of the loss landscape, for every arm.

Shape suffixes: E epochs, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over, curve_interval, generalises_over
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, collect_arms
from dynamics.analysis.sums.document_sums import Value
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.sums.kept_sums import kept_centres
from dynamics.analysis.tokens.buckets import Bucketing, Buckets
from dynamics.analysis.tokens.groups import Groups
from dynamics.analysis.tokens.signals import signal_values
from dynamics.analysis.tokens.token_records import Floats, kept_sums_of


@dataclass(frozen=True, slots=True)
class BucketMap(OverEpochs):
    """One value of an arm by epoch and bucket.

    Attributes
    ----------
    arm, n_seeds, split, value
    by : str
        What the tokens were put into buckets by, such as ``reference_entropy``.
    epochs : ndarray of int64, shape (E,)
    labels : tuple of str, length K
    centres : ndarray, shape (K,)
        Mean of the signal over the bucket's tokens in this split, in its unit: the x axis of a landscape. NaN for
        an empty bucket, and where there is no one signal (two-way and moving buckets, groups).
    edges : ndarray of float64, shape (K - 1,)
        Interior edges in the same unit; empty where there is no one signal.
    n_tokens : ndarray, shape (K,)
        Tokens of the bucket, the mean over epochs and seeds where they move.
    values : Interval of arrays of shape (E, K)
        Nats per token, or shares for ``correct``.
    over : {"documents", "seeds_and_documents"}
        What the intervals generalise over.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    arm: str
    n_seeds: int
    split: str
    value: Value
    by: str
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    centres: Floats
    edges: Floats
    n_tokens: Floats
    values: Interval
    passes: Floats | None = None
    over: Over = "documents"

    @property
    def diverged(self) -> bool:
        """Whether a bucket with tokens has a value that is NaN or infinite."""
        return not np.isfinite(self.values.estimate[:, self.n_tokens > 0]).all()

    @property
    def best(self) -> NDArray[np.int64]:
        """The index of each bucket's own best epoch, shape (K,): its lowest loss or entropy, or highest share or
        certainty. -1 where no value is finite.
        """
        worst = np.where(np.isfinite(self.values.estimate), self._worst, np.inf)
        index: NDArray[np.int64] = np.where(np.isinf(worst).all(axis=0), -1, worst.argmin(axis=0))
        return index

    @property
    def above_best(self) -> Floats:
        """How far every value is from that of its bucket's own best epoch, (E, K): 0 there, and above 0 elsewhere."""
        at_best = np.where(self.best >= 0, self._finite[self.best, np.arange(len(self.labels))], np.nan)
        distance: Floats = np.abs(self._finite - at_best)
        return distance

    @property
    def since_start(self) -> Floats:
        """The change since the first recorded epoch, (E, K)."""
        change: Floats = self._finite - self._finite[:1]
        return change

    @property
    def since_best(self) -> Floats:
        """The change since the arm's best epoch, that of the mean over the tokens of all buckets, (E, K).

        NaN before it, and everywhere if the arm diverged. The best epoch is chosen and measured on the same documents:
        not cross-fitted (`dynamics.analysis.intervals.selection`), and so a little too high.
        """
        used = self.n_tokens > 0
        mean = self._worst[:, used] @ self.n_tokens[used]
        if self.diverged or not used.any():
            return np.full(self.values.estimate.shape, np.nan)
        best = int(mean.argmin())
        change: Floats = self._finite - self._finite[best]
        change[:best] = np.nan
        return change

    @property
    def _finite(self) -> Floats:
        """The values with NaN for infinities, which have no difference, (E, K)."""
        finite: Floats = np.where(np.isfinite(self.values.estimate), self.values.estimate, np.nan)
        return finite

    @property
    def _worst(self) -> Floats:
        """The values with the sign that makes the lowest the best, (E, K)."""
        return self._finite if self.value in ("loss", "entropy") else -self._finite


def bucket_map(
    data: Source | Iterable[Source],
    *,
    split: str = "validation",
    value: Value = "loss",
    buckets: Bucketing | int = 10,
    over: Over | None = None,
    level: float = 0.95,
) -> list[BucketMap]:
    """Return a value of every arm by epoch and bucket, with intervals over documents.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    split : str
    value : {"loss", "entropy", "correct", "certainty"}
    buckets : Bucketing or int
        An int asks for that many by reference entropy: 10 for the heat map of deciles.
    over, level
        As for `curve_interval`.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, or two seeds.
    """
    arms = collect_arms(data)
    how = as_buckets(arms, buckets)
    centres, edges, by = _axis(arms[0], split, how)
    maps = []
    for arm in arms:
        parts = arm.seed_sums(split, buckets=how, value=value)
        sums = arm.sums(split, buckets=how, value=value)
        counts = sums.counts.sum(axis=-2)
        maps.append(
            BucketMap(
                arm=arm.name,
                n_seeds=len(arm.runs),
                split=split,
                value=value,
                by=by,
                epochs=sums.epochs,
                labels=sums.labels,
                centres=centres,
                edges=edges,
                n_tokens=counts if counts.ndim == 1 else counts.mean(axis=0),
                values=curve_interval(parts, over=over, level=level),
                passes=sums.passes,
                over=over or generalises_over(parts),
            )
        )
    return maps


def loss_landscape(
    data: Source | Iterable[Source],
    *,
    split: str = "validation",
    n_buckets: int = 30,
    over: Over | None = None,
    level: float = 0.95,
) -> list[BucketMap]:
    """Return the loss over (reference entropy, epoch): `bucket_map` with so many buckets that it is a surface.

    `BucketMap.centres` is the first axis, `BucketMap.at` the second, ``values.estimate`` (E, K) the height.

    Parameters
    ----------
    data : Study, Run, Arm, or sequence of these
        What to look at; seeds of an arm together.
    split : str, default "validation"
        One of the splits that the runs record.
    n_buckets : int, default 30
        Buckets of reference entropy, of equal size.
    over : {"seeds_and_documents", "documents"}, optional
        What intervals generalise over; None: seeds and documents where there are two seeds or more.
    level : float, default 0.95
        Level of confidence, in (0, 1).
    """
    return bucket_map(data, split=split, buckets=n_buckets, over=over, level=level, value="loss")


def _axis(arm: Arm, split: str, buckets: Bucketing) -> tuple[Floats, Floats, str]:
    if not isinstance(buckets, Buckets):
        by = buckets.by if buckets.moving or isinstance(buckets, Groups) else "two signals"
        return np.full(len(buckets.labels), np.nan), np.empty(0), by
    records = arm.runs[0].records(split)
    if (kept := kept_sums_of(records)) is not None:
        return kept_centres(kept, buckets), buckets.edges, buckets.signal.name
    index = buckets.index(records)
    chosen = np.asarray(records.predicted, dtype=bool) & (index >= 0)
    of = index[chosen]
    values = signal_values(buckets.signal, records)[chosen].astype(np.float64)
    counts = np.bincount(of, minlength=buckets.n).astype(np.float64)
    sums = np.bincount(of, values, minlength=buckets.n)
    centres = np.divide(sums, counts, out=np.full(buckets.n, np.nan), where=counts > 0)
    return centres, buckets.edges, buckets.signal.name
