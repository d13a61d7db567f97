"""Recording and regularisers in a training loop of one's own, with no Trainer: begin, batch, step, epoch, finish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.regularizers.base import Regularizer
from dynamics.training.batches.batch_reader import BatchReader
from dynamics.training.batches.dataset_sequences import ending, gather_sequences
from dynamics.training.driving.batch_loss import current_values
from dynamics.training.environment.generators import isolated_rng
from dynamics.training.head.causal import require_causal
from dynamics.training.head.fused_head import causal_model
from dynamics.training.loop.methods import require_labels_suffice, training_data
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.loop.training_loop import TrainingLoop, with_values
from dynamics.training.recording.epoch_recorder import measure_all
from dynamics.training.recording.run_writer import RunPlan, RunWriter, reference_of_run
from dynamics.training.recording.token_recorder import TokenRecorder
from dynamics.training.resuming.loop_state import LoopState, read_loop_state, write_loop_state
from dynamics.training.resuming.same import Resumption, allowed_changes, require_same_run

log = logging.getLogger(__name__)

Batches = Iterable[Mapping[str, Any]]
#: From a model and a batch's ``input_ids``, shape (B, T), to logits of shape (B, T, V).
Logits = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class LoopRecorder:
    """Records a training loop of one's own, and lets regularisers act in it.

    A batch is a mapping with ``input_ids`` and ``labels`` of shape (B, T), labels unshifted and -100 where nothing is
    predicted, as transformers' models take them. The calls, in their order::

        with LoopRecorder(TokenRecorder("runs/mine"), EntroDrop(ratio=0.15)) as recorder:
            recorder.begin(model, train=batches, validation=held_out, total_steps=epochs * len(batches))
            for epoch in range(epochs):
                for batch in shuffled(batches):
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
        What is recorded, and where.
    *regularizers : Regularizer
        Those that need no loss and no optimiser of their own, as for `attach`.

    Raises
    ------
    InputError
        A method cannot act in a loop that computes its own loss.
    """

    def __init__(self, recorder: TokenRecorder, *regularizers: Regularizer) -> None:
        if not isinstance(recorder, TokenRecorder):
            raise InputError(f"LoopRecorder: {recorder!r} is no TokenRecorder; give one first, then regularisers")
        for method in regularizers:
            require_labels_suffice(method, where="LoopRecorder", instead="DynamicsTrainer")
        if recorder.training_pass:
            raise InputError(
                "LoopRecorder: training_pass=True records what the optimiser saw, which this loop does not tell; use "
                "DynamicsTrainer"
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
        """Read the data once, record the model as it is, and put the regularisers' hooks on it.

        Parameters
        ----------
        model : Module
            As the loop runs it, prepared by accelerate or wrapped in DDP if it is, on its device.
        train, validation : iterable of batches
            Everything once, in an order of its own, in every process alike: a list, or a loader that does not shuffle.
        total_steps : int
            Optimiser steps of the whole training: what curricula go by.
        tokenizer : PreTrainedTokenizerBase, optional
            For the text of the tokens.
        seed : int
            Of the masks.
        dtype : torch.dtype
            The autocast type of training; clean values are measured in it.
        logits : callable, optional
            For a model that is not called as transformers' are: ``lambda model, ids: model(ids, ids)[0]``, say.
        embedding : Module, optional
            The input embedding of such a model, for methods that act on it.
        pad_token_id : int, optional
            What pads rows without an attention mask.
        settings : mapping, optional
            Plain values that say how the loop trains; a run that is resumed must have the same.
        resume_from : path, optional
            A folder in which `save` was called.

        Returns
        -------
        int
            Optimiser steps that are done already: 0, or where `save` was called.

        Raises
        ------
        InputError
            The output is not empty and nothing is resumed, the run in it is another one, or the data is not that of a
            causal language model.
        """
        self.detach()
        if total_steps < 1:
            raise InputError(f"LoopRecorder: total_steps is {total_steps}; give the optimiser steps of the training")
        inner = causal_model(model)
        require_causal(model)
        resumed = None if resume_from is None else _read(Path(resume_from), self._loop)
        recorder, loop = self._recorder, self._loop
        if resumed is None:
            recorder.claim_output()
        with isolated_rng():
            gather = {
                split: gather_sequences(
                    ending(batches, f"LoopRecorder: {split}"), tokenizer=tokenizer, pad_token_id=pad_token_id
                )
                for split, batches in (("train", train), ("validation", validation))
                if batches is not None
            }
        splits = {split: found.packed for split, found in gather.items()}
        self._model = model if logits is None else _AsCausal(model, logits)
        self._dtype, self._predicted = dtype, splits["train"].predicted
        loop.metrics = StepMetrics(recorder.metrics_path, losses=False)
        loop.open(
            BatchReader(gather["train"].keys, self._predicted.shape[1], pad_token_id=pad_token_id),
            total_steps=total_steps,
        )
        name = getattr(getattr(inner, "config", None), "name_or_path", None) or type(inner).__name__
        config = {
            "name": recorder.name,
            "trainer": type(self).__name__,
            "model": {"name": name},
            "regularizers": [method.settings.model_dump(mode="json") for method in loop.methods.all],
            "training": {**(settings or {}), "total_steps": total_steps, "seed": seed},
        }
        batch_size = recorder.batch_size or 8
        resumption = None
        if resumed is not None:
            run = require_same_run(recorder.output, splits, what=f"TokenRecorder: {recorder.output}")
            changed = allowed_changes(
                run.config, config, common_only=False, what=f"TokenRecorder: {recorder.output}",
                remedy="go on with the settings of that run, or start anew in a new directory",
            )  # fmt: skip
            resumption = Resumption(epoch=resumed.recorded, step=int(resumed.facts["step"]), changed=changed)
            reference = reference_of_run(recorder.output, splits)
        else:
            reference = {
                split: measure_all(self._model, packed, batch_size=batch_size, dtype=dtype)
                for split, packed in splits.items()
            }
        loop.methods.prepare(training_data(splits["train"], reference["train"], tokenizer=tokenizer, seed=seed))
        writer = RunWriter(
            RunPlan(
                output=recorder.output,
                name=recorder.name,
                config=config,
                splits=splits,
                reference=reference,
                sequences={split: recorder.sequences(split) for split in splits},
                regularizers=loop.methods.all,
                value_dtype=recorder.dtype,
                forward_dtype=dtype,
                batch_size=batch_size,
                seeds={"seed": seed},
            )
        )
        writer.begin(total_steps=total_steps, steps_per_epoch=None, resumption=resumption)
        loop.recording = writer
        loop.methods.attach(inner, **({} if embedding is None else {"embedding": embedding}))
        if resumed is None:
            loop.begin_training(self._model)
            return 0
        loop.load_state(resumed.facts, resumed.parts)
        loop.resume(self._model, done=resumed.recorded, cut=bool(resumed.facts["under_way"]))
        return loop.step

    @contextmanager
    def batch(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Let regularisers act on the forward pass of a micro-batch.

        Yields
        ------
        dict
            The batch; labels of tokens that are left out of the loss are -100.
        """
        if self._model is None:
            raise InputError("LoopRecorder: begin() comes before batch()")
        self._loop.begin_pass()
        known = self._loop.read(batch)
        if self._loop.methods.needs_current_values:
            values = current_values(self._model, {"input_ids": batch["input_ids"]}, dtype=self._dtype, fused=False)
            known = with_values(known, values)
        with self._loop.armed(known):
            weight = self._loop.methods.token_weight(known)
            left = dict(batch)
            if weight is not None:
                left["labels"] = batch["labels"].masked_fill(weight == 0, IGNORE_INDEX)
            yield left
            self._loop.end_batch(known, None)

    def step(self, *, learning_rate: float = float("nan")) -> None:
        """Note that an optimiser step is done; the learning rate is for the metrics alone."""
        rate = None if learning_rate != learning_rate else learning_rate
        self._loop.end_step(epoch=self._loop.epoch, learning_rate=rate)

    def epoch(self) -> None:
        """Record the model after a pass over the data."""
        if not self._loop.under_way:
            raise InputError("LoopRecorder: epoch() without a batch since the last one; call it after each pass")
        assert self._model is not None
        self._loop.end_pass(self._model, passes=float(self._loop.epoch))

    def finish(self) -> None:
        """Complete the run; a pass under way is recorded as one that was cut."""
        if self._model is None:
            raise InputError("LoopRecorder: begin() comes before finish()")
        if self._loop.under_way:
            share = self._loop.share_visited(self._predicted)
            self._loop.end_pass(self._model, passes=self._loop.epoch - 1 + share)
        self.detach()
        self._loop.finish()

    def save(self, folder: str | Path) -> None:
        """Keep what a later `begin(resume_from=folder)` needs, beside the checkpoint; every process calls it."""
        write_loop_state(self._loop, Path(folder))

    def detach(self) -> None:
        """Take every hook off the model."""
        self._loop.methods.detach()


class _AsCausal(nn.Module):
    """A model of one's own, called as transformers' are, for measuring alone."""

    def __init__(self, model: nn.Module, logits: Logits) -> None:
        super().__init__()
        self.inner = model
        self._logits = logits

    def forward(self, input_ids: torch.Tensor, **ignored: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self._logits(self.inner, input_ids))


def _read(folder: Path, loop: TrainingLoop) -> LoopState:
    stateful = any(method.state() for method in loop.methods.all)
    return read_loop_state(folder, step=None, epoch=0.0, stateful=stateful)
