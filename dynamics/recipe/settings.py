"""What a run is: the settings of a recipe. Never loads torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from dynamics.recipe.named_sizes import NAMED_SIZES
from dynamics.recipe.training_keys import checked_training, conflict
from dynamics.regularizers.registry import METHODS, RegularizerSettings
from dynamics.validation import Settings, shown

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def _safe(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} becomes a folder's name; begin with a letter or digit and use only "
            "letters, digits, '.', '_' and '-', at most 200"
        )
    return name


def _absolute(source: str) -> str:
    """Make a path absolute, so that a run's config.yaml means the same wherever it is read.

    A bare word that is no file stays as it is, for the message about it.
    """
    path = os.path.expanduser(source)
    looks_so = source.startswith((".", "~")) or os.sep in source
    return os.path.abspath(path) if looks_so or os.path.exists(path) else source


def _source(value: Any) -> Any:
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise ValueError(f"must be a path, builtin:NAME, hub:NAME or a list of these, not {shown(value)}")
    found = [part if part.startswith(("builtin:", "hub:")) else _absolute(part) for part in parts]
    return found if isinstance(value, list) else found[0]


def _local_or_hub(name: str) -> str:
    # A hub name also has a slash: it is a path only where something of that name is there.
    path = os.path.expanduser(name)
    return os.path.abspath(path) if name not in NAMED_SIZES and os.path.exists(path) else name


Source = Annotated[str | list[str], BeforeValidator(_source)]
ModelName = Annotated[str, Field(min_length=1), AfterValidator(_local_or_hub)]
Name = Annotated[str, AfterValidator(_safe)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Sequences = Literal["all"] | Annotated[int, Field(ge=1)]
Training = Annotated[dict[str, Any], AfterValidator(checked_training)]


class CorpusSettings(Settings):
    """Where documents come from: see `dynamics.corpus.sources.load_documents`.

    A source alone may stand in place of the mapping.
    """

    source: Source
    documents: int | None = Field(default=None, ge=1)
    field: str = Field(default="text", min_length=1)
    template: str | None = None
    split: str = Field(default="train", min_length=1)
    subset: str | None = None
    keep: list[Annotated[str, Field(min_length=1)]] = []

    @model_serializer(mode="wrap")
    def _without_what_is_not_kept(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes from before there was `keep` are what they were, and so are their hashes.
        written: dict[str, Any] = dump(self)
        if not self.keep:
            written.pop("keep", None)
        return written

    @field_validator("keep")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"names {', '.join(map(repr, twice))} twice; once is enough")
        return value

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str | list) else value

    @model_validator(mode="after")
    def _keys_are_read(self) -> CorpusSettings:
        parts = [self.source] if isinstance(self.source, str) else self.source
        if not any(part.startswith("hub:") for part in parts):
            for key, default in (("split", "train"), ("subset", None)):
                if getattr(self, key) != default:
                    raise ValueError(f"{key} is only read with a source hub:NAME; leave it out")
        return self


class TrainedVocabulary(Settings):
    """Size of a byte-level BPE vocabulary: 256 bytes, 2 special tokens and the merges."""

    vocab_size: int = Field(ge=258, le=1_000_000)


class TrainedTokenizer(Settings):
    """A tokenizer trained on base and training text."""

    train: TrainedVocabulary


def _tokenizer_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "name"
    return "settings" if isinstance(value, Mapping | TrainedTokenizer) else None


TokenizerSettings = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[TrainedTokenizer, Tag("settings")],
    Discriminator(
        _tokenizer_kind,
        custom_error_type="tokenizer",
        custom_error_message="must be a path or hub name, or {train: {vocab_size: N}}",
    ),
]


class ModelSettings(Settings):
    """The model: a named size (`dynamics.recipe.named_sizes`), a folder or a hub name."""

    name: ModelName
    init_seed: Seed = 0
    trust_remote_code: bool = False


class BaseSettings(Settings):
    """What the starting model is pretrained on first."""

    corpus: CorpusSettings
    epochs: Epochs = 1
    exclude_domain: bool = True
    seed: Seed = 0
    training: Training = {}

    @field_validator("corpus")
    @classmethod
    def _nothing_is_kept(cls, value: CorpusSettings) -> CorpusSettings:
        if value.keep:
            raise ValueError("keep is not read here, as no document of the base is recorded; leave it out")
        return value

    @field_validator("training")
    @classmethod
    def _epochs_stand_above(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "num_train_epochs" in value:
            raise ValueError("num_train_epochs is not read here; set base.epochs")
        return value


class ValidationSettings(Settings):
    """Held-out documents: a share of the corpus by hash, or a source of their own."""

    fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    source: Source | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ValidationSettings:
        if (self.fraction is None) == (self.source is None):
            raise ValueError("give exactly one of fraction and source")
        return self


class TuningSettings(Settings):
    """A third part of the corpus, for choosing hyperparameters; never reported."""

    fraction: float = Field(gt=0.0, lt=1.0)


class RecordingSettings(Settings):
    """Which sequences are recorded after every epoch, and in which type."""

    train_sequences: Sequences = "all"
    validation_sequences: Sequences = "all"
    dtype: Literal["float16", "float32"] = "float16"
    training_pass: bool = False  # what the optimiser saw of each token, beside the clean values


class Recipe(Settings):
    """One run."""

    name: Name = "run"
    corpus: CorpusSettings
    tokenizer: TokenizerSettings
    model: ModelSettings
    base: BaseSettings | None = None
    block_size: int = Field(default=128, ge=2, le=1_000_000)
    validation: ValidationSettings = ValidationSettings(fraction=0.2)
    tuning: TuningSettings | None = None
    regularizers: list[RegularizerSettings] = []
    recording: RecordingSettings = RecordingSettings()
    training: Training = {}
    on_divergence: Literal["stop", "continue"] = "stop"
    seed: Seed = 0

    @model_validator(mode="after")
    def _parts_agree(self) -> Recipe:
        regularizers = [method.model_dump() for method in self.regularizers]
        problem = conflict(regularizers, self.training)
        if problem is not None:
            raise ValueError(problem)
        for at, method in enumerate(regularizers):
            if METHODS[method["name"]].ranks_records(method) and self.recording.train_sequences != "all":
                raise ValueError(
                    f"regularizers.{at}: source: previous_epoch ranks what was recorded, and recording.train_sequences "
                    f"is {self.recording.train_sequences}; set it to all"
                )
        held_out, tuning = self.validation.fraction or 0.0, self.tuning
        if tuning is not None and held_out + tuning.fraction >= 1.0:
            raise ValueError(
                f"validation.fraction {held_out:g} and tuning.fraction {tuning.fraction:g} leave "
                "nothing to train on; together they must stay below 1"
            )
        return self
