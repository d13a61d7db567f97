"""What became of each token over the epochs: classes of trajectories, learning, forgetting, cartography.

Epochs are streamed: memory is about 80 bytes a predicted token, however many epochs there are.

Shape suffixes: R sequences, B positions, N predicted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.token_records import TokenRecords
from dynamics.errors import InputError

#: The four classes of Rho-1, and the fifth that training for many epochs adds; the order of `TokenTrajectories.kind`.
CLASSES = ("high to low", "low to low", "low to high", "high to high", "rebounding")
HIGH_TO_LOW, LOW_TO_LOW, LOW_TO_HIGH, HIGH_TO_HIGH, REBOUNDING = range(5)

#: A change of the loss below this many nats is none (Rho-1's threshold).
CHANGE = 0.2

_BLOCK = 131_072  # tokens handled at once, so that what is computed on the way stays in the cache


@dataclass(frozen=True, slots=True)
class TokenTrajectories:
    """One number or class for every token, over the recorded epochs of a run.

    Arrays have shape (R, B); where nothing is predicted they hold -1, false or NaN.

    Attributes
    ----------
    epochs : ndarray of int64, shape (E,)
        The epochs looked at.
    level : float
        Nats: a token whose loss does not change is low up to here, and high above.
    rho_class : ndarray of int8
        Index in `CLASSES`, 0 to 3: Rho-1's four classes. -1 also where a loss is NaN.
    rebounding : ndarray of bool
        Tokens whose loss fell by more than `CHANGE` from the first epoch, and has risen by more than that from its
        lowest value by the last.
    first_loss, lowest_loss, last_loss : ndarray of float32
        Nats.
    lowest_epoch : ndarray of int32
        The epoch of the lowest loss, the first of equals; -1 for none.
    line_change : ndarray of float32
        Nats: by how much the straight line of Rho-1's classes changes from the first epoch to the last.
    first_learned : ndarray of int32
        The first epoch in which the token was the most probable one; -1 for never.
    forgetting : ndarray of int32
        Forgetting events: how often it was the most probable one and no longer was in the next recorded epoch.
    correctness : ndarray of float32
        Share of epochs in which it was the most probable one.
    confidence, variability : ndarray of float32
        Mean and standard deviation over epochs, epoch 0 left out, of the probability exp(-loss) that the model gave
        the token. NaN if only epoch 0 is recorded.
    """

    epochs: NDArray[np.int64]
    level: float
    rho_class: NDArray[np.int8]
    rebounding: NDArray[np.bool_]
    first_loss: NDArray[np.float32]
    lowest_loss: NDArray[np.float32]
    last_loss: NDArray[np.float32]
    lowest_epoch: NDArray[np.int32]
    line_change: NDArray[np.float32]
    first_learned: NDArray[np.int32]
    forgetting: NDArray[np.int32]
    correctness: NDArray[np.float32]
    confidence: NDArray[np.float32]
    variability: NDArray[np.float32]

    @property
    def kind(self) -> NDArray[np.int8]:
        """Index in `CLASSES`, 0 to 4: rebounding where that holds, else Rho-1's class; -1 for none."""
        return np.where(self.rebounding, np.int8(REBOUNDING), self.rho_class)

    @property
    def change(self) -> NDArray[np.float32]:
        """Nats: the change by which `kind` was chosen, that of the line, or the rise since the lowest loss."""
        with np.errstate(invalid="ignore"):
            rise = self.last_loss - self.lowest_loss
        return np.where(self.rebounding, rise, self.line_change)

    @property
    def unforgettable(self) -> NDArray[np.bool_]:
        """Tokens that were learned and never forgotten after (Toneva et al. 2019)."""
        kept: NDArray[np.bool_] = (self.first_learned >= 0) & (self.forgetting == 0)
        return kept


