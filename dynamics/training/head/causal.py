"""Which models predict the next token from those before it, and whose inputs are its tokens."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.auto import modeling_auto

from dynamics.errors import InputError
from dynamics.training.head.fused_head import wrapping

# The heads of transformers' models that predict something else than the next token.
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
    """Raise InputError, in one line, for a model that is no causal language model, whose inputs are not its tokens, or
    that is not run as a whole.

    Parameters
    ----------
    model : Module
        Or what wraps it: its adapters are looked at too.
    """
    chain, base = wrapping(model)
    for part in chain:
        if isinstance(part, nn.DataParallel):
            raise InputError(
                "the model is in a DataParallel, which splits each batch over devices behind the regularisers' back; "
                "give the model itself, and start a process for each device (torchrun)"
            )
        for config in getattr(part, "peft_config", {}).values():
            if getattr(config, "is_prompt_learning", False):
                raise InputError(
                    f"the adapter {type(config).__name__} puts virtual tokens before every sequence, so that tokens "
                    "are not where recording and regularisers expect them; use another kind of adapter (LoRA)"
                )
    name, config = type(base).__name__, getattr(base, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{name} is an encoder-decoder; {_WE}")
    others = {other for mapping in _OTHER_HEADS for other in _names(mapping)}
    if name in others - _names("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"):
        raise InputError(f"{name} does not predict the next token; {_WE}")
    # A BERT by the name of a causal model: it attends to the very tokens that it is to predict. (GPT-NeoX says the
    # same of itself, and does not read it.)
    bidirectional = {*getattr(modeling_auto, "MODEL_FOR_MASKED_LM_MAPPING_NAMES", {}), "bert-generation"}
    if getattr(config, "is_decoder", True) is False and getattr(config, "model_type", None) in bidirectional:
        raise InputError(
            f"{name} attends to later tokens, as its configuration has is_decoder false; {_WE}: set it to true if "
            "that is what this model was trained for"
        )


def _names(mapping: str) -> set[str]:
    """Return the classes that one of transformers' tables names."""
    found = getattr(modeling_auto, mapping, {}).values()
    return {name for value in found for name in (value if isinstance(value, tuple | list) else [value])}
