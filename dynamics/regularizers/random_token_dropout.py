"""The control of EntroDrop that drops any token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dynamics.regularizers.base import signature_of_settings
from dynamics.regularizers.schedules import ScheduleName
from dynamics.regularizers.token_dropout import Replacement, Rescale, Target, TokenDropout, TokenDropoutSettings


class RandomTokenDropoutSettings(TokenDropoutSettings):
    """The control that drops any predicted token."""

    name: Literal["random_token_dropout"] = "random_token_dropout"


class RandomTokenDropout(TokenDropout):
    """Drop any predicted token: a control of `EntroDrop` that has no pool.

    It uses the draws of `EntroDrop`, so that arms differ in as few tokens as they can.

    Parameters
    ----------
    ratio : float, default 0.15
        Expected share of all predicted tokens that are dropped at the schedule's peak, in (0, 1]. A reading:
        no source states a value.
    schedule : str or mapping, default "linear"
        How the share dropped grows with progress p (optimiser steps done over all steps): "constant", "linear",
        "cosine", "sigmoid" or "step", or a mapping with its shape, such as ``{"name": "sigmoid", "midpoint": 0.5,
        "steepness": 10.0}``, ``{"name": "step", "at": 0.5}``, ``{"name": "linear", "decreasing": True}`` or
        ``{"name": "linear", "stairs": 10}``. The sources on the paper say linear or sigmoid.
    target : {"input", "loss", "both"}, default "input"
        What a dropped token loses: its input embedding (the abstract: tokens are masked), its loss, or both.
    replacement : str, default "zero"
        What stands in the input for a dropped token: the embedding "zero", "mean" (of the embedding table), "token"
        (that of `replacement_token`), "mask_token" (the same, and its embedding learns from these places) or "random"
        (of a uniformly drawn token); or "unattended" (no other token attends to it) or "deleted" (positions close up).
        A reading.
    replacement_token : int or str, optional
        A token's id, or its text in the vocabulary, for `replacement` "token" or "mask_token".
    rescale : {"none", "token", "mean"}, default "none"
        What the embeddings of kept tokens are multiplied by: 1; 1 / (1 - p), with p the probability of dropping that
        token; or 1 / (1 - ratio) (inverted dropout, Srivastava et al. 2014). A reading.
    normalize : {"all", "kept"}, default "all"
        What the loss is divided by: the number of all predicted tokens, or of those kept. A reading.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range, or settings contradict each
        other.
    """

    settings_model = RandomTokenDropoutSettings
    pool_end = "any"

    @signature_of_settings
    def __init__(
        self,
        *,
        ratio: float = 0.15,
        schedule: ScheduleName | Mapping[str, Any] = "linear",
        target: Target = "input",
        replacement: Replacement = "zero",
        replacement_token: int | str | None = None,
        rescale: Rescale = "none",
        normalize: Literal["all", "kept"] = "all",
    ) -> None: ...
