"""Recipes: what a run and a study are, read from YAML and checked. Never loads torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, field_validator, model_validator

from dynamics.errors import InputError, nearest
from dynamics.regularizers.settings import RegularizerSettings
from dynamics.validation import Settings, validated
from dynamics.yaml_reading import load_yaml, parse_value

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# TrainingArguments fields that a recipe may not set, and what to do instead.
_OWNED = {
    "output_dir": "give --output",
    "seed": "set the recipe's seed",
    "data_seed": "set the recipe's seed",
    "remove_unused_columns": "sequence_id must reach the trainer",
    "max_steps": "set num_train_epochs: recording is by epoch",
    "resume_from_checkpoint": "give --resume",
    "load_best_model_at_end": "the records hold every epoch",
    "label_names": "the project computes the loss",
    "push_to_hub": "push the folder model/ of the finished run",
    "do_eval": "every epoch is recorded",
    "do_train": "`dynamics train` trains",
    "do_predict": "every epoch is recorded",
    "auto_find_batch_size": "masks and steps belong to one batch size",
}
_OWNED_PREFIXES = {"save_": "every run saves its model", "eval_": "every epoch is recorded", "hub_": "nothing is pushed"}
_MAY_START_SO = {"eval_accumulation_steps"}

# Methods that TrainingArguments could set too.
_SAME_FIELD = {
    "weight_decay": "weight_decay",
    "label_smoothing": "label_smoothing_factor",
    "neftune": "neftune_noise_alpha",
}

Sequences = Literal["all"] | Annotated[int, Field(ge=1)]


class CorpusSettings(Settings):
    """Where documents come from: see `dynamics.corpus.sources.load_documents`."""

    source: str | list[str]
    documents: int | None = Field(default=None, ge=1)
    field: str = "text"
    template: str | None = None
    split: str = "train"
    subset: str | None = None


class TrainedVocabulary(Settings):
    """Size of a byte-level BPE vocabulary: 256 bytes, 2 special tokens and the merges."""

    vocab_size: int = Field(ge=258, le=1_000_000)


class TrainedTokenizer(Settings):
    """A tokenizer trained on base and training text."""

    train: TrainedVocabulary


class ModelSettings(Settings):
    """The model: a named size, a folder or a hub name."""

    name: str
    init_seed: int = Field(default=0, ge=0)
    trust_remote_code: bool = False


class BaseSettings(Settings):
    """What the starting model is pretrained on first."""

    corpus: CorpusSettings
    epochs: int = Field(default=1, ge=1)
    exclude_domain: bool = True
    seed: int = Field(default=0, ge=0)
    training: dict[str, Any] = {}

    @field_validator("corpus", mode="before")
    @classmethod
    def _source_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str | list) else value

    @field_validator("training")
    @classmethod
    def _not_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "num_train_epochs" in value:
            raise ValueError("num_train_epochs belongs to base.epochs")
        return _checked_training(value)


class ValidationSettings(Settings):
    """Held-out documents: a share of the corpus by hash, or a source of their own."""

    fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    source: str | list[str] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ValidationSettings:
        if (self.fraction is None) == (self.source is None):
            raise ValueError("give either fraction or source")
        return self


class TuningSettings(Settings):
    """A third part of the corpus, for choosing hyperparameters; never reported."""

    fraction: float = Field(gt=0.0, lt=1.0)


class RecordingSettings(Settings):
    """Which sequences are recorded after every epoch, and in which type."""

    train_sequences: Sequences = "all"
    validation_sequences: Sequences = "all"
    dtype: Literal["float16", "float32"] = "float16"


class Recipe(Settings):
    """One run."""

    name: str = "run"
    corpus: CorpusSettings
    tokenizer: str | TrainedTokenizer
    model: ModelSettings
    base: BaseSettings | None = None
    block_size: int = Field(default=128, ge=2, le=1_000_000)
    validation: ValidationSettings = ValidationSettings(fraction=0.2)
    tuning: TuningSettings | None = None
    regularizers: list[RegularizerSettings] = []
    recording: RecordingSettings = RecordingSettings()
    training: dict[str, Any] = {}
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("name")
    @classmethod
    def _name_is_safe(cls, value: str) -> str:
        return _safe(value)

    @field_validator("training")
    @classmethod
    def _not_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _checked_training(value)

    @model_validator(mode="after")
    def _parts_agree(self) -> Recipe:
        names = [method.name for method in self.regularizers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"regularizers: {name} stands there twice; keep one")
            field = _SAME_FIELD.get(name)
            if field in self.training:
                raise ValueError(f"regularizers.{name} and training.{field} both set {field}; keep one of them")
        aside = (self.validation.fraction or 0.0) + (self.tuning.fraction if self.tuning else 0.0)
        if aside >= 1.0:
            raise ValueError(f"validation.fraction and tuning.fraction add up to {aside:g}, which leaves nothing to train on")
        return self


class ArmSettings(Settings):
    """What one arm of a study changes: regularisers (replaced) and training arguments (merged)."""

    regularizers: list[RegularizerSettings] | None = None
    training: dict[str, Any] = {}


class PlannedRun(NamedTuple):
    """One run of a study."""

    arm: str
    seed: int
    recipe: Recipe


class StudyRecipe(Recipe):
    """Arms by seeds: the same starting point, trained differently."""

    arms: dict[str, ArmSettings] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[0], min_length=1)

    @field_validator("arms")
    @classmethod
    def _arm_names_are_safe(cls, value: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        for name in value:
            _safe(name)
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} holds a seed twice")
        return value

    def plan(self) -> list[PlannedRun]:
        """Return the runs, arm by arm, each an ordinary recipe."""
        shared = self.model_dump(exclude={"arms", "seeds"})
        planned = []
        for arm, change in self.arms.items():
            fields = {**shared, "training": {**self.training, **change.training}, "name": f"{self.name}.{arm}"[:200]}
            if change.regularizers is not None:
                fields["regularizers"] = [method.model_dump() for method in change.regularizers]
            for seed in self.seeds:
                recipe = validated(Recipe, {**fields, "seed": seed}, where=f"arms.{arm}")
                planned.append(PlannedRun(arm, seed, recipe))
        return planned


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe | StudyRecipe:
    """Read a recipe and check it.

    Parameters
    ----------
    name_or_path : str or Path
        A YAML file, or the name of a recipe that ships with the library.
    overrides : sequence of str
        ``a.b=c``, the value in YAML; ``regularizers.0.ratio=0.3`` sets an element.

    Returns
    -------
    Recipe or StudyRecipe
        A study if the recipe has arms. Paths of the corpus are absolute.

    Raises
    ------
    InputError
        Naming every key that is wrong, its value, and the remedy.
    """
    text, where, name = _read(str(name_or_path))
    data = {"name": name, **load_yaml(text, where)}
    apply_overrides(data, overrides)
    _absolute_paths(data)
    recipe = validated(StudyRecipe if "arms" in data else Recipe, data, where=f"recipe {where}")
    if isinstance(recipe, StudyRecipe):
        recipe.plan()
    return recipe


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set keys of `data` in place; see `load_recipe`."""
    for override in overrides:
        key, equals, text = override.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            raise InputError(f"--set {override}: is not of the form KEY=VALUE, such as seed=1 or model.name=nano")
        value = parse_value(text, f"--set {override}")
        here: Any = data
        for at, part in enumerate(keys):
            last = at == len(keys) - 1
            here = _descend(here, part, value if last else None, set_it=last, override=override)


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, every default filled in."""
    return recipe.model_dump(mode="json")


def dump_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that `load_recipe` reads back."""
    return yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True)


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that ship with the library."""
    folder = files("dynamics") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read(name: str) -> tuple[str, str, str]:
    path = Path(name).expanduser()
    if name in packaged_recipes() and not path.is_file():
        return (files("dynamics") / "recipes" / f"{name}.yaml").read_text("utf-8"), name, name
    try:
        return path.read_bytes().decode("utf-8"), name, path.stem if _SAFE_NAME.fullmatch(path.stem) else "run"
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        known = packaged_recipes()
        raise InputError(
            f"recipe {name}: there is no such file ({error.strerror}), and no recipe of that name ships with the "
            f"library{nearest(name, known)}; there are {', '.join(known)}"
        ) from None


def _descend(here: Any, part: str, value: Any, *, set_it: bool, override: str) -> Any:
    if isinstance(here, list):
        if not part.isdecimal() or int(part) >= len(here):
            raise InputError(f"--set {override}: {part!r} is no index of a list of {len(here)}; count from 0")
        if set_it:
            here[int(part)] = value
        return here[int(part)]
    if not isinstance(here, dict):
        raise InputError(f"--set {override}: {part!r} is below a single value, which has no keys")
    if set_it:
        here[part] = value
    elif here.get(part) is None:
        here[part] = {}
    return here[part]


def _absolute_paths(data: dict[str, Any]) -> None:
    """Make paths absolute, so that a run's config.yaml means the same wherever it is read."""
    for section in ("corpus", "validation"):
        if isinstance(data.get(section), dict) and "source" in data[section]:
            data[section]["source"] = _absolute(data[section]["source"])
    base = data.get("base")
    if isinstance(base, dict) and "corpus" in base:
        corpus = base["corpus"]
        if isinstance(corpus, dict):
            if "source" in corpus:
                corpus["source"] = _absolute(corpus["source"])
        else:
            base["corpus"] = _absolute(corpus)
    if isinstance(data.get("tokenizer"), str) and Path(data["tokenizer"]).expanduser().exists():
        data["tokenizer"] = str(Path(data["tokenizer"]).expanduser().absolute())
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("name"), str) and Path(model["name"]).expanduser().is_dir():
        model["name"] = str(Path(model["name"]).expanduser().absolute())


