"""What every regulariser can be told, checked in one place. No torch.

Recipes and the Python classes share these models, so that a ratio above its pool is refused with the same
message in both.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dynamics.validation import Settings

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Target = Literal["input", "loss", "both"]
Replacement = Literal["zero", "mean", "token", "random"]


class ScheduleSettings(Settings):
    """A curriculum: a name, and the shape parameters of the schedules that have some."""

    name: Literal["constant", "linear", "cosine", "sigmoid", "step"] = "linear"
    midpoint: float = Field(default=0.5, gt=0.0, lt=1.0, description="sigmoid: progress at half strength")
    steepness: float = Field(default=10.0, gt=0.0, le=1000.0, description="sigmoid: slope at the midpoint")
    at: float = Field(default=0.5, ge=0.0, le=1.0, description="step: progress at which it switches on")


class TokenDropoutSettings(Settings):
    """What EntroDrop and its two controls share."""

    ratio: float = Field(
        default=0.15,
        gt=0.0,
        le=1.0,
        description="expected share of all predicted tokens dropped at the schedule's peak",
    )
    schedule: ScheduleSettings = ScheduleSettings()
    target: Target = Field(
        default="input",
        description="what a dropped token loses: its input embedding, its loss, or both",
    )
    replacement: Replacement = Field(
        default="zero",
        description="what stands in the input in place of a dropped token's embedding",
    )
    replacement_token: int | str | None = Field(
        default=None,
        description="for `replacement: token`: a token's id or its text in the vocabulary",
    )
    normalize: Literal["all", "kept"] = Field(
        default="all", description="divide the loss by all predicted tokens, or by those kept"
    )

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _replacement_is_complete(self) -> TokenDropoutSettings:
        if self.replacement == "token" and self.replacement_token is None:
            raise ValueError("replacement: token needs replacement_token (a token's id or its text)")
        if self.replacement != "token" and self.replacement_token is not None:
            raise ValueError("replacement_token is only read with replacement: token")
        if self.target == "loss" and self.replacement != "zero":
            raise ValueError("replacement is only read with target: input or both")
        if self.target == "input" and self.normalize != "all":
            raise ValueError("normalize is only read with target: loss or both")
        return self


class PooledDropoutSettings(TokenDropoutSettings):
    """Token dropout within a pool of tokens that a signal selects."""

    pool: Share = Field(default=0.5, description="share of predicted tokens that may be dropped")
    signal: Literal["entropy", "loss"] = Field(
        default="entropy",
        description="what ranks the tokens: the entropy of the prediction, or the token's loss",
    )

    @model_validator(mode="after")
    def _ratio_fits_pool(self) -> PooledDropoutSettings:
        if self.ratio > self.pool:
            raise ValueError(
                f"ratio {self.ratio:g} is above its pool {self.pool:g}: a share of all tokens cannot be dropped from a "
                f"smaller pool; lower ratio or raise pool"
            )
        return self


class EntroDropSettings(PooledDropoutSettings):
    """EntroDrop: drops tokens of low entropy (arXiv 2512.23422)."""

    name: Literal["entrodrop"] = "entrodrop"


class InverseEntroDropSettings(PooledDropoutSettings):
    """The control that drops tokens of high entropy."""

    name: Literal["inverse_entrodrop"] = "inverse_entrodrop"


class RandomTokenDropoutSettings(TokenDropoutSettings):
    """The control that drops any predicted token."""

    name: Literal["random_token_dropout"] = "random_token_dropout"


class WeightDecaySettings(Settings):
    """Decoupled weight decay, by the optimiser that TrainingArguments chooses."""

    name: Literal["weight_decay"] = "weight_decay"
    value: float = Field(gt=0.0, le=100.0, description="TrainingArguments.weight_decay")


class HiddenDropoutSettings(Settings):
    """Dropout on the residual branches, also in models that have none."""

    name: Literal["hidden_dropout"] = "hidden_dropout"
    rate: float = Field(default=0.1, gt=0.0, lt=1.0, description="probability of zeroing an element")


class LabelSmoothingSettings(Settings):
    """Label smoothing (Szegedy et al. 2016)."""

    name: Literal["label_smoothing"] = "label_smoothing"
    factor: float = Field(default=0.1, gt=0.0, lt=1.0, description="TrainingArguments.label_smoothing_factor")


class NEFTuneSettings(Settings):
    """NEFTune: uniform noise on input embeddings (arXiv 2310.05914)."""

    name: Literal["neftune"] = "neftune"
    alpha: float = Field(default=5.0, gt=0.0, description="TrainingArguments.neftune_noise_alpha")


RegularizerSettings = Annotated[
    EntroDropSettings
    | InverseEntroDropSettings
    | RandomTokenDropoutSettings
    | WeightDecaySettings
    | HiddenDropoutSettings
    | LabelSmoothingSettings
    | NEFTuneSettings,
    Field(discriminator="name"),
]
