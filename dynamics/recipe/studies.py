"""What a study is: arms by seeds, each an ordinary run. Never loads torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from dynamics.recipe.settings import Name, Recipe, Seed, Training, require_apart
from dynamics.recipe.training_keys import deep_merged
from dynamics.regularizers.registry import RegularizerSettings
from dynamics.validation import Settings, shown, validated


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
        self.plan()
        return self

    def plan(self) -> list[PlannedRun]:
        """Return the runs, arm by arm and seed by seed, each an ordinary recipe."""
        shared = self.model_dump(exclude={"arms", "seeds", "seed"})
        planned = []
        for arm, change in self.arms.items():
            fields = {
                **shared,
                "training": deep_merged(self.training, change.training),
                "name": f"{self.name}.{arm}"[:200],
            }
            if change.regularizers is not None:
                fields["regularizers"] = [method.model_dump() for method in change.regularizers]
            for seed in self.seeds:
                recipe = validated(Recipe, {**fields, "seed": seed}, where=f"arms.{arm}")
                planned.append(PlannedRun(arm, seed, recipe))
        return planned
