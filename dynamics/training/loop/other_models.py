"""Loss and entropy of the training set under other, fixed models that methods use; computed once and cached."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from dynamics.cache import cached_folder
from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.tokenizer import load_tokenizer
from dynamics.errors import InputError
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.other_model import OtherModel
from dynamics.training.environment.generators import isolated_rng
from dynamics.training.environment.hardware import float32_products, versions
from dynamics.training.environment.processes import on_rank_zero
from dynamics.training.head.pretrained import model_hash, pretrained_model
from dynamics.training.loop.clean_pass import evaluate_tokens

_BATCH = 16
_FILE = "values.safetensors"

Values = dict[str, tuple[np.ndarray, np.ndarray]]


def values_of_others(
    methods: Sequence[Regularizer], packed: PackedSplit, *, tokenizer: Any, device: torch.device, dtype: torch.dtype
) -> Values:
    """Return loss and entropy of every token under each other model that a method uses.

    Rank 0 computes them, or finds them in the cache by the hashes of the model's weights and of the tokens.

    Parameters
    ----------
    methods : sequence of Regularizer
    packed : PackedSplit
        The training set.
    tokenizer : PreTrainedTokenizerBase, optional
        The training set's tokenizer. Without one, ids are assumed to mean the same for every model.
    device : torch.device
        The device that computes them.
    dtype : torch.dtype
        float32, or the autocast type of training.

    Returns
    -------
    dict of str to (ndarray, ndarray)
        By `OtherModel.model`: float32 of shape (S, P), in nats, NaN where nothing is predicted.

    Raises
    ------
    InputError
        A model cannot be loaded, has other tokens or too few positions, or gives NaN.
    """
    wanted = {other.model: other for method in methods if (other := method.other_model) is not None}
    return {
        name: on_rank_zero(partial(_values, other, packed, tokenizer, device, dtype)) for name, other in wanted.items()
    }


def _values(
    other: OtherModel, packed: PackedSplit, tokenizer: Any, device: torch.device, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    name = other.model
    with isolated_rng():
        model: Any = pretrained_model(
            name,
            trust_remote_code=other.trust_remote_code,
            key="source.model",
            trust_key="source.trust_remote_code",
        )
    used = np.unique(packed.token_id[packed.document_id >= 0])
    if tokenizer is not None:
        _require_same_tokens(name, used, tokenizer)
    _require_room(name, model, used, packed.token_id.shape[1])
    key = {
        "model": model_hash(model),
        "tokens": packed.tokens_hash(),
        "dtype": str(dtype),
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
        **({"device": "cuda", "float32_products": float32_products()} if device.type == "cuda" else {}),
    }

    def build(folder: Path) -> None:
        model.to(device).eval()
        found = evaluate_tokens(model, packed.token_id, packed.labels(), batch_size=_BATCH, dtype=dtype)
        save_file({"loss": found.loss, "entropy": found.entropy}, folder / _FILE)

    arrays = load_file(cached_folder("other-models", key, build)[0] / _FILE)
    unknown = sum(int((np.isnan(one) & packed.predicted).any(axis=1).sum()) for one in arrays.values())
    if unknown:
        raise InputError(f"source.model: {name!r} gives NaN for tokens of the training set; give another model")
    return arrays["loss"], arrays["entropy"]


def _require_same_tokens(name: str, used: np.ndarray, tokenizer: Any) -> None:
    """Raise InputError unless a model's own tokenizer assigns the same tokens to the ids of the training set."""
    try:
        others = load_tokenizer(name)
    except InputError as error:
        raise InputError(
            f"source.model: {name!r} has no tokenizer in its folder to compare with the training set's; save it "
            f"there ({error})"
        ) from error
    ids = used.tolist()
    ours, theirs = (one.convert_ids_to_tokens(ids) for one in (tokenizer, others))
    differing = [at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    if differing:
        first = differing[0]
        raise InputError(
            f"source.model: {name!r} has a different vocabulary than the training set: id {ids[first]} is "
            f"{theirs[first]!r} there and {ours[first]!r} here ({len(differing)} of {len(ids)} ids differ); give a "
            "model with the same tokenizer"
        )


def _require_room(name: str, model: Any, used: np.ndarray, n_positions: int) -> None:
    """Raise InputError if a model has too few tokens or positions for the training set."""
    n_vocab = int(model.get_input_embeddings().num_embeddings)
    if len(used) and used.max() >= n_vocab:
        raise InputError(
            f"source.model: {name!r} has {n_vocab} tokens, but the training set has id {used.max()}; give a model with "
            "the same tokenizer"
        )
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and n_positions > most:
        raise InputError(
            f"source.model: {name!r} has {most} positions, fewer than the {n_positions} of the training set's "
            "sequences; give a model with more positions, or shorten the sequences"
        )
