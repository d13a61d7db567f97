"""The size of a model, from its configuration alone. Nothing is allocated or downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dynamics.cache import placed_model
from dynamics.errors import InputError
from dynamics.recipe.model_settings import ModelSettings
from dynamics.recipe.named_sizes import NAMED_SIZES
from dynamics.training.loop.clean_pass import forward_context
from dynamics.training.preparation.models import named_config

#: Published models that have the architecture of a named size, with the published embedding rows and positions.
PUBLISHED = {f"Qwen/Qwen3-{size}-Base": f"qwen3-{size.lower()}" for size in ("0.6B", "1.7B", "4B", "8B")}
_QWEN3_VOCABULARY, _QWEN3_POSITIONS = 151_936, 32_768


@contextmanager
def offline() -> Iterator[None]:
    """Restrict the hub libraries to their local caches."""
    import datasets
    import huggingface_hub.constants

    places: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What is known about a model.

    Attributes
    ----------
    config : PreTrainedConfig
    source : str
        Where the configuration comes from.
    parameters : int
        Number of parameters, each counted once, even if it is used twice (tied embeddings).
    tensors : int
        Number of parameter tensors, as an optimiser counts them.
    vocabulary : int
        Rows of the input embedding.
    embedding, layer : int
        Parameters of the embedding, and of the largest decoder layer.
    layers, hidden : int
        Number of decoder layers, and the hidden size.
    weights_here : bool
        Whether the weights are on this machine, or are created here.
    """

    config: Any
    source: str
    parameters: int
    tensors: int
    vocabulary: int
    embedding: int
    layer: int
    layers: int
    hidden: int
    weights_here: bool


def model_size(
    settings: ModelSettings, *, vocabulary: int | None, block_size: int, given: Path | None = None
) -> ModelSize | None:
    """Return the size of a recipe's model; None if its configuration is not on this machine.

    Parameters
    ----------
    settings : ModelSettings
    vocabulary : int, optional
        Entries of the tokenizer, which determine the vocabulary of a named size; None if unknown.
    block_size : int
    given : Path, optional
        A config.json, or a folder that contains one, to use instead of the model's own.

    Raises
    ------
    InputError
        The name cannot be a model's, or the configuration cannot be read or is not of a causal language model.
    """
    config, source, here = _config(settings, vocabulary, block_size, given)
    if config is None:
        return None
    try:
        with torch.device("meta"):
            model = _model(config, settings)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"model.name: {settings.name!r}: no causal language model can be made from {source} ({reason}); give the "
            "configuration of a causal language model"
        ) from error
    embedding: Any = model.get_input_embeddings()
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) > 0]
    stack = max(stacks, key=lambda one: sum(p.numel() for p in one.parameters()))
    return ModelSize(
        config=config,
        source=source,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tensors=sum(1 for _ in model.parameters()),
        vocabulary=int(embedding.num_embeddings),
        embedding=int(embedding.weight.numel()),
        layer=max(sum(p.numel() for p in layer.parameters()) for layer in stack),
        layers=len(stack),
        hidden=int(embedding.embedding_dim),
        weights_here=here,
    )


def _config(
    settings: ModelSettings, vocabulary: int | None, block_size: int, given: Path | None
) -> tuple[Any, str, bool]:
    """Return a configuration (None if it is not here), where it comes from, and whether the weights are here too."""
    name = settings.name
    if given is not None:
        if not given.exists():
            raise InputError(f"--model-config: {given} does not exist; give a config.json, or a folder that holds one")
        return _read(str(given), settings, "--model-config"), f"{given.name} (given)", False
    if name in NAMED_SIZES:
        if vocabulary is None:
            return None, "", False
        return named_config(name, vocab_size=vocabulary, block_size=block_size), f"named size {name}", True
    path = placed_model(name)
    if os.path.exists(path):
        return _read(path, settings, "model.name"), "its config.json", True
    with offline():
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=settings.trust_remote_code)
        except (OSError, ValueError, KeyError):
            config = None
    if config is not None:
        return config, "its config.json in the hub's cache", _weights_in_cache(name)
    if name in PUBLISHED:
        config = named_config(PUBLISHED[name], vocab_size=_QWEN3_VOCABULARY, block_size=_QWEN3_POSITIONS)
        return config, "the published architecture", False
    return None, "", False


def _read(path: str, settings: ModelSettings, key: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{key}: {path} holds no configuration that transformers can read ({reason}); give a config.json, or a "
            "folder that holds one"
        ) from error


def _weights_in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)


def _model(config: Any, settings: ModelSettings) -> PreTrainedModel:
    build: Any = AutoModelForCausalLM.from_config  # untyped in transformers
    model: PreTrainedModel = build(config, dtype=torch.float32, trust_remote_code=settings.trust_remote_code)
    return model


def saved_bytes(size: ModelSize, settings: ModelSettings, *, block_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return the size of the decoder's saved tensors: bytes that do not depend on the batch, and bytes per sequence.

    Tensors that autograd saves are counted in a forward pass over one sequence and over two, on fake tensors without
    data. Weights are not counted. The part that does not depend on the batch is mostly the copies of weights that
    autocast makes.

    Parameters
    ----------
    size : ModelSize
    settings : ModelSettings
    block_size : int
        Tokens per sequence.
    dtype : torch.dtype
        float32, or the autocast type of training.
    """
    one, two = (_saved(size.config, settings, n, block_size, dtype) for n in (1, 2))
    return 2 * one - two, two - one


def _saved(config: Any, settings: ModelSettings, n_sequences: int, block_size: int, dtype: torch.dtype) -> int:
    held: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage._cdata] = storage  # keep it, so that no other storage gets the same address
        return tensor

    with FakeTensorMode():
        model = _model(config, settings)
        model.train()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        inputs = torch.zeros(n_sequences, block_size, dtype=torch.int64)
        whole: Any = model  # untyped in transformers
        decoder = whole.get_decoder() if hasattr(whole, "get_decoder") else whole.base_model
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            forward_context(torch.device("cpu"), dtype),
        ):
            kept = decoder(input_ids=inputs, use_cache=False)  # keep the output, so that nothing is freed
        total: int = sum(storage.nbytes() for number, storage in held.items() if number not in weights)
        del kept
    torch.clear_autocast_cache()
    return total
