"""From records to columns: what the page shows of the tokens of one split, in one run or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.buckets import Buckets
from dynamics.analysis.tokens.drop_pools import DropPool, drop_pool, entropy_rank
from dynamics.analysis.tokens.trajectories import TokenTrajectories, token_trajectories
from dynamics.errors import InputError
from dynamics.explorer.passages import Passage, passages
from dynamics.explorer.payload import NEVER, NO_RANK, Epochs, Fates, TokenTable
from dynamics.explorer.quantise import UNKNOWN, Scale
from dynamics.records.reader import Run
from dynamics.records.values import Records

MAY_NOT, MAY, BY_EPOCH = 0, 1, 2


class SplitTokens:
    """The tokens of a split that were recorded in all runs.

    Parameters
    ----------
    runs : sequence of Run
    split : str
    epochs : sequence of int
        Those to show.
    """

    def __init__(self, runs: Sequence[Run], split: str, epochs: Sequence[int]) -> None:
        self.split = split
        self.epochs = list(epochs)
        self.records: list[Records] = [run.records(split) for run in runs]
        self.train: list[Records | None] = [run.records("train") if "train" in run.splits else None for run in runs]
        common = self.records[0].sequence_id
        for other in self.records[1:]:
            common = np.intersect1d(common, other.sequence_id)
        if not len(common):
            raise InputError(
                f"{runs[0].path} and {runs[-1].path} recorded no {split} sequence in common; explore them one at a time"
            )
        self.rows = [np.flatnonzero(np.isin(records.sequence_id, common)) for records in self.records]
        self.passages: list[Passage] = passages(self.records[0], self.rows[0])
        # One level for both runs, or their classes could not be compared.
        first = token_trajectories(self.records[0], epochs=self.epochs)
        self.level = first.level
        rest = [token_trajectories(each, epochs=self.epochs, level=self.level) for each in self.records[1:]]
        self.trajectories: list[TokenTrajectories] = [first, *rest]

    def flat(self, array: NDArray[Any], run: int) -> NDArray[Any]:
        """Return an array over the tokens of one run's records, as one over the tokens here."""
        return array[self.rows[run]].reshape(-1)

    @cached_property
    def reference_loss(self) -> NDArray[np.float32]:
        """That of the first run, for both: runs may have begun as different models."""
        return self.flat(self.records[0].reference_loss, 0)

    @property
    def same_reference(self) -> bool:
        """Whether all runs began as the same model."""
        return all(
            np.array_equal(self.flat(records.reference_loss, r), self.reference_loss, equal_nan=True)
            for r, records in enumerate(self.records)
        )

    @property
    def highest(self) -> float:
        """The highest finite reference loss or entropy, nats; 0 if there is none."""
        records = self.records[0]
        return max(
            float(np.max(v, where=np.isfinite(v), initial=0.0))
            for v in (records.reference_loss, records.reference_entropy)
        )

    @cached_property
    def pools(self) -> list[DropPool | None]:
        """What each run's token dropout may take."""
        return [None if train is None else drop_pool(train) for train in self.train]

    def rebounds(self) -> NDArray[np.float64]:
        """Return the mean rebound of each passage's predicted tokens in the first run, in nats; NaN without any."""
        found = self.flat(difference(self.trajectories[0].last_loss, self.trajectories[0].lowest_loss), 0)
        return np.array([_mean(found[passage.tokens]) for passage in self.passages])

    def table(self, buckets: Buckets | None, scale: Scale) -> TokenTable:
        """Return what every run agrees on; spans count from the start of the document."""
        records = self.records[0]
        n_rows, block_size = len(self.rows[0]), records.token_id.shape[1]
        train = self.train[0]
        if train is None:
            rank = np.full(records.token_id.shape, np.nan)
        else:
            rank = entropy_rank(records.reference_entropy, train.whole)
        # The highest code of all stays that of a token without a rank.
        codes = np.where(np.isnan(rank), NO_RANK, np.rint(np.nan_to_num(rank) * (NO_RANK - 1)))
        index = np.full(records.token_id.shape, -1) if buckets is None else buckets.index(records)
        return TokenTable(
            start=self.flat(records.byte_start, 0),
            end=self.flat(records.byte_end, 0),
            sequence=np.repeat(records.sequence_id[self.rows[0]], block_size),
            position=np.tile(np.arange(block_size), n_rows),
            token_id=self.flat(records.token_id, 0),
            rank=self.flat(codes, 0).astype(np.uint16),
            reference_loss=scale.encode(self.flat(records.reference_loss, 0)),
            reference_entropy=scale.encode(self.flat(records.reference_entropy, 0)),
            bucket=np.where(self.flat(index, 0) < 0, UNKNOWN, self.flat(index, 0)).astype(np.uint8),
            predicted=self.flat(np.asarray(records.predicted), 0).astype(np.uint8),
        )

    def fates(self, run: int, scale: Scale) -> Fates:
        """Return what became of every token in one run."""
        found = self.trajectories[run]
        places = np.searchsorted(self.epochs, np.maximum(found.first_learned, 0))
        first = np.where(found.first_learned < 0, NEVER, places)
        return Fates(
            may_drop=self._may_drop(run),
            rebound=scale.encode(self.flat(difference(found.last_loss, found.lowest_loss), run)),
            gap=scale.encode_signed(difference(self.flat(found.last_loss, run), self.reference_loss)),
            first_learned=self.flat(first, run).astype(np.uint8),
            forgetting=self.flat(np.minimum(found.forgetting, 255), run).astype(np.uint8),
            kind=self.flat(np.where(found.kind < 0, UNKNOWN, found.kind), run).astype(np.uint8),
        )

    def _may_drop(self, run: int) -> NDArray[np.uint8]:
        n = self.rows[run].size * self.records[run].token_id.shape[1]
        pool = self.pools[run] if self.split == "train" else None
        if pool is None:
            return np.full(n, MAY_NOT, dtype=np.uint8)
        if pool.may_drop is None:
            predicted = self.flat(np.asarray(self.records[run].predicted), run)
            return np.where(predicted, BY_EPOCH, MAY_NOT).astype(np.uint8)
        return self.flat(pool.may_drop, run).astype(np.uint8)

    def view(self, run: int) -> SharedRecords:
        """Return one run's records of the tokens here."""
        return SharedRecords(self, run)

    def measured(self, run: int, tokens: NDArray[np.int64]) -> Measured:
        """Read the values of some tokens in every epoch of one run."""
        records = self.records[run]
        shape = (len(self.epochs), len(tokens))
        dtype = records.stored("loss", self.epochs[0]).dtype
        loss, entropy = np.empty(shape, dtype), np.empty(shape, dtype)
        correct = np.empty(shape, dtype=bool)
        dropped = np.zeros(shape, dtype=bool) if self.split == "train" else None
        block_size = records.token_id.shape[1]
        # Where the tokens lie among all that this run recorded.
        places = self.rows[run][tokens // block_size] * block_size + tokens % block_size
        for i, epoch in enumerate(self.epochs):
            loss[i] = records.stored("loss", epoch).reshape(-1).take(places)
            entropy[i] = records.stored("entropy", epoch).reshape(-1).take(places)
            correct[i] = records.correct(epoch).reshape(-1).take(places)
            if dropped is not None and epoch > 0:
                dropped[i] = records.dropped(epoch).reshape(-1).take(places)
        return Measured(loss, entropy, correct, dropped)


class SharedRecords:
    """Records of the sequences that all runs recorded, as the analysis reads them; references are the first run's."""

    def __init__(self, split: SplitTokens, run: int) -> None:
        self._records, self._rows = split.records[run], split.rows[run]
        self.run = self._records.run
        first, rows = split.records[0], split.rows[0]
        self.token_id = first.token_id[rows]
        self.document_id = first.document_id[rows]
        self.predicted = np.asarray(first.predicted)[rows]
        self.reference_loss = first.reference_loss[rows]
        self.reference_entropy = first.reference_entropy[rows]

    def stored(self, value: str, epoch: int, /) -> NDArray[Any]:
        """Return values as `Records.stored` does."""
        return self._records.stored(value, epoch)[self._rows]

    def correct(self, epoch: int, /) -> NDArray[Any]:
        """Return values as `Records.correct` does."""
        return self._records.correct(epoch)[self._rows]


@dataclass(frozen=True, slots=True)
class Measured:
    """Recorded values of tokens; arrays of shape (epoch, n), nats and bits."""

    loss: NDArray[Any]
    entropy: NDArray[Any]
    correct: NDArray[np.bool_]
    dropped: NDArray[np.bool_] | None

    @property
    def highest(self) -> float:
        """The highest finite loss or entropy, nats; 0 if there is none."""
        return max(
            (float(np.max(v, where=np.isfinite(v), initial=0.0)) for v in (self.loss, self.entropy)), default=0.0
        )

    def part(self, where: slice) -> Measured:
        """Return the values of some of the tokens."""
        dropped = None if self.dropped is None else self.dropped[:, where]
        return Measured(self.loss[:, where], self.entropy[:, where], self.correct[:, where], dropped)

    def coded(self, scale: Scale) -> Epochs:
        """Return the values in 8 bits."""
        return Epochs(scale.encode(self.loss), scale.encode(self.entropy), self.correct, self.dropped)


def difference(a: NDArray[Any], b: NDArray[Any] | float) -> NDArray[Any]:
    """Return a - b; NaN, and no warning, where both are infinite, as in a run that diverged."""
    with np.errstate(invalid="ignore"):
        found: NDArray[Any] = np.subtract(a, b)
    return found


def _mean(values: NDArray[Any]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if known.size else float("nan")
