"""Prepares a training in your own loop: its data as sequences, its model for measuring, and the plan of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.tokenizer import token_text_facts
from dynamics.errors import InputError
from dynamics.records.reader import open_run
from dynamics.training.batches.dataset_sequences import DatasetSequences, ending, gather_sequences
from dynamics.training.environment.generators import isolated_rng
from dynamics.training.environment.hardware import weight_dtype
from dynamics.training.environment.processes import highest_of_ranks, on_rank_zero
from dynamics.training.head.fused_head import causal_model
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.recording.epoch_recorder import measure_all
from dynamics.training.recording.run_writer import RunPlan, plain_values, reference_of_run
from dynamics.training.recording.token_recorder import TokenRecorder
from dynamics.training.resuming.loop_state import LoopState, read_loop_state
from dynamics.training.resuming.same import Resumption, allowed_changes, require_same_run

#: Training data of a loop: a data loader, or any iterable of batches that can be iterated over once.
Batches = Iterable[Mapping[str, Any]]
#: Maps a model and a batch's ``input_ids``, shape (B, T), to logits of shape (B, T, V).
Logits = Callable[[nn.Module, torch.Tensor], torch.Tensor]

# Sequences per measuring forward pass, if the loader does not tell its batch size.
_BATCH_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class LoopTraining:
    """The arguments of `begin`.

    Attributes
    ----------
    model : Module
        Called like a transformers model.
    data : mapping of str to DatasetSequences
        By split.
    tokenizer : PreTrainedTokenizerBase, optional
    dtype : torch.dtype
    settings : mapping
        From `settings_of`.
    """

    model: nn.Module
    data: Mapping[str, DatasetSequences]
    tokenizer: Any
    dtype: torch.dtype
    settings: Mapping[str, Any]

    @property
    def splits(self) -> dict[str, PackedSplit]:
        """The sequences of each split, packed."""
        return {split: found.packed for split, found in self.data.items()}

    @property
    def total_steps(self) -> int:
        """Planned optimiser steps."""
        return int(self.settings["total_steps"])


class AsCausal(nn.Module):
    """Makes your own model callable like a transformers model, for measuring only."""

    def __init__(self, model: nn.Module, logits: Logits) -> None:
        super().__init__()
        # Wrappers conventionally use this name.
        self.module = model
        self._logits = logits

    def forward(self, input_ids: torch.Tensor, **ignored: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self._logits(self.module, input_ids))


def gathered(
    train: Batches, validation: Batches | None, *, tokenizer: Any, pad_token_id: int | None
) -> dict[str, DatasetSequences]:
    """Return the sequences of each split."""
    given = {"train": train, **({} if validation is None else {"validation": validation})}
    with isolated_rng():
        return {
            split: gather_sequences(
                ending(in_order(batches), f"LoopRecorder: {split}"), tokenizer=tokenizer, pad_token_id=pad_token_id
            )
            for split, batches in given.items()
        }


def in_order(batches: Batches) -> Batches:
    """Return the batches of a loader's whole data set in its own order; for another iterable, its own batches."""
    if not isinstance(batches, DataLoader):
        return batches
    # For accelerate's and custom loaders, the batch sampler knows the batch size.
    size = getattr(batches.batch_sampler, "batch_size", None) or batches.batch_size
    if size is None and batches.batch_sampler is not None:
        size = _BATCH_SIZE
    return DataLoader(batches.dataset, batch_size=size, collate_fn=batches.collate_fn)


def require_alike(splits: Mapping[str, PackedSplit]) -> None:
    """Raise InputError on all ranks unless every rank has the same data."""
    mine = {split: packed.tokens_hash() for split, packed in splits.items()}
    differs = on_rank_zero(lambda: mine) != mine
    if highest_of_ranks(int(differs)):
        raise InputError(
            "LoopRecorder: train or validation differs between ranks in its sequences or their order; give every "
            "rank the whole data: a DataLoader over the data set, or a list of all batches"
        )


def plan_of(recorder: TokenRecorder, loop: TrainingLoop, training: LoopTraining, resumed: LoopState | None) -> RunPlan:
    """Return the plan of the run, including the values of the starting model."""
    splits, dtype, batch_size = training.splits, training.dtype, recorder.batch_size or _BATCH_SIZE
    if resumed is None:
        reference = {
            split: measure_all(training.model, packed, batch_size=batch_size, dtype=dtype)
            for split, packed in splits.items()
        }
    else:
        require_same_run(recorder.output, splits, what=f"TokenRecorder: {recorder.output}")
        reference = reference_of_run(recorder.output, splits)
    return RunPlan(
        output=recorder.output,
        name=recorder.name,
        config=config_of(recorder, loop, training),
        splits=splits,
        reference=reference,
        sequences={split: recorder.sequences(split) for split in splits},
        regularizers=loop.methods.all,
        value_dtype=recorder.dtype,
        forward_dtype=dtype,
        weight_dtype=weight_dtype(training.model),
        device=next(training.model.parameters()).device,
        batch_size=batch_size,
        seeds={"seed": training.settings["mask_seed"]},
        facts={"token_text": token_text_facts(training.tokenizer)},
    )


def config_of(recorder: TokenRecorder, loop: TrainingLoop, training: LoopTraining) -> dict[str, Any]:
    """Return the config that takes the place of a recipe."""
    model = causal_model(training.model)
    return {
        "name": recorder.name,
        "trainer": "LoopRecorder",
        "model": {"name": getattr(getattr(model, "config", None), "name_or_path", None) or type(model).__name__},
        "regularizers": [method.settings.model_dump(mode="json") for method in loop.methods.all],
        "training": plain_values(training.settings),
    }


def settings_of(given: Mapping[str, Any] | None, *, total_steps: int, seed: int) -> dict[str, Any]:
    """Return the training settings for the run's config: the user's own, the number of steps, and the seed.

    Raises
    ------
    InputError
        The user's settings contradict these two.
    """
    ours = {"total_steps": total_steps, "mask_seed": seed}
    for key, value in ours.items():
        if given is not None and given.get(key, value) != value:
            raise InputError(
                f"LoopRecorder: settings has {key} {given[key]!r}, but begin() was given {value!r}; remove it from "
                "settings"
            )
    return {**(given or {}), **ours}


def state_in(folder: Path, loop: TrainingLoop) -> LoopState:
    """Read what `LoopRecorder.save` wrote."""
    stateful = any(method.state() for method in loop.methods.all)
    return read_loop_state(folder, step=None, epoch=0.0, stateful=stateful)


def resumption_of(plan: RunPlan, resumed: LoopState) -> Resumption:
    """Return where the run resumes. Raise InputError if it was trained with other settings."""
    remedy = "use the settings of that run, or start from the beginning in a new directory"
    what = f"TokenRecorder: {plan.output}"
    changed = allowed_changes(open_run(plan.output).config, plan.config, common_only=False, what=what, remedy=remedy)
    return Resumption(epoch=resumed.recorded, step=int(resumed.facts["step"]), changed=changed)
