"""Weight decay, decoupled from the gradient as in AdamW (arXiv 1711.05101): TrainingArguments does it right."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dynamics.regularizers.base import ActsOn, Regularizer
from dynamics.validation import Settings


class WeightDecaySettings(Settings):
    """Decoupled weight decay, by the optimiser that TrainingArguments chooses."""

    name: Literal["weight_decay"] = "weight_decay"
    value: float = Field(gt=0.0, le=100.0, description="TrainingArguments.weight_decay")


class WeightDecay(Regularizer):
    """Decay weight matrices by learning_rate * value each step (biases and norms are exempt, as in transformers).

    Parameters
    ----------
    **settings
        Fields of `WeightDecaySettings`: value.
    """

    settings_model = WeightDecaySettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("optimiser",)
    argument = ("value", "weight_decay")
    settings: WeightDecaySettings
