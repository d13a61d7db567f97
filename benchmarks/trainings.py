"""What benchmarks of whole trainings share: a model, its data, a Trainer's arguments, and the time of its steps."""

from __future__ import annotations

import gc
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, TrainerCallback, TrainingArguments

from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.recipe.named_sizes import NAMED_SIZES

#: The argument that has activations computed again in the backward pass: transformers renamed it.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)

# Steps in which memory is laid out and kernels are loaded.
_WARM = 2


class StepTimes(TrainerCallback):
    """Seconds of an optimiser step, from the end of one to the end of another, the first two left out.

    Whole periods: what is done to a batch before its step, and beside the step's end, is in them.

    Parameters
    ----------
    every : int
        Steps from one look at the clock to the next. Each look waits for the device, as no training does.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= _WARM and (state.global_step - _WARM) % self._every == 0:
            wait()
            self._ends.append(time.perf_counter())

    def median(self) -> float:
        """Return the median over the periods."""
        return statistics.median([(after - before) / self._every for before, after in pairwise(self._ends)])


def wait() -> None:
    """Wait until the device has done what it was given, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def qwen3(
    size: str, vocabulary: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32, **changes: Any
) -> Any:
    """Return a Qwen3 of a named size with random weights, always the same, made on the device itself.

    Parameters
    ----------
    size : str
        Of `dynamics.recipe.named_sizes`.
    vocabulary : int
    device : str
    dtype : torch.dtype
        Of the weights.
    **changes
        Of the configuration.
    """
    shape: dict[str, Any] = {**NAMED_SIZES[size], "vocab_size": vocabulary, "use_cache": False, **changes}
    torch.manual_seed(0)
    with torch.device(device):
        build: Any = AutoModelForCausalLM.from_config  # untyped in transformers
        return build(Qwen3Config(**shape), dtype=dtype)


def n_parameters(size: str, vocabulary: int, *, layers: int | None = None) -> int:
    """Return the weights of a Qwen3 of a named size, its norms left out; with `layers` in place of its own."""
    shape: dict[str, Any] = NAMED_SIZES[size]
    hidden, head = shape["hidden_size"], shape["head_dim"]
    attention = 2 * hidden * head * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    layer = attention + 3 * hidden * shape["intermediate_size"]
    tables = 1 if shape["tie_word_embeddings"] else 2
    return (shape["num_hidden_layers"] if layers is None else layers) * layer + tables * vocabulary * hidden


def sequences(n: int, block: int, vocabulary: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Return `n` examples of random tokens, all but the first of each predicted."""
    ids = torch.randint(vocabulary, (n, block), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, 0] = IGNORE_INDEX
    return [{"input_ids": one, "labels": label} for one, label in zip(ids, labels, strict=True)]


def arguments(folder: Path, batch: int, device: str, *, bf16: bool, **more: Any) -> TrainingArguments:
    """Return the arguments of one pass over the data, in which nothing is saved, logged or looked at."""
    fields: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        # Otherwise the Trainer looks at each step's loss, and the host waits for it.
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": bf16,
        "dataloader_pin_memory": device == "cuda",
    }
    return TrainingArguments(**{**fields, **more})


def release() -> None:
    """Free a CUDA device's memory: what a training leaves in circles of references, and what the allocator keeps."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
