"""Recording and regularisers in your own training loop, without a Trainer: begin, batch, step, epoch, finish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.regularizers.base import Regularizer
from dynamics.training.batches.batch_reader import BatchReader
from dynamics.training.driving.batch_loss import current_values
from dynamics.training.driving.loop_start import (
    AsCausal,
    Batches,
    Logits,
    LoopTraining,
    gathered,
    plan_of,
    require_alike,
    resumption_of,
    settings_of,
    state_in,
)
from dynamics.training.head.causal import require_causal
from dynamics.training.head.fused_head import causal_model
from dynamics.training.loop.hiding import require_hidden
from dynamics.training.loop.methods import require_labels_suffice, training_data
from dynamics.training.loop.other_models import values_of_others
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.loop.training_loop import TrainingLoop, with_values
from dynamics.training.recording.run_writer import RunPlan
from dynamics.training.recording.run_writers import RunWriters
from dynamics.training.recording.token_recorder import TokenRecorder
from dynamics.training.resuming.loop_state import LoopState, write_loop_state


class LoopRecorder:
    """Records your own training loop, and applies regularisers in it.

    A batch is a mapping with ``input_ids`` and ``labels`` of shape (B, T): B batch rows, T positions. As for models of
    transformers, labels are not shifted, and are -100 where nothing is predicted. Call the methods in this order::

        with LoopRecorder(TokenRecorder("runs/mine"), EntroDrop(ratio=0.15)) as recorder:
            recorder.begin(model, train=loader, validation=held_out, total_steps=epochs * len(loader))
            for epoch in range(epochs):
                for batch in loader:
                    with recorder.batch(batch) as batch:
                        loss = model(**batch).loss
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    recorder.step()
                recorder.epoch()
            recorder.finish()

    Parameters
    ----------
    recorder : TokenRecorder
        What to record, and where.
    *regularizers : Regularizer
        Methods that need no loss or optimiser of their own (as for `attach`), and no second forward pass.

    Raises
    ------
    InputError
        A method cannot act in a loop that computes its own loss.
    """

    def __init__(self, recorder: TokenRecorder, *regularizers: Regularizer) -> None:
        if not isinstance(recorder, TokenRecorder):
            raise InputError(
                f"LoopRecorder: {recorder!r} is not a TokenRecorder; give the recorder first, then the regularisers"
            )
        for method in regularizers:
            if not isinstance(method, Regularizer):
                raise InputError(
                    f"LoopRecorder: {method!r} is not a regulariser; give instances of regularisers after the recorder"
                )
            require_labels_suffice(method, where="LoopRecorder", instead="DynamicsTrainer")
            if method.auxiliary_weight != 0.0:
                raise InputError(
                    f"LoopRecorder: {type(method).__name__} needs a second forward pass in each step, but here the "
                    "loop runs the forward passes itself; use attach on a Trainer, or DynamicsTrainer"
                )
        if recorder.training_pass:
            raise InputError(
                "LoopRecorder: training_pass=True records what the optimiser saw, but this loop does not provide it; "
                "use DynamicsTrainer"
            )
        self._recorder = recorder
        self._loop = TrainingLoop(regularizers)
        self._model: nn.Module | None = None
        self._dtype = torch.float32
        self._predicted: Any = None
        self._inside = False

    def __enter__(self) -> LoopRecorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def begin(
        self,
        model: nn.Module,
        *,
        train: Batches,
        validation: Batches | None = None,
        total_steps: int,
        tokenizer: Any = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        logits: Logits | None = None,
        embedding: nn.Module | None = None,
        pad_token_id: int | None = None,
        settings: Mapping[str, Any] | None = None,
        resume_from: str | Path | None = None,
    ) -> int:
        """Read the data once, record the model in its initial state, and add the regularisers' hooks to it.

        Parameters
        ----------
        model : Module
            The model as the loop calls it, on its device: prepared by accelerate or wrapped in DDP if you use them.
        train, validation : DataLoader, or iterable of batches
            For a DataLoader (accelerate's too), the whole data set is read in its own order; the sampler is not used.
            Any other iterable is iterated over once. It must yield all batches, in the same order on every rank and
            each time that training is resumed.
        total_steps : int
            Optimiser steps of the whole training. Curricula depend on it.
        tokenizer : PreTrainedTokenizerBase, optional
            Gives the text of the tokens.
        seed : int
            Seed of the masks.
        dtype : torch.dtype
            The autocast type of training. The recorded values are computed in the same type.
        logits : callable, optional
            For a model that is not called like a transformers model, for example
            ``lambda model, ids: model(ids, ids)[0]``.
        embedding : Module, optional
            The input embedding of such a model, for methods that act on it.
        pad_token_id : int, optional
            The token that pads rows, if batches have no attention mask.
        settings : mapping, optional
            How the loop trains (learning rates, batch sizes), for the run's config. A resumed run must have the same.
        resume_from : path, optional
            A folder that `save` has written.

        Returns
        -------
        int
            Optimiser steps that are already done: 0, or the step at which `save` was called.

        Raises
        ------
        InputError
            The output is not empty and no run is resumed; the output holds a different run; the data is not for a
            causal language model, or differs between ranks; or the model can see tokens that a method drops.
        """
        self.detach()
        self._model = None
        if total_steps < 1:
            raise InputError(
                f"LoopRecorder: total_steps is {total_steps}; give the number of optimiser steps of the whole training"
            )
        require_causal(model)
        resumed = None if resume_from is None else state_in(Path(resume_from), self._loop)
        if resumed is None:
            self._recorder.claim_output()
        training = LoopTraining(
            model=model if logits is None else AsCausal(model, logits),
            data=gathered(train, validation, tokenizer=tokenizer, pad_token_id=pad_token_id),
            tokenizer=tokenizer,
            dtype=dtype,
            settings=settings_of(settings, total_steps=total_steps, seed=seed),
        )
        require_alike(training.splits)
        plan = plan_of(self._recorder, self._loop, training, resumed)
        self._open(training, plan, embedding=embedding, pad_token_id=pad_token_id)
        self._go(training, plan, resumed)
        return self._loop.step

    @contextmanager
    def batch(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Apply the regularisers to the forward pass of a micro-batch.

        With activation checkpointing around the embedding, call `backward` inside this block too, because the backward
        pass computes the embedding again.

        Yields
        ------
        dict
            The batch to pass to the model: without ``sequence_id``, and with labels of -100 at tokens that are excluded
            from the loss.

        Raises
        ------
        InputError
            Called before `begin` or inside another `batch` block; the batch has no token ids or labels; or it is not
            yet on the model's device, where the regularisers act.
        """
        model = self._begun("batch")
        self._loop.begin_pass()
        known = self._loop.read(batch)
        here, there = known.predicted.device, next(model.parameters()).device
        if self._loop.methods.all and here.type != there.type:
            raise InputError(
                f"LoopRecorder: the batch is on {here} and the model on {there}; move the batch to the model's device "
                "before `with recorder.batch(...)`, because the regularisers act there"
            )
        left = {key: value for key, value in batch.items() if key != "sequence_id"}
        if self._loop.methods.needs_current_values:
            known = with_values(known, current_values(model, left, dtype=self._dtype, fused=False))
        self._inside = True
        try:
            with self._loop.armed(known):
                weight = self._loop.methods.token_weight(known)
                if weight is not None:
                    left["labels"] = left["labels"].masked_fill(weight == 0, IGNORE_INDEX)
                yield left
                self._loop.end_batch(known, None)
        finally:
            self._inside = False

    def step(self, *, learning_rate: float | None = None) -> None:
        """Record the end of an optimiser step. The learning rate is only written to the metrics.

        Raises
        ------
        InputError
            There was no batch since the last step; or an earlier batch held a sequence that is not in `train`.
        """
        self._begun("step")
        if not self._loop.metrics.has_batch:
            raise InputError(
                "LoopRecorder: step() without a batch since the last one; put each forward pass in a "
                "`with recorder.batch(...)` block, and call step() once after each optimiser step"
            )
        self._loop.end_step(epoch=self._loop.epoch, learning_rate=learning_rate)

    def epoch(self) -> None:
        """Record the model after a pass over the data.

        Raises
        ------
        InputError
            There was no batch since the last epoch.
        """
        model = self._begun("epoch")
        if not self._loop.under_way:
            raise InputError("LoopRecorder: epoch() without a batch since the last one; call it after each pass")
        self._loop.end_pass(model, passes=float(self._loop.epoch))

    def finish(self) -> None:
        """Complete the run. If a pass is unfinished, it is recorded as a partial one."""
        model = self._begun("finish")
        if self._loop.under_way:
            share = self._loop.share_visited(self._predicted)
            self._loop.end_pass(model, passes=self._loop.epoch - 1 + share)
        self.detach()
        self._loop.finish()
        self._model = None

    def save(self, folder: str | Path) -> None:
        """Save what a later `begin(resume_from=folder)` needs, next to your checkpoint. Every rank must call it.

        Raises
        ------
        InputError
            Called between a batch and its step.
        """
        self._begun("save")
        if self._loop.metrics.has_batch:
            raise InputError(
                "LoopRecorder: save() between a batch and its step(), so the step is incomplete; call it after step()"
            )
        write_loop_state(self._loop, Path(folder))

    def detach(self) -> None:
        """Remove all hooks from the model."""
        self._loop.methods.detach()

    def _open(
        self, training: LoopTraining, plan: RunPlan, *, embedding: nn.Module | None, pad_token_id: int | None
    ) -> None:
        """Give the methods the training set, and add their hooks to the model. Nothing is written yet."""
        loop, found, packed = self._loop, training.data["train"], training.splits["train"]
        loop.metrics = StepMetrics(self._recorder.metrics_path, losses=False)
        reader = BatchReader(found.keys, packed.token_id.shape[1], pad_token_id=pad_token_id)
        loop.open(reader, total_steps=training.total_steps)
        seed, tokenizer = training.settings["mask_seed"], training.tokenizer
        others = values_of_others(
            loop.methods.all, packed, tokenizer=tokenizer, device=plan.device, dtype=training.dtype
        )
        reference = plan.reference["train"]
        loop.methods.prepare(training_data(packed, reference, tokenizer=tokenizer, seed=seed, values_of=others))
        options = {} if embedding is None else {"embedding": embedding}
        loop.methods.attach(causal_model(training.model), **options)
        try:
            require_hidden(training.model, loop.methods, dtype=training.dtype)
        except BaseException:
            # The caller may not use `with`; then nothing else would remove the hooks.
            self.detach()
            raise

    def _go(self, training: LoopTraining, plan: RunPlan, resumed: LoopState | None) -> None:
        """Record the model in its initial state, or continue from a checkpoint."""
        loop, writer = self._loop, RunWriters(plan)
        resumption = None if resumed is None else resumption_of(plan, resumed)
        writer.begin(total_steps=training.total_steps, steps_per_epoch=None, resumption=resumption)
        loop.recording = writer
        self._model, self._dtype = training.model, training.dtype
        self._predicted = training.splits["train"].predicted
        if resumed is None:
            loop.begin_training(training.model)
        else:
            loop.load_state(resumed.facts, resumed.parts, resumed.tensors)
            loop.resume_by_visits(training.model, self._predicted)

    def _begun(self, call: str) -> nn.Module:
        """Return the model that is measured. Raise InputError if `call` is not allowed at this point."""
        if self._model is None:
            raise InputError(f"LoopRecorder: call begin() before {call}()")
        if self._inside:
            raise InputError(
                f"LoopRecorder: {call}() inside `with recorder.batch(...)`, where regularisers act; end the block first"
            )
        return self._model
