"""Label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7); recorded losses stay unsmoothed."""

from __future__ import annotations

from typing import Any, ClassVar

from dynamics.regularizers.base import ActsOn, Regularizer
from dynamics.regularizers.settings import LabelSmoothingSettings
from dynamics.validation import validated


class LabelSmoothing(Regularizer):
    """Spread `factor` of the target's probability evenly over the vocabulary.

    Parameters
    ----------
    **settings
        Fields of `LabelSmoothingSettings`: factor.
    """

    acts_on: ClassVar[tuple[ActsOn, ...]] = ("loss",)

    def __init__(self, **settings: Any) -> None:
        self.settings: LabelSmoothingSettings = validated(LabelSmoothingSettings, settings, where="LabelSmoothing")

    def training_arguments(self) -> dict[str, Any]:
        # DynamicsTrainer reads the field itself and divides by the predicted tokens of the whole accumulated
        # batch; the Trainer's own label smoother got that wrong until transformers 5.15.
        return {"label_smoothing_factor": self.settings.factor}
