"""Checks of transformers' TrainingArguments before anything is built. The class itself does not check types."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.utils.generic import strtobool

from dynamics.errors import InputError, nearest

#: Fields that choose the device and the arithmetic of a training. Reference and recording passes use the same.
ARITHMETIC = ("use_cpu", "bf16", "fp16", "tf32", "full_determinism")

# Ranges that transformers does not check: (lowest, whether the lowest is allowed, highest).
_RANGES: dict[str, tuple[float, bool, float]] = {
    "learning_rate": (0.0, False, 1e3),
    "num_train_epochs": (1, True, 1e6),
    "per_device_train_batch_size": (1, True, 1e6),
    "per_device_eval_batch_size": (1, True, 1e6),
    "gradient_accumulation_steps": (1, True, 1e6),
    "weight_decay": (0.0, True, 1e3),
    "adam_beta1": (0.0, True, 1.0),
    "adam_beta2": (0.0, True, 1.0),
    "adam_epsilon": (0.0, False, 1.0),
    "max_grad_norm": (0.0, True, 1e9),
    "label_smoothing_factor": (0.0, True, 1.0),
    "neftune_noise_alpha": (0.0, True, 1e6),
    "warmup_steps": (0.0, True, 1e12),
    "dataloader_num_workers": (0, True, 1024),
}


# What is often written for a field.
_OTHER_WORDS = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "wd": "weight_decay",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "warmup": "warmup_steps",
    "grad_accumulation": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
}


def check_training(training: Mapping[str, Any], *, where: str = "training") -> None:
    """Check names, types and ranges of TrainingArguments fields.

    Parameters
    ----------
    training : mapping
        As in a recipe.
    where : str
        The recipe's key, for messages.

    Raises
    ------
    InputError
        The first field that TrainingArguments does not have, or that has the wrong type or range.
    """
    hints = _hints()
    for key, value in training.items():
        if key not in hints:
            meant = _OTHER_WORDS.get(key.lower())
            hint = f"; did you mean {meant!r}?" if meant else nearest(key, hints)
            raise InputError(f"{where}.{key}: TrainingArguments has no such field{hint}")
        hint = hints[key]
        wrong = isinstance(value, bool) and bool not in _members(hint)
        if not wrong:
            try:
                TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
            except ValidationError:
                # Enumerations are given by their value, as a string.
                wrong = not (isinstance(value, str) and str in _members(hint))
        if wrong:
            raise InputError(f"{where}.{key}: {value!r} has the wrong type; TrainingArguments wants {_name(hint)}")
        if key in _RANGES and isinstance(value, int | float):
            low, closed, high = _RANGES[key]
            if not (low <= value <= high) or (value == low and not closed):
                bound = "at least" if closed else "above"
                raise InputError(f"{where}.{key}: {value!r} is out of range; give {bound} {low:g} and at most {high:g}")


def training_arguments(
    training: Mapping[str, Any],
    *,
    output_dir: Path,
    seed: int,
    where: str = "training",
    save: bool = False,
    precision: str | None = None,
) -> TrainingArguments:
    """Return the TrainingArguments of a run: the project's defaults, overridden by the recipe's fields.

    Parameters
    ----------
    training : mapping
        As in a recipe.
    output_dir : Path
    seed : int
    where : str
        The recipe's key, for messages.
    save : bool
        Whether to write a checkpoint after every epoch.
    precision : str, optional
        ``float32``, ``bfloat16`` or ``float16``, used if the recipe sets none: the precision of a resumed run.
        The default is bfloat16 on a CUDA device that supports it natively, otherwise float32.

    Raises
    ------
    InputError
        A field is wrong.
    """
    check_training(training, where=where)
    cuda = on_cuda(training)
    if precision is None:
        # Older devices only emulate bfloat16, which is slow.
        precision = "bfloat16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    chosen = {"bf16": precision == "bfloat16", "fp16": precision == "float16"}
    fields: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        # Every parameter is used in every step. Searching for unused ones would walk the autograd graph.
        "ddp_find_unused_parameters": False,
        "logging_strategy": "no" if training.get("report_to", "none") == "none" else "steps",
        "per_device_eval_batch_size": training.get("per_device_train_batch_size", 8),
        **({} if chosen.keys() & training.keys() else chosen),
        # With a blocking copy, the device would be idle before every step.
        **({"accelerator_config": {"non_blocking": True}} if cuda else {}),
        **training,
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "epoch" if save else "no",
        "eval_strategy": "no",
        "remove_unused_columns": False,
        # TrainingArguments follows only a part of what a launcher sets.
        "use_cpu": _use_cpu(training),
        "dataloader_pin_memory": cuda,
    }
    if cuda and training.get("full_determinism"):
        # torch reads this variable once, at the first matrix product of the process. Without it, deterministic training
        # refuses matrix products. transformers sets it too, but only when its Trainer is created.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    try:
        return TrainingArguments(**fields)
    except Exception as error:  # the library raises many kinds of error: values, files, imports
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: TrainingArguments refuses it ({reason})") from error


def on_cuda(training: Mapping[str, Any]) -> bool:
    """Whether a training runs on a CUDA device: one is available, and the CPU is not requested."""
    return torch.cuda.is_available() and not _use_cpu(training)


def _use_cpu(training: Mapping[str, Any]) -> bool:
    return bool(training.get("use_cpu") or strtobool(os.environ.get("ACCELERATE_USE_CPU", "False")))


def forward_dtype(args: TrainingArguments) -> torch.dtype:
    """Return the autocast type of `args`."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


@cache
def _hints() -> dict[str, Any]:
    hints = typing.get_type_hints(TrainingArguments)
    return {name: hints[name] for name in TrainingArguments.__dataclass_fields__ if name in hints}


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def _name(hint: Any) -> str:
    names = [getattr(member, "__name__", str(member)) for member in _members(hint) if member is not type(None)]
    return " or ".join(names)
