"""NEFTune (arXiv 2310.05914): uniform noise on the input embeddings, which transformers does right."""

from __future__ import annotations

from typing import Any, ClassVar

from dynamics.regularizers.base import ActsOn, Regularizer
from dynamics.regularizers.settings import NEFTuneSettings
from dynamics.validation import validated


class NEFTune(Regularizer):
    """Add noise from U(-m, m), m = alpha / sqrt(positions * hidden size), to embeddings in training.

    Token dropout acts after the noise, so that a dropped token carries none.

    Parameters
    ----------
    **settings
        Fields of `NEFTuneSettings`: alpha.
    """

    acts_on: ClassVar[tuple[ActsOn, ...]] = ("input embeddings",)

    def __init__(self, **settings: Any) -> None:
        self.settings: NEFTuneSettings = validated(NEFTuneSettings, settings, where="NEFTune")

    def training_arguments(self) -> dict[str, Any]:
        return {"neftune_noise_alpha": self.settings.alpha}
