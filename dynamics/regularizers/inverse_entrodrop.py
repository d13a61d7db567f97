"""The control of EntroDrop that drops from the other end: tokens of high entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dynamics.regularizers.base import signature_of_settings
from dynamics.regularizers.pooled_dropout import PooledDropout, PooledDropoutSettings
from dynamics.regularizers.schedules import ScheduleName
from dynamics.regularizers.token_dropout import Replacement, Rescale, Target


class InverseEntroDropSettings(PooledDropoutSettings):
    """The control that drops tokens of high entropy."""

    name: Literal["inverse_entrodrop"] = "inverse_entrodrop"


class InverseEntroDrop(PooledDropout):
    """Drop tokens that a model predicts with high entropy: a control of `EntroDrop`, which drops the others.

    All but the end of the signal is as in `EntroDrop`. Both use the same draws, so that arms differ in as few tokens
    as they can.

    Parameters
    ----------
    ratio : float, default 0.15
        Expected share of all predicted tokens that are dropped at the schedule's peak, in (0, 1], at most `pool`. A
        reading: no source states a value.
    pool : float, optional, default 0.5
        Share of the predicted tokens, those of the highest signal, that may be dropped, in (0, 1]. None with a
        `threshold`, which is then the default. A reading.
    threshold : float, optional
        In nats, above 0, instead of `pool`: tokens whose signal is at or above it may be dropped. A reading.
    choice : {"uniform", "graded", "lowest"}, default "uniform"
        Which tokens of the pool are dropped: each with probability ratio / pool; with a probability that falls
        linearly from the highest signal on; or those of the highest signal, without a draw. A reading.
    schedule : str or mapping, default "linear"
        How the share dropped grows with progress p (optimiser steps done over all steps): "constant", "linear",
        "cosine", "sigmoid" or "step", or a mapping with its shape, such as ``{"name": "sigmoid", "midpoint": 0.5,
        "steepness": 10.0}``, ``{"name": "step", "at": 0.5}``, ``{"name": "linear", "decreasing": True}`` or
        ``{"name": "linear", "stairs": 10}``. The sources on the paper say linear or sigmoid.
    signal : {"entropy", "loss"}, default "entropy"
        What ranks the tokens, in nats: the entropy of the prediction (the paper's abstract), or the token's loss.
    distribution : {"of_token", "at_token"}, default "of_token"
        Which prediction: the one of the token itself, or the one that the model makes at the token's position, of the
        next token. A reading.
    source : {"reference", "previous_epoch", "current"} or mapping, default "reference"
        Which model's signal: the frozen starting model's; the values recorded after the last epoch; the current
        weights', by an extra forward pass; or another model's, ``{"model": FOLDER or hub name, "trust_remote_code":
        False}``. A reading.
    ranks : {"dataset", "sequence", "document", "batch"}, default "dataset"
        What tokens are ranked within: the training set, their sequence, their document, or the micro-batch of a
        process. A reading.
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
        A setting is unknown, given by position, of the wrong type or out of range, settings contradict each other,
        or `ratio` exceeds `pool`.
    """

    settings_model = InverseEntroDropSettings
    pool_end = "highest"

    @signature_of_settings
    def __init__(
        self,
        *,
        ratio: float = 0.15,
        pool: float | None = 0.5,
        threshold: float | None = None,
        choice: Literal["uniform", "graded", "lowest"] = "uniform",
        schedule: ScheduleName | Mapping[str, Any] = "linear",
        signal: Literal["entropy", "loss"] = "entropy",
        distribution: Literal["of_token", "at_token"] = "of_token",
        source: Literal["reference", "previous_epoch", "current"] | Mapping[str, Any] = "reference",
        ranks: Literal["dataset", "sequence", "document", "batch"] = "dataset",
        target: Target = "input",
        replacement: Replacement = "zero",
        replacement_token: int | str | None = None,
        rescale: Rescale = "none",
        normalize: Literal["all", "kept"] = "all",
    ) -> None: ...
