"""The list of methods. What a recipe may say, which methods go together and what figures need is derived from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Union

import numpy as np
from pydantic import Field, ValidationError

from dynamics.regularizers.attention_dropout import AttentionDropout
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.entrodrop import EntroDrop
from dynamics.regularizers.entropy_adaptive import EntropyAdaptiveWeighting
from dynamics.regularizers.goldfish import GoldfishLoss
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.regularizers.inverse_entrodrop import InverseEntroDrop
from dynamics.regularizers.label_smoothing import LabelSmoothing
from dynamics.regularizers.loss_threshold import LossThreshold
from dynamics.regularizers.loss_truncation import LossTruncation
from dynamics.regularizers.masked_input import MaskedInputRegularization
from dynamics.regularizers.neftune import NEFTune
from dynamics.regularizers.random_token_dropout import RandomTokenDropout
from dynamics.regularizers.selective_loss import SelectiveLoss
from dynamics.regularizers.weight_averaging import WeightAveraging
from dynamics.regularizers.weight_decay import WeightDecay
from dynamics.validation import Settings

_METHODS: tuple[type[Regularizer], ...] = (
    EntroDrop,
    InverseEntroDrop,
    RandomTokenDropout,
    WeightDecay,
    HiddenDropout,
    LabelSmoothing,
    NEFTune,
    AttentionDropout,
    GoldfishLoss,
    EntropyAdaptiveWeighting,
    LossTruncation,
    LossThreshold,
    MaskedInputRegularization,
    SelectiveLoss,
    WeightAveraging,
)

#: Every method by its name in a recipe.
METHODS: dict[str, type[Regularizer]] = {method.recipe_name(): method for method in _METHODS}

if TYPE_CHECKING:
    RegularizerSettings = Settings
else:
    #: The settings of any method; `name` says whose.
    RegularizerSettings = Annotated[
        Union[tuple(method.settings_model for method in _METHODS)],  # noqa: UP007 - made, not written
        Field(discriminator="name"),
    ]


def build_regularizers(settings: Sequence[Settings]) -> list[Regularizer]:
    """Return one regulariser for each settings object, in their order."""
    methods = []
    for one in settings:
        fields = one.model_dump()
        methods.append(METHODS[fields.pop("name")](**fields))
    return methods


def setting(written: Mapping[str, Any], key: str) -> Any:
    """Return what a recipe says of a method's setting: as it is written, or else its default.

    Parameters
    ----------
    written : mapping
        What a recipe says of one method, `name` among it.
    key : str

    Returns
    -------
    Any
        None where nothing is written and the method has no such setting, or no default for it.
    """
    method = METHODS.get(written.get("name", ""))
    if key in written or method is None:
        return written.get(key)
    field = method.settings_model.model_fields.get(key)
    return None if field is None or field.is_required() else field.default


def completed(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe says of a method with the default of every setting that it leaves out.

    A run that began before a setting was there has its default, which is what the method did then.

    Parameters
    ----------
    written : mapping
        Of a method that is none of these, or that its settings refuse, it comes back as it is.
    """
    method = METHODS.get(written.get("name", ""))
    try:
        return dict(written) if method is None else method.settings_model(**written).model_dump(mode="json")
    except ValidationError:
        return dict(written)


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
