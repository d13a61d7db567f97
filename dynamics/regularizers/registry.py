"""From a recipe's settings to the class that does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dynamics.regularizers.attention_dropout import AttentionDropout
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.entropy_adaptive import EntropyAdaptiveWeighting
from dynamics.regularizers.goldfish import GoldfishLoss
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.regularizers.label_smoothing import LabelSmoothing
from dynamics.regularizers.loss_truncation import LossTruncation
from dynamics.regularizers.neftune import NEFTune
from dynamics.regularizers.token_dropout import EntroDrop, InverseEntroDrop, RandomTokenDropout
from dynamics.regularizers.weight_decay import WeightDecay
from dynamics.validation import Settings

METHODS: dict[str, type[Regularizer]] = {
    "entrodrop": EntroDrop,
    "inverse_entrodrop": InverseEntroDrop,
    "random_token_dropout": RandomTokenDropout,
    "weight_decay": WeightDecay,
    "hidden_dropout": HiddenDropout,
    "label_smoothing": LabelSmoothing,
    "neftune": NEFTune,
    "attention_dropout": AttentionDropout,
    "goldfish_loss": GoldfishLoss,
    "entropy_adaptive_weighting": EntropyAdaptiveWeighting,
    "loss_truncation": LossTruncation,
}


def build_regularizers(settings: Sequence[Settings]) -> list[Regularizer]:
    """Return one regulariser for each settings object, in their order."""
    methods = []
    for one in settings:
        fields = one.model_dump()
        methods.append(METHODS[fields.pop("name")](**fields))
    return methods


def curricula(methods: Sequence[Regularizer], total_steps: int, *, done: int | None = None) -> list[dict[str, Any]]:
    """Return what each method that drops tokens is told, and its `mean_ratio`: what arms are matched on.

    Parameters
    ----------
    methods : sequence of Regularizer
    total_steps : int
        Optimiser steps of the whole training, as planned.
    done : int, optional
        Those that were taken, where training ended before; the mean is over them.
    """
    found = []
    for method in methods:
        ratios = [method.ratio(step / total_steps) for step in range(total_steps if done is None else done)]
        asked = [ratio for ratio in ratios if ratio is not None]
        if asked:
            found.append({**method.settings.model_dump(mode="json"), "mean_ratio": float(np.mean(asked))})
    return found