def token_trajectories(
    records: TokenRecords, *, epochs: Sequence[int] | None = None, level: float | None = None
) -> TokenTrajectories:
    """Return the trajectory of every token of a split over the epochs.

    *Rho-1's classes* (Lin et al. 2024, arXiv 2404.07965, section 2.1 and the appendix on training dynamics; the code
    was never published, so this is a reading of the text). A straight line is fitted to a token's losses by least
    squares over the epochs; a and b are its values at the first and the last. b - a < -0.2 nats: high to low;
    b - a > 0.2: low to high; else low to low where b is at most `level`, and high to high above.

    *Rebounding* is ours: a straight line cannot see a loss that falls and rises again. It is taken from the losses
    themselves, and comes before Rho-1's class in `TokenTrajectories.kind`.

    *First learned* and *forgetting events* (Toneva et al. 2019, arXiv 1812.05159, section 3): an example is learned
    when it is classified correctly, here when the token is the most probable one; a forgetting event is a correct
    epoch followed by a wrong one. There the example is looked at when it is trained on, here after each epoch, and
    epoch 0 counts: what the starting model knew can be forgotten.

    All of it is chosen by this run's own losses, noise included: a token is called rebounding where its lowest loss was
    low by luck, too. `dynamics.analysis.estimands.trajectory_shares.class_shares` sets beside each class what the same
    tokens did in the other seeds.

    *Confidence, variability, correctness* (Swayamdipta et al. 2020, arXiv 2009.10795, section 2): mean and (population)
    standard deviation over the epochs of training of the probability of the true label, here of the token; share of
    epochs in which it is the prediction. Epoch 0 is no epoch of training and is left out of these three.

    Parameters
    ----------
    records : Records
        One split of a run.
    epochs : sequence of int, optional
        Rising; at least two. Default: all complete epochs of the run.
    level : float, optional
        Nats. Default: the mean over tokens of b, as in the paper. Give one number to compare arms or splits.

    Raises
    ------
    InputError
        For fewer than two epochs, epochs that do not rise, or records without a predicted token.
    """
    at = np.asarray(records.run.epochs if epochs is None else epochs, dtype=np.int64)
    if len(at) < 2 or (np.diff(at) <= 0).any():
        raise InputError(f"a trajectory needs two or more rising epochs; got {at.tolist()}")
    predicted = np.asarray(records.predicted, dtype=bool)
    where = np.flatnonzero(predicted)
    if not len(where):
        raise InputError("the records hold no predicted token; there is nothing to follow")
    state = _State(len(where))
    # An epoch that was cut lies at its passes over the data.
    passes = np.asarray([records.run.passes(int(epoch)) for epoch in at], dtype=np.float64)
    time = passes - passes.mean()
    for i, epoch in enumerate(at):
        loss = np.asarray(records.stored("loss", int(epoch))).reshape(-1)
        correct = np.asarray(records.correct(int(epoch))).reshape(-1)
        for begin in range(0, len(where), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            tokens = where[part]
            values = loss.take(tokens).astype(np.float32)
            # An infinite loss, of a run that diverged, has no line.
            with np.errstate(invalid="ignore"):
                state.add(part, i, int(epoch), float(time[i]), values, correct.take(tokens))
    with np.errstate(invalid="ignore"):
        return _finish(state, at, time, predicted, level)


def losses_at(records: TokenRecords, epoch_of: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the loss of every token in an epoch of its own.

    Parameters
    ----------
    records : Records
        One split of a run.
    epoch_of : ndarray of int32, shape (R, B)
        Recorded epochs; -1 for none.

    Returns
    -------
    ndarray of float32, shape (R, B)
        Nats; NaN where no epoch is asked for. Epochs are read one at a time.
    """
    losses = np.full(epoch_of.shape, np.nan, dtype=np.float32)
    for epoch in np.unique(epoch_of[epoch_of >= 0]):
        here = epoch_of == epoch
        losses[here] = np.asarray(records.stored("loss", int(epoch)))[here]
    return losses


class _State:
    """What is kept of each predicted token between epochs: sums in float64, the rest small."""

    def __init__(self, n: int) -> None:
        self.loss = np.zeros(n)  # sum of the losses
        self.loss_by_time = np.zeros(n)  # sum of the losses times the epoch, counted from the mean epoch
        self.p = np.zeros(n)
        self.p_squared = np.zeros(n)
        self.first = np.empty(n, dtype=np.float32)
        self.lowest = np.full(n, np.inf, dtype=np.float32)
        self.lowest_at = np.full(n, -1, dtype=np.int32)
        self.last = np.empty(n, dtype=np.float32)
        self.learned = np.full(n, -1, dtype=np.int32)
        self.forgetting = np.zeros(n, dtype=np.int32)
        self.n_correct = np.zeros(n, dtype=np.int32)
        self.was_correct = np.zeros(n, dtype=bool)

    def add(
        self,
        part: slice,
        i: int,
        epoch: int,
        time: float,
        loss: NDArray[np.float32],
        correct: NDArray[np.bool_],
    ) -> None:
        """Take in the i-th epoch of some tokens."""
        self.loss[part] += loss
        self.loss_by_time[part] += time * loss.astype(np.float64)
        if i == 0:
            self.first[part] = loss
        self.lowest_at[part][loss < self.lowest[part]] = epoch
        # minimum carries NaN on, so that a token that diverged once has no lowest loss.
        np.minimum(self.lowest[part], loss, out=self.lowest[part])
        self.last[part] = loss
        learned = self.learned[part]
        learned[correct & (learned < 0)] = epoch
        self.forgetting[part] += self.was_correct[part] & ~correct
        self.was_correct[part] = correct
        if epoch > 0:
            p = np.exp(-loss).astype(np.float64)
            self.p[part] += p
            self.p_squared[part] += p * p
            self.n_correct[part] += correct


def _finish(
    state: _State,
    epochs: NDArray[np.int64],
    time: NDArray[np.float64],
    predicted: NDArray[np.bool_],
    level: float | None,
) -> TokenTrajectories:
    mean = state.loss / len(epochs)
    slope = state.loss_by_time / (time @ time)
    fitted_first, fitted_last = mean + slope * time[0], mean + slope * time[-1]
    if level is None:
        finite = fitted_last[np.isfinite(fitted_last)]
        level = float(finite.mean()) if len(finite) else float("nan")
    change = fitted_last - fitted_first
    rho = np.where(fitted_last <= level, np.int8(LOW_TO_LOW), np.int8(HIGH_TO_HIGH))
    rho[change < -CHANGE] = HIGH_TO_LOW
    rho[change > CHANGE] = LOW_TO_HIGH
    rho[np.isnan(change)] = -1
    rebounding = (state.first - state.lowest > CHANGE) & (state.last - state.lowest > CHANGE)
    n_training = int((epochs > 0).sum())
    confidence = state.p / n_training
    # Rounding can bring a variance of 0 to slightly below.
    variance = np.maximum(state.p_squared / n_training - confidence**2, 0.0)

    def spread(values: NDArray[Any], nothing: Any, dtype: Any) -> NDArray[Any]:
        full = np.full(predicted.shape, nothing, dtype=dtype)
        full[predicted] = values
        return full

    return TokenTrajectories(
        epochs=epochs,
        level=level,
        rho_class=spread(rho, -1, np.int8),
        rebounding=spread(rebounding, False, np.bool_),
        first_loss=spread(state.first, np.nan, np.float32),
        lowest_loss=spread(state.lowest, np.nan, np.float32),
        last_loss=spread(state.last, np.nan, np.float32),
        lowest_epoch=spread(np.where(np.isnan(state.lowest), -1, state.lowest_at), -1, np.int32),
        line_change=spread(change, np.nan, np.float32),
        first_learned=spread(state.learned, -1, np.int32),
        forgetting=spread(state.forgetting, 0, np.int32),
        correctness=spread(state.n_correct / n_training, np.nan, np.float32),
        confidence=spread(confidence, np.nan, np.float32),
        variability=spread(np.sqrt(variance), np.nan, np.float32),
    )
