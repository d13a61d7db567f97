"""NEFTune (arXiv 2310.05914): uniform noise on the input embeddings, which transformers does right."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dynamics.regularizers.base import ActsOn, Regularizer, signature_of_settings
from dynamics.validation import Settings


class NEFTuneSettings(Settings):
    """NEFTune: uniform noise on input embeddings (arXiv 2310.05914)."""

    name: Literal["neftune"] = "neftune"
    alpha: float = Field(default=5.0, gt=0.0, description="TrainingArguments.neftune_noise_alpha")


class NEFTune(Regularizer):
    """Add noise from U(-m, m), m = alpha / sqrt(positions * hidden size), to embeddings in training.

    Token dropout acts after the noise, so that a dropped token carries none.

    Parameters
    ----------
    alpha : float, default 5.0
        Size of the noise, above 0: `TrainingArguments.neftune_noise_alpha` (Jain et al. 2023, arXiv 2310.05914).

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = NEFTuneSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("input embeddings",)
    argument = ("alpha", "neftune_noise_alpha")
    settings: NEFTuneSettings

    @signature_of_settings
    def __init__(self, *, alpha: float = 5.0) -> None: ...
