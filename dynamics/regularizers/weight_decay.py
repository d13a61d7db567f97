"""Weight decay, decoupled from the gradient as in AdamW (arXiv 1711.05101): TrainingArguments does it right."""

from __future__ import annotations

from typing import Any, ClassVar

from dynamics.regularizers.base import ActsOn, Regularizer
from dynamics.regularizers.settings import WeightDecaySettings
from dynamics.validation import validated


class WeightDecay(Regularizer):
    """Decay weight matrices by learning_rate * value each step (biases and norms are exempt, as in transformers).

    Parameters
    ----------
    **settings
        Fields of `WeightDecaySettings`: value.
    """

    acts_on: ClassVar[tuple[ActsOn, ...]] = ("optimiser",)

    def __init__(self, **settings: Any) -> None:
        self.settings: WeightDecaySettings = validated(WeightDecaySettings, settings, where="WeightDecay")

    def training_arguments(self) -> dict[str, Any]:
        return {"weight_decay": self.settings.value}
