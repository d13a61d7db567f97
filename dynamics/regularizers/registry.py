"""From a recipe's settings to the class that does it."""

from __future__ import annotations

from collections.abc import Sequence

from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.regularizers.label_smoothing import LabelSmoothing
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
}


def build_regularizers(settings: Sequence[Settings]) -> list[Regularizer]:
    """Return one regulariser for each settings object, in their order."""
    methods = []
    for one in settings:
        fields = one.model_dump()
        methods.append(METHODS[fields.pop("name")](**fields))
    return methods
