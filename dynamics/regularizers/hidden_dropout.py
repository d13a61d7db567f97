"""Dropout on the residual branches, also for models that have none (Srivastava et al. 2014).

Current decoders (Llama, Qwen, Mistral, Gemma, OLMo) ship without hidden dropout; GPT-2 had it at the end of each
attention and each feed-forward branch, just before the branch is added to the residual stream (`resid_pdrop`).
Hooks put it in the same place. They have no parameters, so the state dict keeps its names. A model that has hidden
dropout of its own (GPT-2, GPT-NeoX) keeps it: set that to 0 in its configuration to have this alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dynamics.errors import InputError
from dynamics.regularizers.base import ActsOn, Regularizer, Removable, signature_of_settings
from dynamics.regularizers.decoder import decoder_of
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

_ATTENTION = ("self_attn", "attention", "attn")
_FEED_FORWARD = ("mlp", "feed_forward")


class HiddenDropoutSettings(Settings):
    """Dropout on the residual branches, also in models that have none."""

    name: Literal["hidden_dropout"] = "hidden_dropout"
    rate: float = Field(default=0.1, gt=0.0, lt=1.0, description="probability of zeroing an element")


class HiddenDropout(Regularizer):
    """Zero each element of a branch's output with probability `rate`, in training only.

    Parameters
    ----------
    rate : float, default 0.1
        Probability of zeroing an element, in (0, 1); GPT-2's `resid_pdrop` (Srivastava et al. 2014).

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = HiddenDropoutSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("hidden states",)
    settings: HiddenDropoutSettings

    @signature_of_settings
    def __init__(self, *, rate: float = 0.1) -> None: ...

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        """Hook the end of every residual branch.

        Raises
        ------
        InputError
            No decoder layers are found, or one without an attention and a feed-forward branch.
        """
        branches = residual_branches(model)
        if not branches:
            raise InputError(
                f"hidden_dropout: no decoder layers with an attention and a feed-forward branch each were found in "
                f"{type(model).__name__}; leave it out for this model"
            )
        return [branch.register_forward_hook(self._drop) for branch in branches]

    def _drop(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not module.training:
            return None
        if isinstance(output, tuple):  # attention returns (hidden states, attention weights)
            return (self._dropout(output[0]), *output[1:])
        return self._dropout(output)

    def _dropout(self, hidden: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.dropout(hidden, self.settings.rate, training=True)


def residual_branches(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose outputs are added to the residual stream: two a decoder layer.

    Whether the two branches follow each other or run side by side (GPT-NeoX) makes no difference. None are returned
    if a layer has other branches (a state space, say): dropout on a part of the layers would be another method.
    """
    from torch import nn

    decoder = decoder_of(model, "hidden_dropout")
    layers = getattr(decoder, "layers", None) or getattr(decoder, "h", None)
    if not isinstance(layers, nn.ModuleList):
        return []
    found = [_ends(layer) for layer in layers]
    return [] if () in found else [end for ends in found for end in ends]


def _ends(layer: Any) -> tuple[nn.Module, ...]:
    """Return the last module of both branches of a layer, or nothing."""
    if hasattr(layer, "post_feedforward_layernorm"):
        # Gemma 2 and 3, OLMo 2 and 3: a norm ends each branch.
        return layer.post_attention_layernorm, layer.post_feedforward_layernorm
    attention, feed_forward = (
        next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
        for names in (_ATTENTION, _FEED_FORWARD)
    )
    return () if attention is None or feed_forward is None else (attention, feed_forward)
