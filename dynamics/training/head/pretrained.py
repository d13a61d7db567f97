"""Pretrained causal language models by path or hub name, and their hashes."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dynamics.cache import PLACED, placed_model
from dynamics.errors import InputError
from dynamics.training.head.causal import require_causal

# Models for which the warning about their code was given. A run loads its model several times and warns once.
_trusted: set[str] = set()


def pretrained_model(name: str, *, trust_remote_code: bool, key: str, trust_key: str) -> PreTrainedModel:
    """Return a causal language model, with float32 weights.

    Parameters
    ----------
    name : str
        A folder that save_pretrained wrote, a hub name of the form owner/model, or ``cache:NAME``.
    trust_remote_code : bool
        Whether to run program code that comes with the model.
    key, trust_key : str
        The recipe's keys for the two settings, for messages.

    Raises
    ------
    InputError
        The model cannot be found or loaded, lacks weights, or is not a causal language model.
    """
    path = _path_of(name, key)
    if trust_remote_code and name not in _trusted:
        _trusted.add(name)
        warnings.warn(
            f"{trust_key}: true runs the program code that comes with {name!r}; remove this key unless you trust "
            "its source",
            stacklevel=2,
        )
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        # Missing weights are checked below: transformers would initialise them at random, and only warn.
        found: Any = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=trust_remote_code, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # many kinds: truncated files, shapes that differ from the configuration, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason:
            remedy = f"if you trust its source, {trust_key}: true runs it"
        elif name.startswith(PLACED):
            remedy = f"remove {path}, and make it again"
        else:
            remedy = "give a folder that save_pretrained wrote, or a hub name that this machine can reach"
        raise InputError(
            f"{key}: {name!r} cannot be loaded as a causal language model ({reason[:300]}); {remedy}"
        ) from error
    model: PreTrainedModel = found[0]
    missing = sorted(found[1]["missing_keys"])
    try:
        require_causal(model)
    except InputError as error:
        raise InputError(f"{key}: {name!r}: {error}") from error
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{key}: {name!r} has no weights for {shown}; they would be random and different in every run; give "
            "the folder of a complete causal language model"
        )
    return model


def can_be_pretrained(name: str) -> bool:
    """Return whether `name` is a path on disk, has the form of a hub name, or names a model in the cache."""
    looks_like_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return name.startswith(PLACED) or Path(name).exists() or looks_like_hub


def _path_of(name: str, key: str) -> str:
    """Return the name to give to transformers. Raise InputError unless `can_be_pretrained` accepts `name`."""
    if name.startswith(PLACED):
        try:
            return placed_model(name)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error
    if not can_be_pretrained(name):
        raise InputError(
            f"{key}: {name!r} is neither a folder that save_pretrained wrote, nor a hub name of the form owner/model, "
            f"nor {PLACED}NAME"
        )
    return name


def model_hash(model: torch.nn.Module) -> str:
    """Return the sha256 of a model's weights: names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()
