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
    source: Literal["reference", "previous_epoch", "current"] = Field(
        default="reference",
        description="whose signal: the frozen starting model's, that recorded after the last epoch, or that of the "
        "current weights, by an extra forward pass",
    )
    ranks: Literal["dataset", "sequence", "document"] = Field(
        default="dataset",
        description="within what the pool is the lowest share: the training set, each sequence, or each document",
    )

    @model_validator(mode="after")
    def _kept_are_known(self) -> PooledDropoutSettings:
        if self.source == "current" and self.normalize == "kept":
            raise ValueError(
                "normalize: kept needs to know a batch's tokens before its step, and source: current finds them in "
                "it; use normalize: all"
            )
        return self

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


class AttentionDropoutSettings(Settings):
    """Dropout on attention probabilities, also in models whose configuration sets none."""

    name: Literal["attention_dropout"] = "attention_dropout"
    rate: float = Field(default=0.1, gt=0.0, lt=1.0, description="probability of zeroing an attention weight")


class GoldfishLossSettings(Settings):
    """Goldfish loss: one token in k never enters the loss (arXiv 2406.10209)."""

    name: Literal["goldfish_loss"] = "goldfish_loss"
    variant: Literal["static", "hash"] = Field(
        default="hash",
        description="which tokens: every k-th of a sequence, or those that a hash of the h tokens before them picks",
    )
    k: int = Field(default=4, ge=2, description="one token in k is dropped")
    h: int = Field(default=13, ge=1, le=1000, description="variant hash: tokens of context that are hashed")
    normalize: Literal["all", "kept"] = Field(
        default="kept", description="divide the loss by all predicted tokens, or by those kept"
    )

    @model_validator(mode="after")
    def _context_is_read(self) -> GoldfishLossSettings:
        if self.variant == "static" and self.h != type(self).model_fields["h"].default:
            raise ValueError("h is only read with variant: hash")
        return self


class EntropyAdaptiveWeightingSettings(Settings):
    """Entropy-adaptive weighting: each loss times the entropy of its prediction (EAFT, arXiv 2601.02151)."""

    name: Literal["entropy_adaptive_weighting"] = "entropy_adaptive_weighting"
    top_k: int | None = Field(
        default=20,
        ge=2,
        description="entropy over the K most probable tokens, renormalised; null: over the whole vocabulary",
    )
    alpha: float = Field(default=1.0, gt=0.0, le=100.0, description="power of the weight")
    normalize: Literal["paper", "llama_factory", "axolotl"] = Field(
        default="paper", description="what the entropy is divided by: ln K, 3, or nothing"
    )


class LossTruncationSettings(Settings):
    """Loss truncation: tokens of the highest current losses do not count (arXiv 2004.14589, by token)."""

    name: Literal["loss_truncation"] = "loss_truncation"
    fraction: float = Field(default=0.1, gt=0.0, lt=1.0, description="share of recent losses above the threshold")
    window: int = Field(default=100, ge=1, le=1000, description="optimiser steps whose losses set the threshold")
    warmup: int = Field(default=100, ge=1, description="optimiser steps before anything is dropped")


RegularizerSettings = Annotated[
    EntroDropSettings
    | InverseEntroDropSettings
    | RandomTokenDropoutSettings
    | WeightDecaySettings
    | HiddenDropoutSettings
    | LabelSmoothingSettings
    | NEFTuneSettings
    | AttentionDropoutSettings
    | GoldfishLossSettings
    | EntropyAdaptiveWeightingSettings
    | LossTruncationSettings,
    Field(discriminator="name"),
]
