"""What a study tunes before it is run: trials of every arm, and what became of them. Never loads torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from dynamics.errors import InputError
from dynamics.recipe.names import Name, Seed
from dynamics.recipe.training_keys import require_plain
from dynamics.recipe.yaml_reading import with_key
from dynamics.validation import Settings, shown

# Of an arm. Each is a whole training.
_MOST_TRIALS = 200


def _tunable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by dotted key, if each is one that an arm may change and JSON can hold."""
    for key, value in settings.items():
        first, *rest = key.split(".")
        # Whole `training:` would be replaced, not merged as an arm's is.
        if first not in ("training", "regularizers") or key == "training" or not all(rest):
            raise ValueError(
                f"{key} is no key that an arm may change; tune training.KEY, regularizers.0.KEY or regularizers"
            )
        require_plain(value, key)
    return settings


def _dotted(grid: Any) -> Any:
    for key, values in grid.items():
        if isinstance(values, Mapping) and values:
            inner = next(iter(values))
            raise ValueError(f"{key} holds a mapping; write the whole key in one: {key}.{inner}: [VALUES]")
    return grid


def _few(grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
    n_trials = math.prod(map(len, grid.values()))
    if n_trials > _MOST_TRIALS:
        raise ValueError(f"the grid has {n_trials:,} trials, and an arm may have {_MOST_TRIALS}; leave values out")
    _tunable(dict(grid))
    return grid


def _trials_kind(value: Any) -> str | None:
    return "grid" if isinstance(value, Mapping) else "list" if isinstance(value, list) else None


Change = Annotated[dict[str, Any], AfterValidator(_tunable)]
Values = Annotated[list[Any], Field(min_length=1)]
Trials = Annotated[
    Annotated[dict[str, Values], BeforeValidator(_dotted), AfterValidator(_few), Tag("grid")]
    | Annotated[list[Change], Field(min_length=1, max_length=_MOST_TRIALS), Tag("list")],
    Discriminator(
        _trials_kind,
        custom_error_type="trials",
        custom_error_message="must be a grid (KEY: [VALUES]) or a list of settings ([{KEY: VALUE}])",
    ),
]


class TuneSettings(Settings):
    """Trials of every arm, on the part set aside for tuning and with a seed that is not reported.

    Of each arm the trial with the lowest tuning loss is chosen, the first of equal ones, and its settings are those of
    all reported seeds. By default that is the loss of a trial's best epoch: nobody keeps the last one of a training
    whose tuning loss has risen, and by the final loss a setting is judged for how long it was trained as well.

    Attributes
    ----------
    seed : int
        Of all trials.
    arms : dict of str to grid or list
        By arm: a grid, dotted keys with lists of values, of which every combination is a trial; or a list of settings,
        dotted keys with a value each.
    choose : {"best", "final"}
        By the lowest tuning loss of any epoch after the first pass, or by the last one.
    unequal_budget : str, optional
        Why arms have unequal numbers of trials, where they do; it is written where the choice is.
    """

    seed: Seed
    arms: dict[Name, Trials] = Field(min_length=1)
    choose: Literal["best", "final"] = "best"
    unequal_budget: str | None = Field(default=None, min_length=1)

    def settings(self, arm: str) -> list[dict[str, Any]]:
        """Return the settings of an arm's trials, by dotted key; of a grid, the last key changes first."""
        trials = self.arms.get(arm, [])
        if isinstance(trials, list):
            return [dict(settings) for settings in trials]
        return [dict(zip(trials, values, strict=True)) for values in itertools.product(*trials.values())]

    def require_equal_budgets(self, arms: list[str]) -> None:
        """Raise ValueError if some of a study's arms have more trials than others, and nobody said why."""
        numbers = {arm: len(self.settings(arm)) for arm in arms}
        equal = len(set(numbers.values())) == 1
        if not equal and self.unequal_budget is None:
            raise ValueError(
                f"tune: arms have unequal numbers of trials ({', '.join(f'{arm} {n}' for arm, n in numbers.items())}), "
                "which favours those that have more; give each as many, or say why in tune.unequal_budget"
            )
        if equal and self.unequal_budget is not None:
            raise ValueError(f"tune.unequal_budget: every arm has {len(self.settings(arms[0]))} trials; leave it out")


class Budget(Settings):
    """What an arm's trials cost: how many there were, and passes over the training data in all of them."""

    trials: int
    epochs: int


class TrialResult(Settings):
    """A trial: what it changed, where its run lies in the study, its tuning loss in nats per token, and at which epoch.

    Without a loss, it diverged.
    """

    settings: dict[str, Any]
    run: str
    loss: float | None
    epoch: int | None


class Tuned(Settings):
    """How the settings of a run were chosen. A study writes it into the recipes of its runs.

    Attributes
    ----------
    choose, seed, unequal_budget
        As in `TuneSettings`.
    budget : Budget
    trials : list of TrialResult
    chosen : int, optional
        Which of them; None where the arm had none.
    settings : dict
        Those chosen, by dotted key.
    """

    choose: Literal["best", "final"]
    seed: Seed
    budget: Budget
    trials: list[TrialResult]
    chosen: int | None
    settings: dict[str, Any]
    unequal_budget: str | None = None

    def edges(self) -> list[str]:
        """Say which chosen numbers are the lowest or the highest that were tried: beyond them may be better ones."""
        found = []
        for key, value in self.settings.items():
            tried = [trial.settings[key] for trial in self.trials if key in trial.settings]
            if all(isinstance(one, int | float) and not isinstance(one, bool) for one in tried) and len(set(tried)) > 1:
                found += [f"{key} {value} is the lowest that was tried"] if value == min(tried) else []
                found += [f"{key} {value} is the highest that was tried"] if value == max(tried) else []
        return found


def with_settings(fields: dict[str, Any], settings: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return the fields of a recipe with `settings`, by dotted key, on top.

    Raises
    ------
    InputError
        Naming the key that does not fit.
    """
    for key, value in settings.items():
        fields = with_key(fields, key.split("."), value, where=f"{where}: {key}")
    return fields


def best_trial(trials: list[TrialResult], *, where: str) -> int:
    """Return the place of the trial with the lowest loss, the first of equal ones.

    Raises
    ------
    InputError
        All of them diverged.
    """
    losses = [math.inf if trial.loss is None else trial.loss for trial in trials]
    at = min(range(len(losses)), key=losses.__getitem__)
    if math.isinf(losses[at]):
        shown_settings = "; ".join(shown(trial.settings) for trial in trials[:3])
        raise InputError(
            f"{where}: the tuning loss of all {len(trials)} trials is no number, since they diverged "
            f"({shown_settings}{'; ...' if len(trials) > 3 else ''}); give others, in a new directory"
        )
    return at
