"""The loop's side of a training: everything around the optimiser steps, whoever runs them.

A driver (a Trainer's callback, or your own loop) tells this loop when a pass begins, which batch comes, and when a step
or a pass ends. The loop activates methods, keeps masks and metrics, and passes each finished epoch on to the recording.
The host does not wait for the device in between: facts about a step (is its loss finite, are its sequences known) are
checked when they have arrived.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from dynamics.errors import InputError
from dynamics.regularizers.base import Batch, Regularizer
from dynamics.training.batches.batch_reader import BatchReader, unknown_rows_message
from dynamics.training.environment.interrupts import Interrupted
from dynamics.training.environment.processes import highest_of_ranks
from dynamics.training.loop.clean_pass import TokenValues
from dynamics.training.loop.landing import Landing
from dynamics.training.loop.methods import Methods
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.loop.training_pass import Moment, PassTables, TrainingPass

_STOP, _DIVERGED = 1, 2


class Recording(Protocol):
    """Writes the records of a training: `RunWriter`, or a replacement in tests."""

    def epoch(self, model: torch.nn.Module, moment: Moment, seen: TrainingPass) -> TokenValues | None:
        """Record a moment. Return the recorded clean values of the training set, NaN where there are none."""

    def recorded(self, epoch: int) -> TokenValues | None:
        """When training resumes, return what `epoch` returned for that epoch."""

    def finish(self) -> None:
        """Note that training is done."""


class TrainingLoop:
    """The regularisers, the metrics and the recording of one training.

    Parameters
    ----------
    regularizers : sequence of Regularizer
    metrics : StepMetrics, optional
        Gets a row per optimiser step.
    recording : Recording, optional
    training_pass : bool
        Keep the values that the optimiser saw of each token.
    on_batch : callable, optional
        Called with the number of rows of each micro-batch, for progress bars.
    stops : callable, optional
        Called after each step. If it returns true, training ends with `Interrupted`, on all ranks.
    on_divergence : callable, optional
        Called with a step and its sequences (rows of the training set) once its loss is known to be NaN or infinite.
        It should raise an error. Without it, training continues.

    Raises
    ------
    InputError
        Two regularisers contradict each other. The message names both.
    """

    def __init__(
        self,
        regularizers: Sequence[Regularizer] = (),
        *,
        metrics: StepMetrics | None = None,
        recording: Recording | None = None,
        training_pass: bool = False,
        on_batch: Callable[[int], None] | None = None,
        stops: Callable[[], bool] | None = None,
        on_divergence: Callable[[int, list[int]], None] | None = None,
    ) -> None:
        self.methods = Methods(regularizers)
        self.metrics = metrics if metrics is not None else StepMetrics(None)
        self.recording = recording
        self.keeps_training_pass = training_pass
        self._on_batch = on_batch
        self._stops = stops
        self._on_divergence = on_divergence
        self._reader: BatchReader | None = None
        self._tables: PassTables | None = None
        self._unknown: torch.Tensor | None = None
        self._rows: list[torch.Tensor] = []
        self._checks: Landing[tuple[int, list[torch.Tensor]]] = Landing()
        #: The current or last pass over the data; whether it is in progress; whether it was cut short.
        self.epoch = 0
        self.under_way = False
        self._cut = False
        self.step = 0
        #: Optimiser steps done before the current pass.
        self.began = 0
        self.total_steps = 1

    def open(self, reader: BatchReader, *, total_steps: int) -> None:
        """Set the sequences and the number of optimiser steps. Nothing has been trained yet."""
        self._reader = reader
        self._tables = PassTables(reader.shape, dropped=self.methods.drop, values=self.keeps_training_pass)
        self.total_steps = total_steps
        self.epoch, self.step, self.began, self.under_way, self._cut = 0, 0, 0, False, False
        self._unknown, self._rows, self._checks = None, [], Landing()
        self.metrics.losses = []

    # Passes and steps. --------------------------------------------------------------------------

    def begin_training(self, model: torch.nn.Module) -> None:
        """Record the model before training."""
        assert self._tables is not None, "open() comes first"
        seen = TrainingPass(dropped=self._tables.whole(mean_loss=None).dropped)
        self._hand_on(model, Moment(epoch=0, step=0, passes=0.0), seen)

    def begin_pass(self) -> None:
        """Begin a pass over the data, or continue one that a checkpoint interrupted.

        Raises
        ------
        InputError
            The last pass was cut short and recorded. Only the last epoch of a run may be cut short.
        """
        assert self._tables is not None, "open() comes first"
        if not self.under_way:
            if self._cut and self.recording is not None:
                raise InputError(
                    f"something ended epoch {self.epoch} early (a callback's should_epoch_stop) and training goes on; "
                    "only the last recorded epoch may be partial: end the training there, or let epochs finish"
                )
            self.epoch += 1
            self.began = self.step
            self._tables.clear()
            self.under_way, self._cut = True, False

    def end_step(self, *, epoch: float, learning_rate: float | None) -> None:
        """Finish an optimiser step.

        Parameters
        ----------
        epoch : float
            Passes over the data so far, for the metrics.
        learning_rate : float, optional
            The learning rate of the step, if known.

        Raises
        ------
        InputError
            No batch was read in the step, or an earlier batch held an unknown sequence.
        Interrupted
            The loop was asked to stop.
        """
        if not self.metrics.has_batch:
            raise InputError(
                "a training step did not call compute_loss, where regularisers act and tokens are identified; this "
                "trainer computes its loss elsewhere: use DynamicsTrainer, or your own loop with a LoopRecorder"
            )
        assert self._unknown is not None
        progress = self.step / self.total_steps
        self.step += 1
        finite = torch.isfinite(self.metrics.loss_of_step())
        self._checks.send((self.step, self._rows), torch.stack([self._unknown, (~finite).long()]))
        self._unknown, self._rows = None, []
        self.metrics.end_step(
            {
                "step": self.step,
                "epoch": epoch,
                "learning_rate": learning_rate,
                "ratio": self.methods.ratio(min(progress, 1.0)),
            }
        )
        self.methods.end_step()
        diverged = self._check(self._checks.arrived())
        if self._stops is not None:
            code = _DIVERGED if diverged is not None else _STOP if self._stops() else 0
            code = highest_of_ranks(code)
            if code == _STOP:
                self._raise_on(self._check(self._checks.all()))
                self.metrics.flush()
                raise Interrupted
            if code == _DIVERGED and diverged is None:
                diverged = (self.step, [])
        self._raise_on(diverged)

    def end_pass(self, model: torch.nn.Module, *, passes: float) -> None:
        """Record a pass that is finished or was cut short.

        Parameters
        ----------
        model : Module
            The model as the trainer runs it.
        passes : float
            Passes over the data so far.
        """
        assert self._tables is not None, "open() comes first"
        self._raise_on(self._check(self._checks.all()))
        seen = self._tables.whole(mean_loss=self.metrics.end_epoch())
        self.under_way, self._cut = False, passes != self.epoch
        self._hand_on(model, Moment(epoch=self.epoch, step=self.step, passes=passes), seen)

    def forget_pass(self) -> None:
        """Undo the start of a pass that turned out to have no batch: a resumed stream may already be at its end."""
        assert not self.metrics.has_batch, "a pass with batches is handed on"
        self.epoch -= 1
        self.under_way = False

    def resume(self, model: torch.nn.Module, *, done: int, cut: bool) -> None:
        """Resume from the point that `load_state` restored.

        Parameters
        ----------
        model : Module
        done : int
            Number of finished passes.
        cut : bool
            Whether another pass is in progress. If not, the last pass is recorded now, unless it already is.
        """
        if self.under_way and not cut:
            self.end_pass(model, passes=float(done))
            return
        values = self.recording.recorded(done) if self.recording is not None else None
        self.methods.end_epoch(done, values)

    def resume_by_visits(self, model: torch.nn.Module, predicted: np.ndarray) -> None:
        """Resume when the length of a pass is unknown: a pass that has visited every sequence counts as finished.

        Parameters
        ----------
        model : Module
        predicted : ndarray of bool, shape (S, P)
            The training set's predicted tokens.
        """
        cut = self.under_way and self.share_visited(predicted) < 1.0
        self.resume(model, done=self.epoch - cut, cut=cut)

    def finish(self) -> None:
        """Note that training is done."""
        self.metrics.flush()
        if self.recording is not None:
            self.recording.finish()

    def share_visited(self, predicted: np.ndarray) -> float:
        """Return the share of the sequences with predicted tokens that the current pass has visited."""
        assert self._tables is not None, "open() comes first"
        return self._tables.share_visited(predicted)

    # Batches. -----------------------------------------------------------------------------------

    def read(self, inputs: Mapping[str, Any]) -> Batch:
        """Return a collated batch in the form that regularisers get.

        Parameters
        ----------
        inputs : mapping
            The collator's output; tensors of shape (B, T).
        """
        assert self._reader is not None, "open() comes first"
        progress = min(self.step / self.total_steps, 1.0)
        batch, unknown = self._reader.read(inputs, epoch=max(self.epoch, 1), progress=progress)
        self._unknown = unknown if self._unknown is None else self._unknown + unknown
        return batch

    @contextmanager
    def armed(self, batch: Batch) -> Iterator[None]:
        """Activate the regularisers during a forward pass."""
        with self.methods.armed(batch):
            yield

    def end_batch(
        self,
        batch: Batch,
        loss_sum: torch.Tensor | None,
        values: TokenValues | None = None,
        *,
        auxiliary: torch.Tensor | None = None,
    ) -> None:
        """Note a micro-batch: its part of the step's loss (if known), its dropped tokens, and the values seen.

        Parameters
        ----------
        batch : Batch
        loss_sum : Tensor, scalar, optional
            The loss of the first forward pass.
        values : TokenValues of tensors of shape (B, T), optional
            The values of the first forward pass, if they are kept.
        auxiliary : Tensor, scalar, optional
            What second forward passes add to the loss.
        """
        assert self._tables is not None, "open() comes first"
        dropped = self.methods.dropped(batch)
        if self.keeps_training_pass:
            assert values is not None, "a training pass is kept, so its values must be given"
            self._tables.note(batch, dropped=dropped, loss=values.loss, entropy=values.entropy)
        else:
            self._tables.note(batch, dropped=dropped)
        self.metrics.add_batch(loss_sum=loss_sum, dropped=dropped, predicted=batch.predicted, auxiliary=auxiliary)
        if self._on_divergence is not None:
            self._rows.append(batch.sequence_id)
        if self._on_batch is not None:
            self._on_batch(len(batch.sequence_id))

    # The state in a checkpoint. -----------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the state needed to resume from here: JSON values of the training, and arrays of this rank."""
        assert self._tables is not None, "open() comes first"
        self.metrics.flush()
        # A pass that was cut short continues if training does.
        under_way = self.under_way or self._cut
        facts = {
            "epoch": self.epoch,
            "under_way": under_way,
            "step": self.step,
            "began": self.began,
            # NaN and infinity are written as text, because JSON cannot hold them.
            "losses": [loss if math.isfinite(loss) else str(loss) for loss in self.metrics.losses],
            "methods": self.methods.state(),
        }
        return facts, self._tables.state() if under_way else {}

    def load_state(
        self,
        facts: Mapping[str, Any],
        parts: list[Mapping[str, np.ndarray]],
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
    ) -> None:
        """Restore what `state` returned on one or more ranks, and the tensors of the methods."""
        assert self._tables is not None, "open() comes first"
        self.epoch, self.step = facts["epoch"], facts["step"]
        self.began = facts.get("began", self.step)
        self.under_way = facts["under_way"]
        self.metrics.losses = [float(loss) for loss in facts["losses"]]
        self._tables.load_state(parts)
        self.methods.load_state(facts["methods"], tensors)

    # ---------------------------------------------------------------------------------------------

    def _hand_on(self, model: torch.nn.Module, moment: Moment, seen: TrainingPass) -> None:
        values = None
        if self.recording is not None:
            values = self.recording.epoch(model, moment, seen)
        self.methods.end_epoch(moment.epoch, values)
        self.metrics.restart_clock()

    def _check(self, landed: list[tuple[tuple[int, list[torch.Tensor]], np.ndarray]]) -> Any:
        """Return the first step with a non-finite loss, and its rows; None if there is none, or training may go on."""
        for (step, rows), (unknown, not_finite) in landed:
            if unknown:
                raise InputError(unknown_rows_message(int(unknown)))
            if not_finite and self._on_divergence is not None:
                return step, rows
        return None

    def _raise_on(self, diverged: Any) -> None:
        if diverged is None:
            return
        step, rows = diverged
        self.metrics.flush()
        assert self._on_divergence is not None
        numbers = torch.unique(torch.cat([row.flatten() for row in rows])).tolist() if rows else []
        self._on_divergence(step, numbers)


def with_values(batch: Batch, values: TokenValues | None) -> Batch:
    """Return `batch` with clean values of its tokens under the current weights, if given."""
    return batch if values is None else replace(batch, loss=values.loss, entropy=values.entropy)
