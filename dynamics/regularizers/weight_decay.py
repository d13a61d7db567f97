"""Weight decay, decoupled from the gradient as in AdamW (arXiv 1711.05101): TrainingArguments does it right.

Where data repeats, values far above the usual 0.1 are best: up to 3.2 in Kim et al. 2025 (arXiv 2509.14786), who find
30 times the usual one, and in the runs of MIR (arXiv 2606.06888). Tune it over 0.1, 0.4, 0.8, 1.6 and 3.2.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dynamics.regularizers.base import ActsOn, Regularizer, signature_of_settings
from dynamics.validation import Settings


class WeightDecaySettings(Settings):
    """Decoupled weight decay, by the optimiser that TrainingArguments chooses."""

    name: Literal["weight_decay"] = "weight_decay"
    value: float = Field(gt=0.0, le=100.0, description="TrainingArguments.weight_decay")


class WeightDecay(Regularizer):
    """Decay weight matrices by learning_rate * value each step (biases and norms are exempt, as in transformers).

    Parameters
    ----------
    value : float
        `TrainingArguments.weight_decay`, above 0 and at most 100 (Loshchilov and Hutter 2017, arXiv 1711.05101). Where
        data repeats, 0.4 to 3.2 are good values (arXiv 2509.14786, 2606.06888).

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = WeightDecaySettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("optimiser",)
    argument = ("value", "weight_decay")
    settings: WeightDecaySettings

    @signature_of_settings
    def __init__(self, *, value: float) -> None: ...
