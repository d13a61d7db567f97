"""Dropout on attention probabilities, after the softmax, as GPT-2 was trained with (`attn_pdrop`).

Current decoders have the setting and ship with 0. Their attention modules hold it as a number, `attention_dropout`
(GPT-2 and its relatives as a module, `attn_dropout`), and hand it to the attention function at each forward pass if
they are in training mode. So it is enough to set it for the length of training: no hook, no parameter, and the
configuration that is saved with the model stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dynamics.errors import InputError
from dynamics.regularizers.base import ActsOn, Regularizer, Removable, signature_of_settings
from dynamics.regularizers.decoder import decoder_of
from dynamics.validation import Settings

if TYPE_CHECKING:
    from torch import nn

_NAMES = ("attention_dropout", "attn_dropout")
# Of transformers' attention functions, those that heed `dropout`. flex_attention raises at the first step, and
# FlashAttention 3 and later leave it out without a word.
_HEEDING = ("eager", "sdpa", "flash_attention_2")


class AttentionDropoutSettings(Settings):
    """Dropout on attention probabilities, also in models whose configuration sets none."""

    name: Literal["attention_dropout"] = "attention_dropout"
    rate: float = Field(default=0.1, gt=0.0, lt=1.0, description="probability of zeroing an attention weight")


class AttentionDropout(Regularizer):
    """Zero each attention probability with probability `rate`, in training only.

    A rate that the model's configuration sets is replaced, and comes back when training ends.

    Parameters
    ----------
    rate : float, default 0.1
        Probability of zeroing an attention probability, in (0, 1); GPT-2's `attn_pdrop`.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = AttentionDropoutSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("attention",)
    settings: AttentionDropoutSettings

    @signature_of_settings
    def __init__(self, *, rate: float = 0.1) -> None: ...

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        """Set the rate of every attention module of the decoder.

        Raises
        ------
        InputError
            No attention module with a dropout rate is found, or the attention implementation does not heed it.
        """
        places = list(dropout_places(decoder_of(model, "attention_dropout")))
        if not places:
            raise InputError(
                f"attention_dropout: no attention modules with a dropout rate were found in {type(model).__name__}; "
                "leave it out for this model"
            )
        for module, _ in places:
            # Where a model has no choice of implementation, it computes probabilities itself.
            used = getattr(getattr(module, "config", None), "_attn_implementation", None) or "eager"
            if used not in _HEEDING:
                raise InputError(
                    f"attention_dropout: the attention implementation {used!r} of {type(model).__name__} has no "
                    "dropout; use another: model.set_attn_implementation('sdpa')"
                )
        return [_SetRate.on(*place, self.settings.rate) for place in places]


def dropout_places(decoder: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield each module that has an attention dropout rate, and the name of its attribute."""
    from torch import nn

    for module in decoder.modules():
        for name in _NAMES:
            if isinstance(getattr(module, name, None), float | int | nn.Dropout):
                yield module, name


@dataclass(frozen=True, kw_only=True)
class _SetRate:
    """A rate that was set, and what it was before."""

    holder: nn.Module
    name: str
    before: float

    @classmethod
    def on(cls, module: nn.Module, name: str, rate: float) -> _SetRate:
        from torch import nn

        found = getattr(module, name)
        holder, name = (found, "p") if isinstance(found, nn.Dropout) else (module, name)
        before = getattr(holder, name)
        setattr(holder, name, rate)
        return cls(holder=holder, name=name, before=before)

    def remove(self) -> None:
        setattr(self.holder, self.name, self.before)
