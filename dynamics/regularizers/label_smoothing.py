"""Label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7); recorded losses stay unsmoothed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dynamics.regularizers.base import ActsOn, Regularizer, signature_of_settings
from dynamics.validation import Settings


class LabelSmoothingSettings(Settings):
    """Label smoothing (Szegedy et al. 2016)."""

    name: Literal["label_smoothing"] = "label_smoothing"
    factor: float = Field(default=0.1, gt=0.0, lt=1.0, description="TrainingArguments.label_smoothing_factor")


class LabelSmoothing(Regularizer):
    """Spread `factor` of the target's probability evenly over the vocabulary.

    Parameters
    ----------
    factor : float, default 0.1
        Share of the target's probability, in (0, 1): `TrainingArguments.label_smoothing_factor` (Szegedy et al. 2016,
        arXiv 1512.00567, section 7).

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = LabelSmoothingSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("loss",)
    # DynamicsTrainer reads the field itself and divides by the predicted tokens of the whole accumulated batch; the
    # Trainer's own label smoother got that wrong until transformers 5.15.
    argument = ("factor", "label_smoothing_factor")
    settings: LabelSmoothingSettings

    @signature_of_settings
    def __init__(self, *, factor: float = 0.1) -> None: ...
