"""When the Trainer calls: its events, turned into the loop's passes and steps."""

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

#: Called when training begins: opens the loop, and what records it. Gets the state of the checkpoint that is resumed.
Start = Callable[[Trainer, LoopState | None], None]


def checkpoint_folder(trainer: Trainer, resume_from_checkpoint: str | bool | None) -> Path | None:
    """Return the folder that `Trainer.train` will resume from, if it will."""
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
        See `Start`; without, the loop is open already.
    fused : bool
        Let the model answer a `HeadRequest` for the length of training.
    saves : bool
        Write the loop's state into the trainer's checkpoints once they are there; else the trainer does so itself.
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
        #: Whether the model answers a `HeadRequest` now.
        self.fused = False
        #: The checkpoint that the training about to begin resumes from.
        self.resumes_from: Path | None = None
        #: The order of the training set, where the trainer keys it by epoch; and which of its tokens are predicted.
        self.order: KeyedOrder | None = None
        self.predicted: np.ndarray | None = None

    def bind(self, trainer: Trainer) -> None:
        """Say whose callback this is."""
        self._trainer = trainer

    def require_resumable(self, resumed: LoopState) -> None:
        """Raise InputError where the Trainer could not go on: within a pass of a stream that is not the first.

        `predicted` is known, and nothing is written yet.
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
                f"args.ignore_data_skip is True, and the checkpoint of step {facts['step']} lies within pass "
                f"{facts['epoch']}: the pass would begin again, and see some sequences twice; set it to False, or "
                "resume from a checkpoint at the end of a pass"
            )
        if steps is not None and within and facts["epoch"] > 1 and self._order_is_drawn():
            raise InputError(
                f"the checkpoint of step {facts['step']} lies within pass {facts['epoch']}, and the order of a pass "
                "(group_by_length, or no seedable sampler) is drawn anew when training is resumed, so that some "
                "sequences would be seen twice; resume from a checkpoint at the end of a pass"
            )
        if steps is None and within and facts["epoch"] > 1:
            raise InputError(
                f"the checkpoint of step {facts['step']} lies within pass {facts['epoch']} of a data set without a "
                "length, and the Trainer can go on within the first pass alone; resume from a checkpoint at the end of "
                "a pass, or give the data set a length"
            )

    def _order_is_drawn(self) -> bool:
        """Whether the order of a pass hangs on the global generator, which is another where training is resumed."""
        args = self._trainer.args
        if args.train_sampling_strategy != "random":
            return bool(args.train_sampling_strategy == "group_by_length")
        return self.order is None and not getattr(args.accelerator_config, "use_seedable_sampler", True)

    def detach(self) -> None:
        """Take every hook and patch off the model."""
        self.loop.methods.detach()
        self._patches.close()
        self.fused = False

    @property
    def steps_per_pass(self) -> int | None:
        """Optimiser steps in one pass over the data, where the data set has a length."""
        return None if self._n_batches is None else self._steps_per_pass(self._n_batches)

    # What the Trainer calls. --------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the loop, put hooks on the model, and record it as it is, or go on where a checkpoint was."""
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
        # NEFTune's hooks are there already, so that masks act after its noise.
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
        """Begin a pass, or go on with one that the checkpoint cut."""
        self._goes_on = self.loop.under_way
        self.loop.begin_pass()
        self._steps_before_epoch = state.global_step
        if self.order is not None:
            # Set here, since what several processes wrap around a sampler does not hand the epoch on.
            self.order.set_epoch(self.loop.epoch - 1)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the rate that this step used, before the scheduler moves on."""
        self._learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Finish the step."""
        self.loop.end_step(epoch=self._passes(state), learning_rate=self._learning_rate)
        assert self.loop.step == state.global_step, "one step at a time"

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hand on the pass: whole, or cut where training stops within it."""
        empty = self._n_batches is None and state.global_step == self._steps_before_epoch
        if empty and not self._goes_on:
            self.loop.forget_pass()
            return
        passes = self._passes(state)
        if empty:
            # Of the pass that the checkpoint lies in, nothing was left: it has come to its end.
            passes = float(self.loop.epoch)
        elif self._n_batches is None:
            share = self.loop.share_visited(self.predicted) if self.predicted is not None else 1.0
            stopped = control.should_training_stop or control.should_epoch_stop
            passes = float(self.loop.epoch) if share == 1.0 or not stopped else self.loop.epoch - 1 + share
        elif self._goes_on and passes == self.loop.epoch:
            self._require_every_sequence()
        self.loop.end_pass(self._trainer.model_wrapped, passes=passes)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the loop's state beside the trainer's."""
        if self.saves:
            folder = Path(self._trainer._get_output_dir(trial=None)) / f"checkpoint-{state.global_step}"
            write_loop_state(self.loop, folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was found, and say that training is done."""
        self.detach()
        self.loop.finish()

    # ---------------------------------------------------------------------------------------------

    def _require_every_sequence(self) -> None:
        """Raise InputError if a pass that was resumed is not the rest of the one that the checkpoint cut."""
        if self.predicted is None or self._trainer.args.dataloader_drop_last:
            return
        if self.loop.share_visited(self.predicted) < 1.0:
            raise InputError(
                f"pass {self.loop.epoch}, which was resumed, came to its end without some of the sequences: its order "
                "is not that of the pass that the checkpoint cut, so that others came twice; use a sampler whose order "
                "depends on seed and epoch alone, or resume from a checkpoint at the end of a pass"
            )

    def _steps_per_pass(self, n_batches: int) -> int:
        accumulation: int = self._trainer.args.gradient_accumulation_steps
        return max(1, math.ceil(n_batches / accumulation))

    def _passes(self, state: TrainerState) -> float:
        """Return how many passes over the data have been made, as far as steps tell."""
        if self._n_batches is not None:
            return float(state.epoch or 0.0)
        # Of a stream the Trainer does not know the length; the loop knows its sequences.
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
