"""What a study is: arms by seeds, each an ordinary run. Never loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from dynamics.errors import nearest
from dynamics.recipe.names import Name, Seed, require_apart
from dynamics.recipe.settings import Recipe, Training
from dynamics.recipe.training_keys import deep_merged
from dynamics.recipe.tuning import Tuned, TuneSettings, with_settings
from dynamics.regularizers.registry import METHODS, RegularizerSettings
from dynamics.validation import Settings, shown, validated


class ArmSettings(Settings):
    """What an arm of a study changes: regularisers (replaced), training arguments (merged)."""

    other_words = {"name": "regularizers", "method": "regularizers", "methods": "regularizers"}

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


class PlannedTrial(NamedTuple):
    """One trial of an arm, by its number from 0, and what it changes."""

    arm: str
    number: int
    settings: dict[str, Any]
    recipe: Recipe


class StudyRecipe(Recipe):
    """Arms by seeds: the same starting point, trained differently; each perhaps tuned first."""

    later = frozenset({"tune", "tuned"})

    arms: dict[Name, ArmSettings] = Field(min_length=1)
    seeds: list[Seed] = Field(default=[0], min_length=1)
    tune: TuneSettings | None = None

    @field_validator("arms")
    @classmethod
    def _folders_differ(cls, value: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        require_apart(value)
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
        if self.tuned is not None:
            raise ValueError("tuned: is what a study writes into its runs; write tune: in a study")
        self.plan()
        if self.tune is not None:
            self._require_fair(self.tune)
        return self

    def plan(self, tuned: Mapping[str, Tuned] | None = None) -> list[PlannedRun]:
        """Return the runs, arm by arm and seed by seed, each an ordinary recipe.

        Parameters
        ----------
        tuned : mapping of str to Tuned, optional
            What was chosen for each arm; without it, the arms as they stand.
        """
        planned = []
        for arm in self.arms:
            fields = self._fields_of(arm)
            if tuned is not None:
                fields = {**with_settings(fields, tuned[arm].settings, where=f"arms.{arm}"), "tuned": tuned[arm]}
            for seed in self.seeds:
                recipe = validated(Recipe, {**fields, "seed": seed}, where=f"arms.{arm}")
                planned.append(PlannedRun(arm, seed, recipe))
        return planned

    def trials(self) -> list[PlannedTrial]:
        """Return the trials, arm by arm, each an ordinary recipe with the seed for tuning; none without `tune`."""
        if self.tune is None:
            return []
        planned = []
        for arm in self.arms:
            fields, where = self._fields_of(arm), f"tune.arms.{arm}"
            for number, settings in enumerate(self.tune.settings(arm)):
                changed = with_settings(fields, settings, where=where)
                changed |= {"seed": self.tune.seed, "name": f"{self.name}.{arm}"[:190] + f".trial-{number}"}
                recipe = validated(Recipe, changed, where=f"{where}, {shown(settings)}")
                planned.append(PlannedTrial(arm, number, settings, recipe))
        return planned

    def _fields_of(self, arm: str) -> dict[str, Any]:
        change = self.arms[arm]
        fields = self.model_dump(exclude={"arms", "seeds", "seed", "tune", "tuned"})
        fields |= {"training": deep_merged(self.training, change.training), "name": f"{self.name}.{arm}"[:200]}
        if change.regularizers is not None:
            fields["regularizers"] = [method.model_dump() for method in change.regularizers]
        return fields

    def _require_fair(self, tune: TuneSettings) -> None:
        """Raise ValueError unless trials say something of all arms alike, and nothing that is reported."""
        if self.tuning is None:
            raise ValueError("tune: trials are compared on a part of their own; set tuning: {fraction: 0.1}")
        if tune.seed in self.seeds:
            raise ValueError(f"tune.seed: {tune.seed} is one of the seeds that are reported; choose another")
        for arm in tune.arms:
            if arm not in self.arms:
                raise ValueError(f"tune.arms.{arm}: the study has no such arm{nearest(arm, self.arms)}")
        known: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        for trial in self.trials():
            fields, others = _training_of(trial.recipe), known.setdefault(trial.arm, [])
            for settings, other in others:
                if other == fields:
                    raise ValueError(
                        f"tune.arms.{trial.arm}: {shown(settings)} and {shown(trial.settings)} are the same training, "
                        "which counts as one trial; keep one of them"
                    )
            others.append((trial.settings, fields))
        tune.require_equal_budgets(list(self.arms))


def _training_of(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe makes the trained model: a mean of the weights, measured beside it, does not."""
    methods = [one.model_dump() for one in recipe.regularizers]
    trained = [one for one in methods if "copy of the weights" not in METHODS[one["name"]].acts_on]
    return {**recipe.model_dump(exclude={"name"}), "regularizers": trained}
