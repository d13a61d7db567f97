"""The model that is trained: loaded by path or hub name, or built from a named size."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

from dynamics.errors import InputError
from dynamics.recipe.model_settings import ModelSettings
from dynamics.recipe.named_sizes import NAMED_SIZES
from dynamics.training.head.pretrained import model_hash, pretrained_model
from dynamics.training.preparation.documents import n_ids

__all__ = ["build_model", "model_hash"]


def build_model(settings: ModelSettings, *, tokenizer: PreTrainedTokenizerBase, block_size: int) -> PreTrainedModel:
    """Return the starting model, with float32 weights, in evaluation mode.

    Parameters
    ----------
    settings : ModelSettings
        A named size (`dynamics.recipe.named_sizes`), a folder that save_pretrained wrote, a hub name or ``cache:NAME``.
    tokenizer : PreTrainedTokenizerBase
        The ids that it needs are the vocabulary of a named size, and must not exceed that of a loaded model.
    block_size : int
        Number of positions that the model must support.

    Raises
    ------
    InputError
        The model cannot be found or loaded, is not a causal language model, or is too small for the tokenizer
        or the sequences.
    """
    if settings.name in NAMED_SIZES:
        model = _from_named_size(settings, tokenizer=tokenizer, block_size=block_size)
    else:
        model = pretrained_model(
            settings.name,
            trust_remote_code=settings.trust_remote_code,
            key="model.name",
            trust_key="model.trust_remote_code",
        )
    n_vocab = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    require_room(settings, model.config, n_vocab=n_vocab, n_tokens=n_ids(tokenizer), block_size=block_size)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def require_room(settings: ModelSettings, config: Any, *, n_vocab: int, n_tokens: int, block_size: int) -> None:
    """Raise InputError if a model is too small for a tokenizer that needs `n_tokens` ids, or for the sequences."""
    if n_tokens > n_vocab:
        raise InputError(
            f"tokenizer: it needs {n_tokens} ids, more than the {n_vocab} of model {settings.name!r}; leave tokenizer "
            "out to use the model's own"
        )
    n_positions = getattr(config, "max_position_embeddings", None)
    if n_positions is not None and block_size > n_positions:
        raise InputError(
            f"block_size: {block_size} is more than the {n_positions} positions of model {settings.name!r}; "
            "lower block_size"
        )


def named_config(name: str, *, vocab_size: int, block_size: int, **special: Any) -> Qwen3Config:
    """Return the configuration of a named size. `special` gives the ids of special tokens."""
    shape: dict[str, Any] = dict(NAMED_SIZES[name])
    return Qwen3Config(
        **shape,
        vocab_size=vocab_size,
        max_position_embeddings=max(block_size, 2048),
        bos_token_id=None,
        use_cache=False,
        **special,
    )


def _from_named_size(
    settings: ModelSettings, *, tokenizer: PreTrainedTokenizerBase, block_size: int
) -> PreTrainedModel:
    config = named_config(
        settings.name,
        vocab_size=n_ids(tokenizer),
        block_size=block_size,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # The initial weights do not depend on the run's seed: all seeds of a study start from the same model.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.init_seed)
        build: Any = AutoModelForCausalLM.from_config  # untyped in transformers
        model: PreTrainedModel = build(config, dtype=torch.float32)
        return model
