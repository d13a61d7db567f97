"""Another model than the one that is trained, of the same vocabulary, whose values a method goes by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from dynamics.cache import where_model_lies
from dynamics.errors import InputError
from dynamics.validation import Settings

if TYPE_CHECKING:
    import numpy as np


class OtherModel(Settings):
    """A pretrained model: a folder that save_pretrained wrote, a hub name or ``cache:NAME``."""

    model: Annotated[str, Field(min_length=1), AfterValidator(where_model_lies)]
    trust_remote_code: bool = False


def values_hash(*values: np.ndarray) -> str:
    """Return the sha256 of a model's values, by which a training that goes on knows them again."""
    return hashlib.sha256(b"".join(one.tobytes() for one in values)).hexdigest()


def require_same_values(now: str | None, before: str | None, other: OtherModel | None) -> None:
    """Raise InputError if a training that goes on has other values of `other` than it began with, by their hashes."""
    if other is not None and before is not None and now != before:
        raise InputError(
            f"source.model: {other.model!r} gives other values than those that this training began with (another model "
            "lies there, or other hardware or versions measured it), and tokens would be chosen otherwise; restore "
            "it, or start anew"
        )
