"""Writes the run of the trained model, and the runs of models measured next to it, as one `Recording`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.records.metrics import append_metrics, read_metrics
from dynamics.regularizers.base import Regularizer
from dynamics.training.environment.processes import on_rank_zero, rank
from dynamics.training.loop.clean_pass import TokenValues
from dynamics.training.loop.training_pass import Moment, TrainingPass
from dynamics.training.recording.run_writer import OnRecorded, RunPlan, RunWriter
from dynamics.training.resuming.beside import config_beside, facts_beside, methods_beside, output_beside
from dynamics.training.resuming.same import Resumption, allowed_changes, require_same_run


class RunWriters:
    """Writes the run of the trained model, and a run for each method that keeps a model of its own.

    Each epoch is recorded for the trained model first, then for the others, and the checkpoint comes last. If training
    is killed in between, it resumes before that epoch, and all runs record it again. The run of the trained model is
    completed last.

    Parameters
    ----------
    plan : RunPlan
        The plan of the trained model's run.
    on_recorded : callable, optional
        Called with the plan of each run. Returns the function to call after each of its epochs.
    completes : bool
        As for `RunWriter`.
    claimed : bool
        Whether the caller has already checked that all run directories may be written.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        on_recorded: Callable[[RunPlan], OnRecorded] | None = None,
        completes: bool = True,
        claimed: bool = False,
    ) -> None:
        self._completes, self._claimed = completes, claimed

        def writer(one: RunPlan) -> RunWriter:
            return RunWriter(one, on_recorded=on_recorded and on_recorded(one), completes=False)

        self._trained = writer(plan)
        self.beside = []
        for method in methods_beside(plan.regularizers):
            one = plan_beside(plan, method)
            self.beside.append(Beside(method, one, writer(one), StepCopies(plan.output, one.output)))

    def begin(self, *, total_steps: int, steps_per_epoch: int | None, resumption: Resumption | None) -> None:
        """Write what is known before training, for every run. Parameters as for `RunWriter.begin`.

        Raises
        ------
        InputError
            The directory of an additional run is not empty; or, when resuming, it holds another run or lacks epochs.
        """
        if not self._claimed:
            on_rank_zero(lambda: self._require_places(resumption))
        for writer in (self._trained, *(one.writer for one in self.beside)):
            writer.begin(total_steps=total_steps, steps_per_epoch=steps_per_epoch, resumption=resumption)

    def epoch(self, model: torch.nn.Module, moment: Moment, seen: TrainingPass) -> TokenValues:
        """Measure and write a moment of every run. Return the trained model's values as recorded."""
        values = self._trained.epoch(model, moment, seen)
        for one in self.beside:
            one.steps.follow()
            with one.method.averaged():
                one.writer.epoch(model, moment, seen)
        return values

    def recorded(self, epoch: int) -> TokenValues:
        """Return the trained model's values of the training set that were recorded at `epoch`."""
        for one in self.beside:
            one.writer.recorded(epoch)
        return self._trained.recorded(epoch)

    def diverged(self, step: int) -> None:
        """Note in every run that training ends because the loss at `step` is not finite."""
        for writer in (self._trained, *(one.writer for one in self.beside)):
            writer.diverged(step)

    def finish(self) -> None:
        """Note that training is done."""
        if self._completes:
            self.complete()

    def complete(self) -> None:
        """Write the manifests of complete runs."""
        for one in self.beside:
            one.steps.follow()
            one.writer.complete()
        # Last, because a run whose manifest says complete must have nothing left to do.
        self._trained.complete()

    def _require_places(self, resumption: Resumption | None) -> None:
        for one in self.beside:
            _require_place(one.method, one.plan, resumption)


class Beside(NamedTuple):
    """A method that keeps a model of its own, and the run of that model."""

    method: Regularizer
    plan: RunPlan
    writer: RunWriter
    steps: StepCopies


def _require_place(method: Regularizer, plan: RunPlan, resumption: Resumption | None) -> None:
    """Raise InputError unless the run of a method's model can begin, or resume, in its directory."""
    output = plan.output
    what = f"{type(method).__name__}: {output}, where the averaged model is recorded,"
    if resumption is None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"{what} is not empty; remove it, or name another directory for the run")
        return
    remedy = "resume with both runs in their places, or start from the beginning in a new directory"
    if not (output / schema.MANIFEST_FILE).is_file():
        raise InputError(f"{what} holds no run; {remedy}")
    run = require_same_run(output, plan.splits, what=what)
    allowed_changes(run.config, plan.config, common_only=True, what=what, remedy=remedy)
    if resumption.epoch not in run.epochs:
        raise InputError(f"{what} has no epoch {resumption.epoch}, after which training resumes; {remedy}")


class StepCopies:
    """Copies the rows about steps in a run's metrics to another run that shares these steps.

    Parameters
    ----------
    source, target : Path
        The runs.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source / schema.METRICS_FILE, target / schema.METRICS_FILE
        # Bytes of the source that were read (it grows during training), and the last step that was copied.
        self._at = 0
        self._last: int | None = None

    def follow(self) -> None:
        """Copy the new rows: those of later steps than the last one in the target."""
        if rank() != 0 or not self._source.exists():
            return
        if self._last is None:
            done = read_metrics(self._target, running=True)
            self._last = max((row["step"] for row in done if _is_step(row)), default=0)
        with open(self._source, "rb") as file:
            file.seek(self._at)
            rows = [row for line in file if _is_step(row := json.loads(line)) and row["step"] > self._last]
            self._at = file.tell()
        if rows:
            append_metrics(self._target, rows)
            self._last = rows[-1]["step"]


def plan_beside(plan: RunPlan, method: Regularizer) -> RunPlan:
    """Return the plan of the run of a method's model: that of the trained model, with another folder and name."""
    return replace(
        plan,
        output=output_beside(plan.output, method),
        name=f"{plan.name}+{method.beside}",
        config=config_beside(plan.config, method),
        facts={**plan.facts, **facts_beside(plan.output, plan.name, method)},
        beside=method.beside,
    )


def _is_step(row: dict[str, Any]) -> bool:
    # Other rows are about an epoch: the loss measured for tuning.
    return "learning_rate" in row
