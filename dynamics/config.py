"""Recipes: what a run and a study are, read from YAML and checked. Never loads torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
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

from dynamics.errors import InputError, nearest
from dynamics.named_sizes import NAMED_SIZES
from dynamics.regularizers.settings import RegularizerSettings
from dynamics.training_keys import checked_training, conflict, merged
from dynamics.validation import Settings, shown, validated
from dynamics.yaml_reading import apply_overrides, dump, load_yaml

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def _safe(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name):
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
    """The model: a named size (`dynamics.named_sizes`), a folder or a hub name."""

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
        problem = conflict([method.model_dump() for method in self.regularizers], self.training)
        if problem is not None:
            raise ValueError(problem)
        for at, method in enumerate(self.regularizers):
            # Dumped, since not every method has a source.
            if method.model_dump().get("source") == "previous_epoch" and self.recording.train_sequences != "all":
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


class ArmSettings(Settings):
    """What an arm of a study changes: regularisers (replaced), training arguments (merged)."""

    regularizers: list[RegularizerSettings] | None = None
    training: Training = {}

    @model_validator(mode="before")
    @classmethod
    def _nothing_changes(cls, value: Any) -> Any:
        return {} if value is None else value  # `baseline:` with nothing after it


class PlannedRun(NamedTuple):
    """One run of a study."""

    arm: str
    seed: int
    recipe: Recipe


class StudyRecipe(Recipe):
    """Arms by seeds: the same starting point, trained differently."""

    arms: dict[Name, ArmSettings] = Field(min_length=1)
    seeds: list[Seed] = Field(default=[0], min_length=1)

    @field_validator("arms")
    @classmethod
    def _folders_differ(cls, value: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        # Some file systems take "A" and "a" for the same folder.
        by_folder: dict[str, str] = {}
        for name in value:
            other = by_folder.setdefault(name.lower(), name)
            if other != name:
                raise ValueError(f"{other!r} and {name!r} differ in case alone; rename one")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"{shown(value)} holds a seed twice; keep one")
        return value

    @model_validator(mode="after")
    def _arms_are_runs(self) -> StudyRecipe:
        if "seed" in self.model_fields_set:
            raise ValueError(f"seed: is not read in a study; write seeds: [{self.seed}]")
        self.plan()
        return self

    def plan(self) -> list[PlannedRun]:
        """Return the runs, arm by arm and seed by seed, each an ordinary recipe."""
        shared = self.model_dump(exclude={"arms", "seeds", "seed"})
        planned = []
        for arm, change in self.arms.items():
            fields = {
                **shared,
                "training": merged(self.training, change.training),
                "name": f"{self.name}.{arm}"[:200],
            }
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
        A study if the recipe has arms. Paths in it are absolute. Its name, if it gives none, is
        that of the file.

    Raises
    ------
    InputError
        Naming every key that is wrong, its value, and the remedy.
    """
    text, where, name = _read(str(name_or_path))
    data = apply_overrides({"name": name, **load_yaml(text, where)}, overrides)
    if "seeds" in data and "arms" not in data:
        raise InputError(f"recipe {where}: seeds: only a study has seeds; add arms, or write seed: N")
    model = StudyRecipe if "arms" in data else Recipe
    return validated(model, data, where=f"recipe {where}")


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, every default filled in."""
    unread = {"seed"} if isinstance(recipe, StudyRecipe) else set()
    return recipe.model_dump(mode="json", exclude=unread)


def dump_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that `load_recipe` reads back."""
    return dump(resolved(recipe))


def differing_keys(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys at which two resolved recipes differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        return [found for key in keys for found in differing_keys(one.get(key), other.get(key), f"{prefix}.{key}")]
    return [] if one == other else [prefix.lstrip(".")]


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that ship with the library."""
    folder = files("dynamics") / "recipes"
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def as_study(recipe: Recipe, where: str) -> StudyRecipe:
    """Return `recipe` if it is a study; raise InputError if it is one run."""
    if not isinstance(recipe, StudyRecipe):
        raise InputError(f"recipe {where}: has no arms, so it is one run; use `dynamics train {where}`")
    return recipe


def as_run(recipe: Recipe, where: str) -> Recipe:
    """Return `recipe` if it is one run; raise InputError if it is a study."""
    if isinstance(recipe, StudyRecipe):
        raise InputError(f"recipe {where}: has arms, so it is a study; use `dynamics study {where}`")
    return recipe


def _read(name: str) -> tuple[str, str, str]:
    """Return the text of a recipe, what to call it in messages, and the name it has by default."""
    path = os.path.expanduser(name)
    known = packaged_recipes()
    if name in known and not os.path.isfile(path):
        return (files("dynamics") / "recipes" / f"{name}.yaml").read_text("utf-8"), name, name
    if os.path.isdir(path):
        inside = [file for file in ("study.yaml", "config.yaml") if os.path.isfile(f"{path}/{file}")]
        hint = f"the file {os.path.join(name, inside[0])}" if inside else "a YAML file"
        raise InputError(f"recipe {name}: is a folder; give {hint}")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except FileNotFoundError:
        raise InputError(
            f"recipe {name}: there is no such file, and no recipe of that name ships with the "
            f"library{nearest(name, known)}; there are {', '.join(known)}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"recipe {name}: cannot be read ({reason}); give a YAML file") from None
    stem = Path(path).stem
    return text, name, stem if _SAFE_NAME.fullmatch(stem) else "run"
