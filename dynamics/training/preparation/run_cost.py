"""The cost of a run, from arithmetic alone: steps, operations, memory per process, and bytes on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from dynamics.ops.chunking import rows_per_chunk
from dynamics.recipe.settings import Recipe
from dynamics.regularizers.base import Regularizer
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.preparation.corpus_size import SplitSize
from dynamics.training.preparation.model_size import ModelSize
from dynamics.training.recording.record_sizes import RecordedSplit, record_bytes

#: Checkpoints on disk while one more is being written: the two that are kept, and the new one.
CHECKPOINTS = 3


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of one process in bytes. None means unknown.

    Attributes
    ----------
    weights, gradients : int
        4 bytes per parameter, divided by the number of processes if they are sharded.
    optimiser : int, optional
        AdamW: two float32 values per parameter, sharded like the weights, and a float32 step per tensor.
    averages : int
        4 bytes per parameter for each model that a method keeps in addition to the trained one.
    copies : int, optional
        One process: the copies of weights that autocast makes in its dtype. FSDP: in that dtype, the gathered weights
        outside the layers and of two layers (one computes while the next is fetched). DDP: gradient buckets too.
    activations : int, optional
        Batch size times what the decoder saves per sequence. With checkpointing, one float32 residual per layer, and
        one layer's activations.
    head : int
        Float32 logits and their gradient: of a chunk of rows, or of the whole batch if a method needs logits.
    """

    weights: int
    gradients: int
    optimiser: int | None
    averages: int
    copies: int | None
    activations: int | None
    head: int

    @property
    def total(self) -> int | None:
        """The sum, if all parts are known."""
        parts = vars(self).values()
        return None if any(part is None for part in parts) else sum(parts)


def memory_of(
    size: ModelSize,
    saved: tuple[int, int] | None,
    args: TrainingArguments,
    methods: Sequence[Regularizer],
    *,
    block_size: int,
    processes: int,
) -> Memory:
    """Return the memory of a process at the end of a forward pass in training.

    Parameters
    ----------
    size : ModelSize
    saved : (int, int), optional
        From `saved_bytes`; None if the model's code could not be traced.
    args : TrainingArguments
    methods : sequence of Regularizer
    block_size, processes : int
    """
    sharded = processes > 1 and bool(args.fsdp)
    n = size.parameters
    shards = processes if sharded else 1
    of_state = 4 * math.ceil(n / shards)
    dtype, batch = forward_dtype(args), args.per_device_train_batch_size
    if sharded:
        gathered = n - size.layers * size.layer + 2 * size.layer
        copies: int | None = dtype.itemsize * gathered
    else:
        copies = None if saved is None else saved[0] + (4 * n if processes > 1 else 0)
    activations = None if saved is None else batch * saved[1]
    if saved is not None and _checkpoints_activations(args):
        activations = batch * (size.layers * block_size * size.hidden * 4 + saved[1] // size.layers)
    whole = any(method.needs_logits for method in methods)
    rows = batch * block_size if whole else rows_per_chunk(size.vocabulary, dtype, args.device)
    adamw = args.optim in ("adamw_torch", "adamw_torch_fused")
    return Memory(
        weights=of_state,
        gradients=of_state,
        optimiser=2 * of_state + 4 * size.tensors if adamw else None,
        averages=sum(of_state for method in methods if method.beside is not None),
        copies=copies,
        activations=activations,
        head=rows * size.vocabulary * (4 + dtype.itemsize),
    )


def _checkpoints_activations(args: TrainingArguments) -> bool:
    config = args.fsdp_config if isinstance(args.fsdp_config, Mapping) else {}
    return bool(args.gradient_checkpointing or (args.fsdp and config.get("activation_checkpointing")))


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """The cost of one run. None means unknown.

    Attributes
    ----------
    epochs : int
    steps_per_epoch : int, optional
        Optimiser steps.
    train_tokens, recorded_tokens : int, optional
        Positions computed in total: in all training passes of all epochs, and in clean recording passes.
    tokens_bytes, epochs_bytes : int, optional
        Sizes of the folders tokens/ and epochs/, over all runs that it writes (`weight_averaging` adds a run).
    models : int
        Number of saved models.
    """

    epochs: int
    steps_per_epoch: int | None
    train_tokens: int | None
    recorded_tokens: int | None
    tokens_bytes: int | None
    epochs_bytes: int | None
    models: int

    @property
    def steps(self) -> int | None:
        """Total optimiser steps."""
        return None if self.steps_per_epoch is None else self.steps_per_epoch * self.epochs


def run_cost(
    recipe: Recipe,
    splits: Mapping[str, SplitSize],
    args: TrainingArguments,
    methods: Sequence[Regularizer],
    *,
    processes: int,
) -> RunCost:
    """Return the cost of a run."""
    epochs = round(args.num_train_epochs)
    models = 1 + sum(method.beside is not None for method in methods)
    recorded = {split: _recorded(recipe, split, one) for split, one in splits.items()}
    known = {split: one for split, one in recorded.items() if one is not None}
    train = splits["train"].sequences
    if train is None or len(known) < len(splits):
        return RunCost(
            epochs=epochs,
            steps_per_epoch=_steps(train, args, processes),
            train_tokens=None,
            recorded_tokens=None,
            tokens_bytes=None,
            epochs_bytes=None,
            models=models,
        )
    steps = _steps(train, args, processes)
    assert steps is not None
    # Passes with a backward pass. A pass for current values has none, and counts like a recording pass.
    passes = 1 + sum(method.auxiliary_weight != 0 for method in methods)
    extra = any(method.needs_current_values for method in methods)
    of_epoch = sum(one.recorded for one in known.values())
    tokens_bytes, epochs_bytes = record_bytes(
        known,
        epochs=epochs,
        steps_per_epoch=steps,
        value_dtype=recipe.recording.dtype,
        drops=any(method.ratio(0.0) is not None for method in methods),
        training_pass=recipe.recording.training_pass,
        processes=processes,
    )
    return RunCost(
        epochs=epochs,
        steps_per_epoch=steps,
        train_tokens=train * recipe.block_size * epochs * passes,
        recorded_tokens=recipe.block_size * (of_epoch * (epochs + 1) * models + train * epochs * extra),
        tokens_bytes=tokens_bytes * models,
        epochs_bytes=epochs_bytes * models,
        models=models,
    )


def _steps(sequences: int | None, args: TrainingArguments, processes: int) -> int | None:
    """Return the optimiser steps per pass, as `DynamicsTrainer.steps_per_epoch` counts them."""
    if sequences is None:
        return None
    batches = math.ceil(sequences / (args.per_device_train_batch_size * processes))
    return math.ceil(batches / args.gradient_accumulation_steps)


def _recorded(recipe: Recipe, split: str, size: SplitSize) -> RecordedSplit | None:
    if size.sequences is None or size.documents is None or size.text_bytes is None:
        return None
    wanted = getattr(recipe.recording, f"{split.partition('-')[0]}_sequences")
    return RecordedSplit(
        sequences=size.sequences,
        block_size=recipe.block_size,
        recorded=size.sequences if wanted == "all" else min(wanted, size.sequences),
        documents=size.documents,
        text_bytes=size.text_bytes,
        fields_bytes=size.fields_bytes,
    )


def device_bytes(device: torch.device) -> int | None:
    """Return the memory of a device, or of the machine if it computes on the CPU; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
