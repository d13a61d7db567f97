"""The values of every token under the starting model, kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from dynamics.cache import cached_folder
from dynamics.corpus.packing import PackedSplit
from dynamics.reporting import Reporter
from dynamics.training.environment.arguments import forward_dtype, training_arguments
from dynamics.training.environment.hardware import versions
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens
from dynamics.training.preparation.starting_model import require_one_process

_REFERENCE_BATCH = 16


def reference_pass(
    splits: dict[str, PackedSplit],
    load_model: Callable[[], PreTrainedModel],
    weights_hash: str,
    reporter: Reporter,
) -> tuple[dict[str, TokenValues], Path, bool]:
    wanted = {name: splits[name] for name in ("train", "validation")}
    args = training_arguments({}, output_dir=Path("unused"), seed=0)
    dtype = forward_dtype(args)
    tokens = hashlib.sha256("".join(packed.tokens_hash() for packed in wanted.values()).encode()).hexdigest()
    key = {
        "model": weights_hash,
        "tokens": tokens,
        "dtype": str(dtype),
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
    }

    def build(path: Path) -> None:
        require_one_process("the reference pass is not done yet")
        model = load_model()
        model.to(args.device)  # type: ignore[arg-type]
        arrays: dict[str, np.ndarray] = {}
        n_sequences = sum(len(packed.token_id) for packed in wanted.values())
        with reporter.progress(n_sequences, "reference pass") as progress:
            for name, packed in wanted.items():
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
        save_file(arrays, path / "reference.safetensors")

    folder, cached = cached_folder("references", key, build)
    arrays = load_file(folder / "reference.safetensors")
    values = {
        name: TokenValues(
            loss=arrays[f"{name}.loss"],
            entropy=arrays[f"{name}.entropy"],
            correct=arrays[f"{name}.correct"],
        )
        for name in wanted
    }
    return values, folder, cached
