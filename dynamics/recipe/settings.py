"""What a run is: the settings of a recipe. Never loads torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from dynamics.recipe.model_settings import ModelSettings, TokenizerSettings, TrainedTokenizer
from dynamics.recipe.named_sizes import NAMED_SIZES
from dynamics.recipe.names import Name, Seed, require_apart
from dynamics.recipe.training_keys import checked_training, conflict
from dynamics.recipe.tuning import Tuned
from dynamics.regularizers.registry import METHODS, RegularizerSettings
from dynamics.validation import Settings, shown


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


def _from_hub(source: str | list[str]) -> bool:
    parts = [source] if isinstance(source, str) else source
    return any(part.startswith("hub:") for part in parts)


Source = Annotated[str | list[str], BeforeValidator(_source)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Sequences = Literal["all"] | Annotated[int, Field(ge=1)]
Training = Annotated[dict[str, Any], AfterValidator(checked_training)]


class CorpusSettings(Settings):
    """Where documents come from: see `dynamics.corpus.sources.load_documents`.

    A source alone may stand in place of the mapping.
    """

    later = frozenset({"keep"})
    other_words = dict.fromkeys(("name", "path", "paths", "file", "files", "dataset", "data", "hub"), "source") | {
        "column": "field",
        "n_documents": "documents",
        "max_documents": "documents",
        "config": "subset",
    }

    source: Source = Field(examples=["PATH, builtin:NAME or hub:NAME"])
    documents: int | None = Field(default=None, ge=1)
    field: str = Field(default="text", min_length=1)
    template: str | None = None
    split: str = Field(default="train", min_length=1)
    subset: str | None = None
    keep: list[Annotated[str, Field(min_length=1)]] = []

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
        if not _from_hub(self.source):
            for key, default in (("split", "train"), ("subset", None)):
                if getattr(self, key) != default:
                    raise ValueError(f"{key} is only read with a source hub:NAME; leave it out")
        return self


class BaseSettings(Settings):
    """What the starting model is pretrained on first."""

    alone = ("corpus",)
    other_words = {"num_train_epochs": "epochs", "source": "corpus", "documents": "corpus.documents"}

    corpus: CorpusSettings = Field(examples=["PATH, builtin:NAME or hub:NAME"])
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
    """Held-out documents: a share of the corpus by hash, or a source of their own.

    A source is read as the corpus is, but for what is given here: `field` and `template` go together, and so do `split`
    and `subset`.
    """

    later = frozenset({"documents", "field", "template", "split", "subset"})
    alone = ("fraction", "source")
    other_words = {**CorpusSettings.other_words, "share": "fraction", "ratio": "fraction", "corpus": "source"}

    fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    source: Source | None = None
    documents: int | None = Field(default=None, ge=1)
    field: str | None = Field(default=None, min_length=1)
    template: str | None = None
    split: str | None = Field(default=None, min_length=1)
    subset: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ValidationSettings:
        if (self.fraction is None) == (self.source is None):
            raise ValueError("give exactly one of fraction and source")
        for key in ("documents", "field", "template", "split", "subset"):
            if getattr(self, key) is None:
                continue
            if self.source is None:
                raise ValueError(f"{key} is only read with a source; leave it out")
            if key in ("split", "subset") and not _from_hub(self.source):
                raise ValueError(f"{key} is only read with a source hub:NAME; leave it out")
        return self

    def corpus(self, domain: CorpusSettings) -> CorpusSettings:
        """Return what to read where there is a source, given what the recipe's own corpus is."""
        assert self.source is not None, "a fraction is no source"
        from_hub = _from_hub(self.source)
        read: dict[str, Any] = {"source": self.source, "documents": self.documents}
        for pair, shared in ((("field", "template"), True), (("split", "subset"), from_hub)):
            here = {key: getattr(self, key) for key in pair if getattr(self, key) is not None}
            if here or not shared:
                read |= {key: here.get(key, CorpusSettings.model_fields[key].default) for key in pair}
        return CorpusSettings.model_validate({**domain.model_dump(), **read})


class HeldOut(NamedTuple):
    """A validation set: the split that it is recorded as, and where it stands in the recipe."""

    split: str
    key: str
    settings: ValidationSettings


def _of_one_kind(value: Any) -> Any:
    """Refuse a set without a name beside sets that have one."""
    if isinstance(value, Mapping):
        named = [key for key, one in value.items() if isinstance(one, Mapping)]
        if named and len(named) < len(value):
            beside = ", ".join(str(key) for key in value if key not in named)
            raise ValueError(
                f"{beside} and the set {shown(named[0])} stand beside each other; give every set a name, such as "
                "{domain: {fraction: 0.2}, general: {source: ...}}"
            )
    return value


def _validation_kind(value: Any) -> str:
    if not isinstance(value, Mapping) or not value or any(key in ValidationSettings.model_fields for key in value):
        return "one"
    return "sets" if all(isinstance(one, Mapping | ValidationSettings) for one in value.values()) else "one"


