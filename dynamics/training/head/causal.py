"""Checks that a model predicts the next token from the tokens before it, and that its inputs are token ids."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.auto import modeling_auto

from dynamics.errors import InputError
from dynamics.training.head.fused_head import wrapping

# Heads of transformers' models that predict something other than the next token.
_OTHER_HEADS = (
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
)
_WE = "recording and regularisers work on causal language models"


def require_causal(model: Any) -> None:
    """Raise InputError unless a model is a causal language model that takes token ids and is not split.

    Parameters
    ----------
    model : Module
        The model or its wrapper. Its adapters are checked too.
    """
    chain, base = wrapping(model)
    for part in chain:
        if isinstance(part, nn.DataParallel):
            raise InputError(
                "the model is in a DataParallel, which splits each batch over devices after the regularisers have read "
                "it; give the model itself, and start one process per device (torchrun)"
            )
        for config in getattr(part, "peft_config", {}).values():
            if getattr(config, "is_prompt_learning", False):
                raise InputError(
                    f"the adapter {type(config).__name__} adds virtual tokens before every sequence, which shifts "
                    "the positions that recording and regularisers use; use another kind of adapter (LoRA)"
                )
    name, config = type(base).__name__, getattr(base, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{name} is an encoder-decoder; {_WE}")
    others = {other for mapping in _OTHER_HEADS for other in _names(mapping)}
    if name in others - _names("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"):
        raise InputError(f"{name} does not predict the next token; {_WE}")
    # For example BertLMHeadModel, which attends to the tokens it should predict unless is_decoder is set. (GPT-NeoX has
    # is_decoder false too, but does not use it.)
    bidirectional = {*getattr(modeling_auto, "MODEL_FOR_MASKED_LM_MAPPING_NAMES", {}), "bert-generation"}
    if getattr(config, "is_decoder", True) is False and getattr(config, "model_type", None) in bidirectional:
        raise InputError(
            f"{name} attends to later tokens, because its configuration has is_decoder false; {_WE}: set it to true "
            "if the model was trained that way"
        )


def _names(mapping: str) -> set[str]:
    """Return the class names in one of transformers' mappings."""
    found = getattr(modeling_auto, mapping, {}).values()
    return {name for value in found for name in (value if isinstance(value, tuple | list) else [value])}
