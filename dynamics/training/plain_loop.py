"""Recording and regularisers in a training loop of one's own, with no Trainer: begin, batch, step, epoch, finish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.regularizers.base import Regularizer
from dynamics.training.batches.batch_reader import BatchReader
from dynamics.training.batches.dataset_sequences import DatasetSequences, ending, gather_sequences
from dynamics.training.driving.batch_loss import current_values
from dynamics.training.environment.generators import isolated_rng
from dynamics.training.environment.processes import highest_of_ranks, on_rank_zero
from dynamics.training.head.causal import require_causal
from dynamics.training.head.fused_head import causal_model
from dynamics.training.loop.hiding import require_hidden
from dynamics.training.loop.methods import require_labels_suffice, training_data
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.loop.training_loop import TrainingLoop, with_values
from dynamics.training.recording.epoch_recorder import measure_all
from dynamics.training.recording.run_writer import RunPlan, RunWriter, plain_values, reference_of_run
from dynamics.training.recording.token_recorder import TokenRecorder
from dynamics.training.resuming.loop_state import LoopState, read_loop_state, write_loop_state
from dynamics.training.resuming.same import Resumption, allowed_changes, require_same_run

#: What a loop trains on: a loader, or any iterable of batches that can be gone through once.
Batches = Iterable[Mapping[str, Any]]
#: From a model and a batch's ``input_ids``, shape (B, T), to logits of shape (B, T, V).
Logits = Callable[[nn.Module, torch.Tensor], torch.Tensor]

# Sequences in a forward pass that measures, where nobody says how many.
_BATCH_SIZE = 8


class LoopRecorder:
    """Records a training loop of one's own, and lets regularisers act in it.

    A batch is a mapping with ``input_ids`` and ``labels`` of shape (B, T), labels unshifted and -100 where nothing is
    predicted, as transformers' models take them. The calls, in their order::

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
            if not isinstance(method, Regularizer):
                raise InputError(
                    f"LoopRecorder: {method!r} is no regulariser; give instances of one, after the recorder"
                )
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
        train, validation : DataLoader, or iterable of batches
            Of a DataLoader (accelerate's too) the data set is read, in its own order and whole, whatever its sampler
            does. Another iterable is gone through once: it must hold everything, in the same order in every process
            and whenever training is resumed.
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
            How the loop trains (rates, batch sizes), for the run's config; a run that is resumed must have the same.
        resume_from : path, optional
            A folder in which `save` was called.

        Returns
        -------
        int
            Optimiser steps that are done already: 0, or where `save` was called.

        Raises
        ------
        InputError
            The output is not empty and nothing is resumed, the run in it is another one, the data is not that of a
            causal language model, or differs between processes; or the model sees what a method drops.
        """
        self.detach()
        self._model = None
        if total_steps < 1:
            raise InputError(f"LoopRecorder: total_steps is {total_steps}; give the optimiser steps of the training")
        loop, recorder, inner = self._loop, self._recorder, causal_model(model)
        require_causal(model)
        resumed = None if resume_from is None else _state_in(Path(resume_from), loop)
        if resumed is None:
            recorder.claim_output()
        data = _gathered(train, validation, tokenizer=tokenizer, pad_token_id=pad_token_id)
        splits = {split: found.packed for split, found in data.items()}
        _require_alike(splits)
        called = model if logits is None else _AsCausal(model, logits)
        config = _config(recorder, loop, inner, {**(settings or {}), "max_steps": total_steps, "seed": seed})
        resumption = None if resumed is None else _resumption(recorder, splits, config, resumed)
        batch_size = recorder.batch_size or _BATCH_SIZE
        reference = (
            reference_of_run(recorder.output, splits)
            if resumed is not None
            else {split: measure_all(called, one, batch_size=batch_size, dtype=dtype) for split, one in splits.items()}
        )
        loop.metrics = StepMetrics(recorder.metrics_path, losses=False)
        n_positions = splits["train"].token_id.shape[1]
        loop.open(BatchReader(data["train"].keys, n_positions, pad_token_id=pad_token_id), total_steps=total_steps)
        loop.methods.prepare(training_data(splits["train"], reference["train"], tokenizer=tokenizer, seed=seed))
        loop.methods.attach(inner, **({} if embedding is None else {"embedding": embedding}))
        require_hidden(called, loop.methods, dtype=dtype)
        plan = RunPlan(
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
        writer = RunWriter(plan)
        writer.begin(total_steps=total_steps, steps_per_epoch=None, resumption=resumption)
        loop.recording = writer
        self._model, self._dtype, self._predicted = called, dtype, splits["train"].predicted
        if resumed is None:
            loop.begin_training(called)
        else:
            self._go_on(resumed)
        return loop.step

    @contextmanager
    def batch(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Let regularisers act on the forward pass of a micro-batch.

        With activation checkpointing the backward pass belongs in here too: it runs the forward pass again.

        Yields
        ------
        dict
            The batch, as its forward pass takes it: without ``sequence_id``, and with labels of -100 at tokens that
            are left out of the loss.

        Raises
        ------
        InputError
            Before `begin`, within another one, or for a batch without token ids and labels.
        """
        model = self._begun("batch")
        self._loop.begin_pass()
        known = self._loop.read(batch)
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
        """Note that an optimiser step is done; the learning rate is for the metrics alone.

        Raises
        ------
        InputError
            Without a batch since the last one; or an earlier batch held a sequence that `train` did not.
        """
        self._begun("step")
        if not self._loop.metrics.has_batch:
            raise InputError(
                "LoopRecorder: step() without a batch since the last one; put each forward pass in a "
                "`with recorder.batch(...)`, and call step() once after each step of the optimiser"
            )
        self._loop.end_step(epoch=self._loop.epoch, learning_rate=learning_rate)

    def epoch(self) -> None:
        """Record the model after a pass over the data.

        Raises
        ------
        InputError
            Without a batch since the last one.
        """
        model = self._begun("epoch")
        if not self._loop.under_way:
            raise InputError("LoopRecorder: epoch() without a batch since the last one; call it after each pass")
        self._loop.end_pass(model, passes=float(self._loop.epoch))

    def finish(self) -> None:
        """Complete the run; a pass under way is recorded as one that was cut."""
        model = self._begun("finish")
        if self._loop.under_way:
            share = self._loop.share_visited(self._predicted)
            self._loop.end_pass(model, passes=self._loop.epoch - 1 + share)
        self.detach()
        self._loop.finish()
        self._model = None

    def save(self, folder: str | Path) -> None:
        """Keep what a later `begin(resume_from=folder)` needs, beside the checkpoint; every process calls it."""
        self._begun("save")
        write_loop_state(self._loop, Path(folder))

    def detach(self) -> None:
        """Take every hook off the model."""
        self._loop.methods.detach()

    def _begun(self, call: str) -> nn.Module:
        """Return the model as it is called for measuring; raise InputError where `call` is out of turn."""
        if self._model is None:
            raise InputError(f"LoopRecorder: begin() comes before {call}()")
        if self._inside:
            raise InputError(
                f"LoopRecorder: {call}() within `with recorder.batch(...)`, where regularisers act; end the block first"
            )
        return self._model

    def _go_on(self, resumed: LoopState) -> None:
        """Bring the loop to where a checkpoint was; a pass that has seen everything is recorded now."""
        assert self._model is not None
        loop = self._loop
        loop.load_state(resumed.facts, resumed.parts)
        whole = loop.under_way and loop.share_visited(self._predicted) == 1.0
        done = loop.epoch if whole else resumed.recorded
        loop.resume(self._model, done=done, cut=loop.under_way and not whole)


class _AsCausal(nn.Module):
    """A model of one's own, called as transformers' are, for measuring alone."""

    def __init__(self, model: nn.Module, logits: Logits) -> None:
        super().__init__()
        # The name by which wrappers hold what they wrap.
        self.module = model
        self._logits = logits

    def forward(self, input_ids: torch.Tensor, **ignored: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self._logits(self.module, input_ids))


def _gathered(
    train: Batches, validation: Batches | None, *, tokenizer: Any, pad_token_id: int | None
) -> dict[str, DatasetSequences]:
    """Return the sequences of each split."""
    given = {"train": train, **({} if validation is None else {"validation": validation})}
    with isolated_rng():
        return {
            split: gather_sequences(
                ending(_in_order(batches), f"LoopRecorder: {split}"), tokenizer=tokenizer, pad_token_id=pad_token_id
            )
            for split, batches in given.items()
        }


def _in_order(batches: Batches) -> Batches:
    """Return the batches of a loader's whole data set in its own order; of another iterable, its own."""
    if not isinstance(batches, DataLoader):
        return batches
    # Of accelerate's loaders, and of custom ones, the sampler of batches knows how large they are.
    size = getattr(batches.batch_sampler, "batch_size", None) or batches.batch_size
    if size is None and batches.batch_sampler is not None:
        size = _BATCH_SIZE
    return DataLoader(batches.dataset, batch_size=size, collate_fn=batches.collate_fn)


def _require_alike(splits: Mapping[str, PackedSplit]) -> None:
    """Raise InputError, in all processes, unless each has the same data."""
    mine = {split: packed.tokens_hash() for split, packed in splits.items()}
    differs = on_rank_zero(lambda: mine) != mine
    if highest_of_ranks(int(differs)):
        raise InputError(
            "LoopRecorder: train or validation holds other sequences, or another order, in one process than in "
            "another; give every process the whole data: a DataLoader over the data set, or a list of all batches"
        )


def _config(recorder: TokenRecorder, loop: TrainingLoop, model: Any, training: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands for a recipe."""
    return {
        "name": recorder.name,
        "trainer": LoopRecorder.__name__,
        "model": {"name": getattr(getattr(model, "config", None), "name_or_path", None) or type(model).__name__},
        "regularizers": [method.settings.model_dump(mode="json") for method in loop.methods.all],
        "training": plain_values(training),
    }


def _state_in(folder: Path, loop: TrainingLoop) -> LoopState:
    stateful = any(method.state() for method in loop.methods.all)
    return read_loop_state(folder, step=None, epoch=0.0, stateful=stateful)


def _resumption(
    recorder: TokenRecorder, splits: Mapping[str, PackedSplit], config: Mapping[str, Any], resumed: LoopState
) -> Resumption:
    """Return where the run in the recorder's output goes on; InputError if it is another one."""
    what = f"TokenRecorder: {recorder.output}"
    run = require_same_run(recorder.output, splits, what=what)
    remedy = "go on with the settings of that run, or start anew in a new directory"
    changed = allowed_changes(run.config, config, common_only=False, what=what, remedy=remedy)
    return Resumption(epoch=resumed.recorded, step=int(resumed.facts["step"]), changed=changed)