def _names_are_apart(sets: dict[str, ValidationSettings]) -> dict[str, ValidationSettings]:
    require_apart(sets)
    return sets


ValidationSets = Annotated[
    Annotated[ValidationSettings, Tag("one")]
    | Annotated[dict[Name, ValidationSettings], AfterValidator(_names_are_apart), Tag("sets")],
    Discriminator(_validation_kind),
    BeforeValidator(_of_one_kind),
]


class TuningSettings(Settings):
    """A third part of the corpus, for choosing hyperparameters; never reported."""

    alone = ("fraction",)
    other_words = {"share": "fraction", "ratio": "fraction"}

    fraction: float = Field(gt=0.0, lt=1.0)


class RecordingSettings(Settings):
    """Which sequences are recorded after every epoch, and in which type: of each validation set as many."""

    later = frozenset({"tuning_sequences"})
    other_words = {split: f"{split}_sequences" for split in ("train", "validation", "tuning")}

    train_sequences: Sequences = "all"
    validation_sequences: Sequences = "all"
    tuning_sequences: Sequences = "all"
    dtype: Literal["float16", "float32"] = "float16"
    training_pass: bool = False  # what the optimiser saw of each token, beside the clean values


class Recipe(Settings):
    """One run.

    Without `tokenizer`, a pretrained model has its own; a named size, which has none, needs one.
    """

    later = frozenset({"tuned"})
    other_words = {
        "lr": "training.learning_rate",
        "learning_rate": "training.learning_rate",
        "epochs": "training.num_train_epochs",
        "num_train_epochs": "training.num_train_epochs",
        "batch_size": "training.per_device_train_batch_size",
        "weight_decay": "training.weight_decay",
        "data": "corpus",
        "dataset": "corpus",
        "documents": "corpus.documents",
        "vocab_size": "tokenizer.train.vocab_size",
        "sequence_length": "block_size",
        "seq_len": "block_size",
        "max_length": "block_size",
        "max_seq_length": "block_size",
        "methods": "regularizers",
        "method": "regularizers",
    }

    name: Name = "run"
    corpus: CorpusSettings = Field(examples=["{source: PATH, builtin:NAME or hub:NAME}"])
    tokenizer: TokenizerSettings = Field(examples=["{train: {vocab_size: 2048}}"])
    model: ModelSettings = Field(examples=["{name: nano}"])
    base: BaseSettings | None = None
    block_size: int = Field(default=128, ge=2, le=1_000_000)
    validation: ValidationSets = ValidationSettings(fraction=0.2)
    tuning: TuningSettings | None = None
    regularizers: list[RegularizerSettings] = []
    recording: RecordingSettings = RecordingSettings()
    training: Training = {}
    on_divergence: Literal["stop", "continue"] = "stop"
    seed: Seed = 0
    tuned: Tuned | None = None  # how its study chose its settings; the study writes it

    @model_validator(mode="before")
    @classmethod
    def _a_model_has_its_tokenizer(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("tokenizer") is None:
            model = value.get("model")
            name = model.get("name") if isinstance(model, Mapping) else None
            if isinstance(name, str) and name and name not in NAMED_SIZES:
                return {**value, "tokenizer": name}
            return {key: one for key, one in value.items() if key != "tokenizer"}
        return value

    @model_validator(mode="after")
    def _tokenizer_fits(self) -> Recipe:
        if isinstance(self.tokenizer, TrainedTokenizer) and self.model.name not in NAMED_SIZES:
            raise ValueError(
                f"tokenizer: train makes a new vocabulary, whose ids mean nothing to the pretrained model "
                f"{self.model.name!r}; leave tokenizer out (or --set tokenizer=null) to use the model's own, or start "
                "from a named size, such as model: {name: nano}"
            )
        return self

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
        shares = {f"{one.key}.fraction": one.settings.fraction or 0.0 for one in self.held_out}
        if self.tuning is not None:
            shares["tuning.fraction"] = self.tuning.fraction
        if sum(shares.values()) >= 1.0:
            stand = " and ".join(f"{key} {share:g}" for key, share in shares.items() if share)
            raise ValueError(f"{stand} leave nothing to train on; together they must stay below 1")
        return self

    @property
    def held_out(self) -> list[HeldOut]:
        """The validation sets: first the one recorded as `validation`, which is `domain` or else the first given."""
        if isinstance(self.validation, ValidationSettings):
            return [HeldOut("validation", "validation", self.validation)]
        first = "domain" if "domain" in self.validation else next(iter(self.validation))
        others = [name for name in self.validation if name != first]
        splits = {first: "validation", **{name: f"validation-{name}" for name in others}}
        return [HeldOut(split, f"validation.{name}", self.validation[name]) for name, split in splits.items()]
