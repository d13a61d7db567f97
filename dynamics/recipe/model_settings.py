"""The model that a recipe starts from, and its tokenizer: how they are named. Never loads torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from dynamics.cache import PLACED, where_model_lies
from dynamics.errors import hub_name, nearest
from dynamics.recipe.named_sizes import NAMED_SIZES
from dynamics.recipe.names import Seed
from dynamics.validation import Settings, flow_yaml, shown


def _model_name(name: str) -> str:
    return name if name in NAMED_SIZES else where_model_lies(name)


def _can_be_model(name: str) -> str:
    """Refuse a word that names no size, and is neither a path nor a hub name; and what is there and is no model."""
    if name not in NAMED_SIZES and os.path.exists(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise ValueError(f"{name!r} holds no model (no config.json); give a folder that save_pretrained wrote")
    if name in NAMED_SIZES or name.startswith(PLACED) or os.sep in name or os.path.exists(name):
        return name
    owned = hub_name(name)
    meant = nearest(name, NAMED_SIZES) if owned is None else f"; on the hub it is {owned}: write name: {owned}"
    raise ValueError(
        f"{name!r} is neither a named size ({', '.join(NAMED_SIZES)}), nor a folder, nor a hub name of the form "
        f"owner/model, nor {PLACED}NAME{meant}"
    )


ModelName = Annotated[str, Field(min_length=1), AfterValidator(_model_name)]

_SMALLEST_VOCABULARY = 258
_TRAIN = "{train: {vocab_size: N}}"
# Keys that stand in other libraries' configurations before what is a tokenizer's name.
_NAMES = {
    "name", "path", "file", "folder", "source", "from", "hub", "id", "model", "tokenizer", "pretrained",
    "name_or_path", "tokenizer_name", "tokenizer_path", "model_name", "pretrained_model_name_or_path",
}  # fmt: skip


class TrainedVocabulary(Settings):
    """Size of a byte-level BPE vocabulary: 256 bytes, 2 special tokens and the merges."""

    alone = ("vocab_size",)
    other_words = dict.fromkeys(("size", "vocabulary", "vocabulary_size", "n_vocab"), "vocab_size")

    vocab_size: int = Field(ge=_SMALLEST_VOCABULARY, le=1_000_000, examples=["2048"])


class TrainedTokenizer(Settings):
    """A tokenizer trained on base and training text."""

    train: TrainedVocabulary = Field(examples=["{vocab_size: 2048}"])


def _tokenizer_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    return "settings" if isinstance(value, Mapping | TrainedTokenizer) else None


def _tokenizer_as_written(value: Any) -> Any:
    """Refuse what other libraries write for a tokenizer, and say what to write."""
    written = None
    if isinstance(value, Mapping) and "train" not in value:
        names = [one for key, one in value.items() if key in _NAMES and isinstance(one, str) and one]
        if "vocab_size" in value:
            written = flow_yaml({"train": {"vocab_size": value["vocab_size"]}})
        elif len(names) == 1:
            written = flow_yaml(hub_name(names[0]) or names[0])
    elif isinstance(value, int) and not isinstance(value, bool) and value >= _SMALLEST_VOCABULARY:
        written = flow_yaml({"train": {"vocab_size": value}})
    if written is not None:
        raise ValueError(
            f"must be a path, hub name or cache:NAME, or {_TRAIN}, not {shown(value)}; write tokenizer: {written}"
        )
    return value


TokenizerSettings = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[TrainedTokenizer, Tag("settings")],
    Discriminator(
        _tokenizer_kind,
        custom_error_type="tokenizer",
        custom_error_message=f"must be a path, hub name or cache:NAME, or {_TRAIN}",
    ),
    BeforeValidator(_tokenizer_as_written),
]


class ModelSettings(Settings):
    """The model: a named size (`dynamics.recipe.named_sizes`), a folder, a hub name or ``cache:NAME``.

    `hash`, where given, is what its weights must be (`dynamics.training.head.pretrained.model_hash`): the
    ``model.hash`` of the manifest of a run that starts from it. Where a `base` is trained first, it is that of the
    weights before.
    """

    later = frozenset({"hash"})
    alone = ("name",)
    other_words = dict.fromkeys(
        ("path", "model", "size", "pretrained", "model_name", "model_name_or_path", "pretrained_model_name_or_path"),
        "name",
    )

    name: Annotated[ModelName, AfterValidator(_can_be_model)] = Field(examples=["PATH, OWNER/NAME or nano"])
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    init_seed: Seed = 0
    trust_remote_code: bool = False
