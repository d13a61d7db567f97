"""What goes on beside the steps of a training, whoever takes them.

A driver (a Trainer's callback, or a loop of one's own) says when a pass begins, which batch comes, and when a step and
a pass are done. Here methods are armed and asked, masks and metrics kept, and each pass handed on to what records it.
The host never waits for the device in between: what must be known of a step (is its loss finite, are its sequences
known) is looked at when it has arrived.
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
    """What writes down what a training does: `RunWriter`, or a test's own."""

    def epoch(self, model: torch.nn.Module, moment: Moment, seen: TrainingPass) -> TokenValues | None:
        """Record a moment; return the clean values of the training set as recorded, NaN where they are not."""

    def recorded(self, epoch: int) -> TokenValues | None:
        """Return what `epoch` returned when it recorded that epoch, where training goes on."""

    def finish(self) -> None:
        """Note that training is done."""


class TrainingLoop:
    """The regularisers, the metrics and the recording of one training.

    Parameters
    ----------
    regularizers : sequence of Regularizer
    metrics : StepMetrics, optional
        Receives a row per optimiser step.
    recording : Recording, optional
    training_pass : bool
        Keep what the optimiser saw of each token.
    on_batch : callable, optional
        Called with the number of rows of each micro-batch, for progress bars.
    stops : callable, optional
        Asked after each step whether to end training; then `Interrupted` is raised, in all processes.
    on_divergence : callable, optional
        Called with a step and its sequences (rows of the training set) once its loss is known to be NaN or infinite;
        expected to raise. Without, training goes on.

    Raises
    ------
    InputError
        Regularisers contradict each other, naming both.
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
        #: The pass over the data that is under way, or was last; whether it is under way; whether it was cut.
        self.epoch = 0
        self.under_way = False
        self._cut = False
        self.step = 0
        #: The optimiser steps that were done when the pass under way began.
        self.began = 0
        self.total_steps = 1

    def open(self, reader: BatchReader, *, total_steps: int) -> None:
        """Say which sequences there are, and how many optimiser steps there will be. Nothing has been trained."""
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
        """Begin a pass over the data, or go on with one that a checkpoint cut.

        Raises
        ------
        InputError
            The last one was cut, and recorded so: only the last epoch of a run can be.
        """
        assert self._tables is not None, "open() comes first"
        if not self.under_way:
            if self._cut and self.recording is not None:
                raise InputError(
                    f"something ended epoch {self.epoch} early (a callback's should_epoch_stop) and training goes on; "
                    "epochs that are recorded are whole, but for the last: end the training there, or let epochs end"
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
            Passes over the data so far, for the step's row of metrics.
        learning_rate : float, optional
            That the step used, where it is known.

        Raises
        ------
        InputError
            No batch was read in it, or an earlier one held an unknown sequence.
        Interrupted
            It was asked to stop.
        """
        if not self.metrics.has_batch:
            raise InputError(
                "a training step went by without compute_loss, where regularisers act and tokens are known; this "
                "trainer computes its loss elsewhere: use DynamicsTrainer, or a loop with a LoopRecorder"
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
        """Hand on a pass that came to its end, or was cut.

        Parameters
        ----------
        model : Module
            As the trainer runs it.
        passes : float
            Passes over the data so far.
        """
        assert self._tables is not None, "open() comes first"
        self._raise_on(self._check(self._checks.all()))
        seen = self._tables.whole(mean_loss=self.metrics.end_epoch())
        self.under_way, self._cut = False, passes != self.epoch
        self._hand_on(model, Moment(epoch=self.epoch, step=self.step, passes=passes), seen)

    def forget_pass(self) -> None:
        """Take back a pass that turned out to hold no batch: a resumed stream may end where the last one did."""
        assert not self.metrics.has_batch, "a pass with batches is handed on"
        self.epoch -= 1
        self.under_way = False

    def resume(self, model: torch.nn.Module, *, done: int, cut: bool) -> None:
        """Go on where `load_state` brought the loop.

        Parameters
        ----------
        model : Module
        done : int
            Passes that came to their end.
        cut : bool
            Whether another one is under way; else one that is not recorded yet is recorded now.
        """
        if self.under_way and not cut:
            self.end_pass(model, passes=float(done))
            return
        values = self.recording.recorded(done) if self.recording is not None else None
        self.methods.end_epoch(done, values)

    def resume_by_visits(self, model: torch.nn.Module, predicted: np.ndarray) -> None:
        """Go on, where nobody knows how long a pass is: one that has seen every sequence has come to its end.

        Parameters
        ----------
        model : Module
        predicted : ndarray of bool, shape (n_sequences, n_positions)
            Of the training set.
        """
        cut = self.under_way and self.share_visited(predicted) < 1.0
        self.resume(model, done=self.epoch - cut, cut=cut)

    def finish(self) -> None:
        """Say that training is done."""
        self.metrics.flush()
        if self.recording is not None:
            self.recording.finish()

    def share_visited(self, predicted: np.ndarray) -> float:
        """Return the share of the sequences with predicted tokens that the pass under way has seen."""
        assert self._tables is not None, "open() comes first"
        return self._tables.share_visited(predicted)

    # Batches. -----------------------------------------------------------------------------------

    def read(self, inputs: Mapping[str, Any]) -> Batch:
        """Return what a collated batch is to regularisers.

        Parameters
        ----------
        inputs : mapping
            As the collator made it; tensors of shape (B, T).
        """
        assert self._reader is not None, "open() comes first"
        progress = min(self.step / self.total_steps, 1.0)
        batch, unknown = self._reader.read(inputs, epoch=max(self.epoch, 1), progress=progress)
        self._unknown = unknown if self._unknown is None else self._unknown + unknown
        return batch

    @contextmanager
    def armed(self, batch: Batch) -> Iterator[None]:
        """Let regularisers act on a forward pass."""
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
        """Note a micro-batch: its share of the step's loss (where known), what was dropped, and what was seen.

        Parameters
        ----------
        batch : Batch
        loss_sum : Tensor, scalar, optional
            Of the first forward pass.
        values : TokenValues of tensors of shape (B, T), optional
            Of the first forward pass; where they are kept.
        auxiliary : Tensor, scalar, optional
            What second passes add to the loss.
        """
        assert self._tables is not None, "open() comes first"
        dropped = self.methods.dropped(batch)
        if self.keeps_training_pass:
            assert values is not None, "whoever keeps the training pass gives its values"
            self._tables.note(batch, dropped=dropped, loss=values.loss, entropy=values.entropy)
        else:
            self._tables.note(batch, dropped=dropped)
        self.metrics.add_batch(loss_sum=loss_sum, dropped=dropped, predicted=batch.predicted, auxiliary=auxiliary)
        if self._on_divergence is not None:
            self._rows.append(batch.sequence_id)
        if self._on_batch is not None:
            self._on_batch(len(batch.sequence_id))

    # What a checkpoint keeps. -------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what must be kept to go on from here: JSON values of the training, and arrays of this process."""
        assert self._tables is not None, "open() comes first"
        self.metrics.flush()
        # A pass that was cut goes on, if training does.
        under_way = self.under_way or self._cut
        facts = {
            "epoch": self.epoch,
            "under_way": under_way,
            "step": self.step,
            "began": self.began,
            # As text where one is NaN or infinite, which JSON cannot hold.
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
        """Take up what `state` returned, in one or more processes, and the tensors of the methods."""
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
        """Return the first of some steps whose loss is not finite, with its rows, if that matters; else None."""
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
    """Return `batch` with clean values of its tokens under the current weights, where there are any."""
    return batch if values is None else replace(batch, loss=values.loss, entropy=values.entropy)
