"""The values of every token under the starting model, computed once and cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel, TrainingArguments

from dynamics.cache import cached_folder
from dynamics.corpus.packing import PackedSplit
from dynamics.reporting import Reporter
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.environment.hardware import float32_products, hardware, versions
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens
from dynamics.training.preparation.starting_model import require_one_process

_REFERENCE_BATCH = 16
_FILE = "reference.safetensors"


class Reference(NamedTuple):
    """Values by split, their folder in the cache, whether they were found there, and what computed them."""

    values: dict[str, TokenValues]
    path: Path
    cached: bool
    made: dict[str, str]


def reference_pass(
    splits: dict[str, PackedSplit],
    load_model: Callable[[], PreTrainedModel],
    weights_hash: str,
    args: TrainingArguments,
    reporter: Reporter,
) -> Reference:
    """Measure the starting model, or load the values from the cache. Uses the device and precision of `args`."""
    dtype = forward_dtype(args)
    tokens = hashlib.sha256("".join(packed.tokens_hash() for packed in splits.values()).encode()).hexdigest()
    key: dict[str, Any] = {
        "model": weights_hash,
        "tokens": tokens,
        "dtype": str(dtype),
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
    }
    if args.device.type == "cuda":
        # All CUDA devices that share a cache share these values, because the arms of a study must have the same.
        key |= {"device": "cuda", "float32_products": float32_products()}

    def build(path: Path) -> None:
        require_one_process("the reference pass is not done yet")
        model = load_model()
        model.to(args.device)  # type: ignore[arg-type]
        arrays: dict[str, np.ndarray] = {}
        n_sequences = sum(len(packed.token_id) for packed in splits.values())
        with reporter.progress(n_sequences, "reference pass") as progress:
            for name, packed in splits.items():
                values = evaluate_tokens(
                    model,
                    packed.token_id,
                    packed.labels(),
                    batch_size=_REFERENCE_BATCH,
                    dtype=dtype,
                    on_batch=progress.update,
                )
                arrays |= {
                    f"{name}.loss": values.loss,
                    f"{name}.entropy": values.entropy,
                    f"{name}.correct": values.correct,
                }
        made = {"device": hardware(args.device)["device"], "precision": str(dtype).removeprefix("torch.")}
        save_file(arrays, path / _FILE, metadata=made)

    folder, cached = cached_folder("references", key, build)
    arrays = load_file(folder / _FILE)
    values = {
        name: TokenValues(
            loss=arrays[f"{name}.loss"],
            entropy=arrays[f"{name}.entropy"],
            correct=arrays[f"{name}.correct"],
        )
        for name in splits
    }
    with safe_open(folder / _FILE, framework="numpy") as file:
        made = dict(file.metadata() or {})
    return Reference(values, folder, cached, made)