def _absolute(source: Any) -> Any:
    if isinstance(source, list):
        return [_absolute(one) for one in source]
    if not isinstance(source, str) or source.startswith(("builtin:", "hub:")):
        return source
    return str(Path(source).expanduser().absolute())


def _checked_training(training: Mapping[str, Any]) -> dict[str, Any]:
    for key in training:
        reason = _OWNED.get(key)
        for prefix, why in _OWNED_PREFIXES.items():
            if key.startswith(prefix) and key not in _MAY_START_SO:
                reason = why
        if reason is not None:
            raise ValueError(f"{key} belongs to the project ({reason}); leave it out")
    epochs = training.get("num_train_epochs", 1)
    if isinstance(epochs, bool) or not isinstance(epochs, int | float) or epochs < 1 or epochs != int(epochs):
        raise ValueError(f"num_train_epochs is {epochs!r}; give a whole number of at least 1: recording is by epoch")
    return dict(training)


def _safe(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name) or len(name) > 200:
        raise ValueError(f"{name!r} becomes a folder's name; use letters, digits, '.', '_' and '-', at most 200")
    return name


def as_study(recipe: Recipe, where: str) -> StudyRecipe:
    """Return `recipe` if it is a study."""
    if not isinstance(recipe, StudyRecipe):
        raise InputError(f"recipe {where}: has no arms, so it is one run; use `dynamics train {where}`")
    return recipe


def as_run(recipe: Recipe, where: str) -> Recipe:
    """Return `recipe` if it is one run."""
    if isinstance(recipe, StudyRecipe):
        raise InputError(f"recipe {where}: has arms, so it is a study; use `dynamics study {where}`")
    return recipe
