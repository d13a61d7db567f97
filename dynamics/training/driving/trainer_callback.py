"""Turns a Trainer's events into the passes and steps of the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from dynamics.errors import InputError
from dynamics.training.batches.sequence_dataset import KeyedOrder
from dynamics.training.driving.trainer_data import examples_per_step
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.head.fused_head import fused_head
from dynamics.training.loop.hiding import require_hidden
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.resuming.loop_state import LoopState, read_loop_state, write_loop_state

#: Called when training begins, to open the loop and its recording. Gets the state of a resumed checkpoint, or None.
Start = Callable[[Trainer, LoopState | None], None]


def checkpoint_folder(trainer: Trainer, resume_from_checkpoint: str | bool | None) -> Path | None:
    """Return the folder from which `Trainer.train` will resume, or None."""
    folder: Any = resume_from_checkpoint
    if folder is True:
        folder = cast(Any, get_last_checkpoint)(trainer.args.output_dir)
    return Path(str(folder)) if folder else None


class LoopCallback(TrainerCallback):
    """Drives a `TrainingLoop` from a Trainer's events.

    Parameters
    ----------
    loop : TrainingLoop
    start : callable, optional
        See `Start`. Without it, the loop must be open already.
    fused : bool
        Let the model answer a `HeadRequest` during training.
    saves : bool
        Write the loop's state into the trainer's checkpoints when they exist. If false, the trainer does this itself.
    """

    def __init__(
        self, loop: TrainingLoop, *, start: Start | None = None, fused: bool = False, saves: bool = True
    ) -> None:
        self.loop = loop
        self._start = start
        self._wants_fused = fused
        self.saves = saves
        self._trainer: Any = None
        self._patches = ExitStack()
        self._learning_rate = 0.0
        self._n_batches: int | None = None
        self._steps_before_epoch = 0
        self._goes_on = False
        #: Whether the model can answer a `HeadRequest` at the moment.
        self.fused = False
        #: The checkpoint from which the next training resumes.
        self.resumes_from: Path | None = None
        #: The order of the training set, if the trainer keys it by epoch; and which tokens are predicted.
        self.order: KeyedOrder | None = None
        self.predicted: np.ndarray | None = None

    def bind(self, trainer: Trainer) -> None:
        """Set the trainer that this callback belongs to."""
        self._trainer = trainer

    def require_resumable(self, resumed: LoopState) -> None:
        """Raise InputError if the Trainer cannot resume: inside a pass over a stream, unless it is the first pass.

        Called when `predicted` is known, and before anything is written.
        """
        facts, steps = resumed.facts, self.steps_per_pass
        # A checkpoint at the last step of a pass is written before the Trainer knows that the pass is over.
        if steps is not None:
            within = facts["step"] % steps > 0
        else:
            within = bool(facts["under_way"]) and (
                self.predicted is None or resumed.share_visited(self.predicted) < 1.0
            )
        if within and self._trainer.args.ignore_data_skip:
            raise InputError(
                f"args.ignore_data_skip is True, but the checkpoint of step {facts['step']} is within pass "
                f"{facts['epoch']}: the pass would start again, and see some sequences twice; set it to False, or "
                "resume from a checkpoint at the end of a pass"
            )
        if steps is not None and within and facts["epoch"] > 1 and self._order_is_drawn():
            raise InputError(
                f"the checkpoint of step {facts['step']} is within pass {facts['epoch']}, and the order of the pass "
                "(group_by_length, or a sampler without a seed) changes when training resumes, so some sequences "
                "would be seen twice; resume from a checkpoint at the end of a pass"
            )
        if steps is None and within and facts["epoch"] > 1:
            raise InputError(
                f"the checkpoint of step {facts['step']} is within pass {facts['epoch']} of a data set without a "
                "length, where the Trainer can only resume within the first pass; resume from a checkpoint at the end "
                "of a pass, or give the data set a length"
            )

    def _order_is_drawn(self) -> bool:
        """Whether the order of a pass depends on the global generator, whose state is different after resuming."""
        args = self._trainer.args
        if args.train_sampling_strategy != "random":
            return bool(args.train_sampling_strategy == "group_by_length")
        return self.order is None and not getattr(args.accelerator_config, "use_seedable_sampler", True)

    def detach(self) -> None:
        """Remove all hooks and patches from the model."""
        self.loop.methods.detach()
        self._patches.close()
        self.fused = False

    @property
    def steps_per_pass(self) -> int | None:
        """Optimiser steps in one pass over the data; None if the data set has no length."""
        return None if self._n_batches is None else self._steps_per_pass(self._n_batches)

    # The Trainer's events. ----------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the loop, add the hooks, and record the initial model or resume from a checkpoint."""
        trainer = self._trainer
        assert trainer is not None, "bind() comes first"
        self.detach()
        self._n_batches = _length(kwargs["train_dataloader"])
        resumed = self._resumed(state)
        if self._start is not None:
            self._start(trainer, resumed)
        self.loop.total_steps = state.max_steps
        model = trainer.model_wrapped
        if self._wants_fused:
            self.fused = self._patches.enter_context(fused_head(model, dtype=forward_dtype(args)))
        # NEFTune has added its hooks already, so masks act after its noise.
        self.loop.methods.attach(trainer.accelerator.unwrap_model(trainer.model))
        require_hidden(model, self.loop.methods, dtype=forward_dtype(args))
        if resumed is None:
            self.loop.begin_training(model)
            return
        self.loop.load_state(resumed.facts, resumed.parts, resumed.tensors)
        if self._n_batches is None:
            assert self.predicted is not None, "the start has read the training set"
            self.loop.resume_by_visits(model, self.predicted)
        else:
            done, within = divmod(state.global_step, self._steps_per_pass(self._n_batches))
            self.loop.resume(model, done=done, cut=within > 0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a pass, or continue the one that the checkpoint interrupted."""
        self._goes_on = self.loop.under_way
        self.loop.begin_pass()
        self._steps_before_epoch = state.global_step
        if self.order is not None:
            # Set here, because the wrappers that several ranks put around a sampler do not pass the epoch on.
            self.order.set_epoch(self.loop.epoch - 1)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate of this step before the scheduler changes it."""
        self._learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Finish the step."""
        self.loop.end_step(epoch=self._passes(state), learning_rate=self._learning_rate)
        assert self.loop.step == state.global_step, "one step at a time"

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the pass, which is finished or cut short by the end of training."""
        empty = self._n_batches is None and state.global_step == self._steps_before_epoch
        if empty and not self._goes_on:
            self.loop.forget_pass()
            return
        passes = self._passes(state)
        if empty:
            # Nothing was left of the pass of the checkpoint, so it is finished.
            passes = float(self.loop.epoch)
        elif self._n_batches is None:
            share = self.loop.share_visited(self.predicted) if self.predicted is not None else 1.0
            stopped = control.should_training_stop or control.should_epoch_stop
            passes = float(self.loop.epoch) if share == 1.0 or not stopped else self.loop.epoch - 1 + share
        elif self._goes_on and passes == self.loop.epoch:
            self._require_every_sequence()
        self.loop.end_pass(self._trainer.model_wrapped, passes=passes)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the loop's state in the trainer's checkpoint."""
        if self.saves:
            folder = Path(self._trainer._get_output_dir(trial=None)) / f"checkpoint-{state.global_step}"
            write_loop_state(self.loop, folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the model, and note that training is done."""
        self.detach()
        self.loop.finish()

    # ---------------------------------------------------------------------------------------------

    def _require_every_sequence(self) -> None:
        """Raise InputError if a resumed pass is not the rest of the pass that the checkpoint interrupted."""
        if self.predicted is None or self._trainer.args.dataloader_drop_last:
            return
        if self.loop.share_visited(self.predicted) < 1.0:
            raise InputError(
                f"pass {self.loop.epoch}, which was resumed, ended without some of the sequences: its order is not "
                "that of the interrupted pass, so other sequences came twice; use a sampler whose order depends only "
                "on seed and epoch, or resume from a checkpoint at the end of a pass"
            )

    def _steps_per_pass(self, n_batches: int) -> int:
        accumulation: int = self._trainer.args.gradient_accumulation_steps
        return max(1, math.ceil(n_batches / accumulation))

    def _passes(self, state: TrainerState) -> float:
        """Return the number of passes over the data so far, according to the steps."""
        if self._n_batches is not None:
            return float(state.epoch or 0.0)
        # For a stream, the Trainer does not know the length, but the loop knows the sequences.
        if self.predicted is None or not self.loop.under_way:
            return float(self.loop.epoch)
        expected = -(-len(self.predicted) // examples_per_step(self._trainer))
        within = (state.global_step - self.loop.began) / expected
        return self.loop.epoch - 1 + min(1.0, within)

    def _resumed(self, state: TrainerState) -> LoopState | None:
        folder, self.resumes_from = self.resumes_from, None
        if state.global_step == 0:
            return None
        if folder is None:
            folder = Path(self._trainer._get_output_dir(trial=None)) / f"checkpoint-{state.global_step}"
        stateful = any(method.state() for method in self.loop.methods.all)
        return read_loop_state(folder, step=state.global_step, epoch=float(state.epoch or 0.0), stateful=stateful)


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
