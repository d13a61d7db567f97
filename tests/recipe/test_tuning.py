"""Trials of a study's arms: which there are, that budgets are equal, and what is refused. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.synthetic import make_study

import dynamics
from dynamics.errors import InputError
from dynamics.recipe.loading import as_study, dump_yaml, load_recipe, resolved
from dynamics.recipe.studies import StudyRecipe
from dynamics.recipe.tuning import Budget, TrialResult, Tuned, best_trial

ROOT = Path(dynamics.__file__).parents[1]

STUDY = """
corpus: builtin:python-reference
tokenizer: {train: {vocab_size: 300}}
model: {name: nano}
tuning: {fraction: 0.1}
training: {num_train_epochs: 3, learning_rate: 1e-3}
arms:
  plain:
  dropped:
    regularizers: [{name: entrodrop, ratio: 0.2}]
    training: {learning_rate: 5e-4}
seeds: [0, 7]
tune:
  seed: 100
  arms:
    plain: {training.weight_decay: [0.1, 0.4, 3.2], training.learning_rate: [1e-3, 2e-3]}
    dropped:
      - {regularizers.0.ratio: 0.1}
      - {regularizers.0.ratio: 0.3, training.learning_rate: 1e-4}
      - {regularizers: [{name: entrodrop, ratio: 0.1, pool: 0.8}]}
      - {regularizers: []}
      - {training.weight_decay: 1}
      - {}
"""


def study_of(tmp_path: Path, *overrides: str, text: str = STUDY) -> StudyRecipe:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return as_study(load_recipe(path, overrides), "mine.yaml")


def refusal(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as raised:
        study_of(tmp_path, *overrides)
    return str(raised.value)


def tuned(**changes: Any) -> Tuned:
    trial = TrialResult(settings={"regularizers.0.ratio": 0.3}, run="tuning/dropped/trial-1", loss=2.5, epoch=3)
    fields: dict[str, Any] = {
        "choose": "best",
        "seed": 100,
        "budget": Budget(trials=1, epochs=3),
        "trials": [trial],
        "chosen": 0,
        "settings": trial.settings,
    }
    return Tuned(**{**fields, **changes})


def test_a_grid_is_every_combination_and_the_last_key_changes_first(tmp_path: Path) -> None:
    trials = study_of(tmp_path).trials()
    assert [(trial.arm, trial.number) for trial in trials] == [(a, n) for a in ("plain", "dropped") for n in range(6)]
    assert [(t.recipe.training["weight_decay"], t.recipe.training["learning_rate"]) for t in trials[:6]] == [
        (0.1, 1e-3),
        (0.1, 2e-3),
        (0.4, 1e-3),
        (0.4, 2e-3),
        (3.2, 1e-3),
        (3.2, 2e-3),
    ]
    assert trials[3].settings == {"training.weight_decay": 0.4, "training.learning_rate": 2e-3}


def test_a_trial_is_the_arm_with_its_settings_on_top_and_the_seed_for_tuning(tmp_path: Path) -> None:
    dropped = [trial.recipe for trial in study_of(tmp_path).trials()[6:]]
    first = [one.regularizers[0].model_dump() if one.regularizers else None for one in dropped]
    assert [one and (one["ratio"], one["pool"]) for one in first] == [
        (0.1, 0.5),
        (0.3, 0.5),
        (0.1, 0.8),
        None,
        (0.2, 0.5),
        (0.2, 0.5),
    ]
    assert [one.training["learning_rate"] for one in dropped] == [5e-4, 1e-4, 5e-4, 5e-4, 5e-4, 5e-4]
    assert {one.seed for one in dropped} == {100}
    assert {one.training["num_train_epochs"] for one in dropped} == {3}
    assert dropped[4].name == "mine.dropped.trial-4" and dropped[4].tuned is None
    (run, _) = (run.recipe for run in study_of(tmp_path).plan() if run.arm == "dropped")
    assert dropped[5].model_copy(update={"name": run.name, "seed": run.seed}) == run


def test_a_long_name_keeps_the_number_of_the_trial(tmp_path: Path) -> None:
    name = "n" * 200
    assert study_of(tmp_path, f"name={name}").trials()[5].recipe.name == "n" * 190 + ".trial-5"


def test_what_was_chosen_is_in_the_runs_and_what_it_came_from(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    none = tuned(trials=[], chosen=None, settings={}, budget=Budget(trials=0, epochs=0), unequal_budget="no knob")
    runs = study.plan({"plain": none, "dropped": tuned()})
    assert [(run.arm, run.seed) for run in runs] == [("plain", 0), ("plain", 7), ("dropped", 0), ("dropped", 7)]
    plain, dropped = resolved(runs[0].recipe), resolved(runs[3].recipe)
    assert "weight_decay" not in plain["training"] and plain["tuned"]["unequal_budget"] == "no knob"
    assert dropped["regularizers"][0]["ratio"] == 0.3
    assert dropped["tuned"] == {
        "choose": "best",
        "seed": 100,
        "budget": {"trials": 1, "epochs": 3},
        "trials": [
            {
                "settings": {"regularizers.0.ratio": 0.3},
                "run": "tuning/dropped/trial-1",
                "loss": 2.5,
                "epoch": 3,
            }
        ],
        "chosen": 0,
        "settings": {"regularizers.0.ratio": 0.3},
        "unequal_budget": None,
    }
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(runs[3].recipe))
    assert load_recipe(path) == runs[3].recipe


def test_a_study_that_tunes_is_read_back_and_one_that_does_not_says_nothing_of_it(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    (tmp_path / "study.yaml").write_text(dump_yaml(study))
    assert load_recipe(tmp_path / "study.yaml") == study
    plain = study_of(tmp_path, "tune=null")
    assert not {"tune", "tuned"} & set(resolved(plain)) and plain.trials() == []
    assert not {"tune", "tuned"} & set(resolved(plain.plan()[0].recipe))


def test_unequal_budgets_want_a_statement(tmp_path: Path) -> None:
    fewer = "tune.arms.plain={training.weight_decay: [0.1, 0.4]}"
    message = refusal(tmp_path, fewer)
    assert "tune: arms have unequal numbers of trials (plain 2, dropped 6)" in message
    assert "give each as many, or say why in tune.unequal_budget" in message
    assert "(plain 6, dropped 0)" in refusal(tmp_path, "tune.arms={plain: {training.weight_decay: [1, 2, 3, 4, 5, 6]}}")
    study = study_of(tmp_path, fewer, "tune.unequal_budget=it has one knob")
    assert study.tune is not None and study.tune.unequal_budget == "it has one knob"
    assert "every arm has 6 trials; leave it out" in refusal(tmp_path, "tune.unequal_budget=it has one knob")


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("tuning=null", "tune: trials are compared on a part of their own; set tuning: {fraction: 0.1}"),
        ("tune.seed=7", "tune.seed: 7 is one of the seeds that are reported; choose another"),
        ("tune.seed=-1", "tune.seed: must be at least 0, not -1"),
        ("tune={arms: {plain: [{}]}}", "tune.seed: is missing"),
        ("tune={seed: 100}", "tune.arms: is missing"),
        ("tune.arms={}", "tune.arms: must not be empty"),
        ("tune.choose=lowest", "tune.choose: must be 'best' or 'final', not 'lowest'"),
        ("tune.unequal_budget=''", "tune.unequal_budget: must be text that is not empty"),
        ("tune.arms.drooped=[{}]", "tune.arms.drooped: the study has no such arm; did you mean 'dropped'?"),
        ("tune.arms.plain=3", "tune.arms.plain: must be a grid (KEY: [VALUES]) or a list of settings"),
        ("tune.arms.plain=[]", "tune.arms.plain: must not be empty"),
        ("tune.arms.plain=[3]", "tune.arms.plain.0: must be a mapping (key: value), not 3"),
        ("tune.arms.plain={training.weight_decay: []}", "plain.training.weight_decay: must not be empty"),
        ("tune.arms.plain={training.weight_decay: 3}", "plain.training.weight_decay: must be a list, not 3"),
        (
            "tune.arms.plain={training: {weight_decay: [1]}}",
            "training holds a mapping; write the whole key in one: training.weight_decay: [VALUES]",
        ),
        ("tune.arms.plain={block_size: [64, 128]}", "plain: block_size is no key that an arm may change; tune"),
        ("tune.arms.plain=[{model.name: micro}]", "plain.0: model.name is no key that an arm may change"),
        ("tune.arms.plain=[{training: {}}]", "training is no key that an arm may change"),
        ("tune.arms.plain=[{training.: 1}]", "training. is no key that an arm may change"),
        ("tune.arms.plain=[{training.weight_decay: .nan}]", "training.weight_decay must be a finite number, not nan"),
        ("tune.arms.plain={training.weight_decay: [.inf]}", "training.weight_decay.0 must be a finite number, not inf"),
        ("tune.arms.plain=[{training.seed: 3}]", "training: seed belongs to the project"),
        (
            "tune.arms.plain=[{regularizers.0.ratio: 1}]",
            "tune.arms.plain: regularizers.0.ratio: regularizers is a list",
        ),
        ("tune.arms.dropped=[{regularizers.0.ratoi: 0.1}]", "regularizers.0.ratoi: unknown key; did you mean 'ratio'?"),
        ("tune.arms.dropped=[{regularizers.0.ratio: 0.9}]", "ratio 0.9 is above its pool 0.5"),
        ("tune.arms.dropped=[{regularizers.0.ratio.x: 1}]", "regularizers.0.ratio is the single value 0.2"),
        (f"tune.arms.plain={{training.weight_decay: {list(range(201))}}}", "the grid has 201 trials, and an arm may"),
        ("tuned={}", "tuned"),
    ],
)
def test_bad_trials_are_named(override: str, phrase: str, tmp_path: Path) -> None:
    assert phrase in refusal(tmp_path, override)


@pytest.mark.parametrize(
    ("trials", "phrase"),
    [
        (
            "{training.weight_decay: [1, 0.1, 1.0, 2, 3, 4]}",
            "{'training.weight_decay': 1} and {'training.weight_decay': 1.0}",
        ),
        (
            "[{}, {regularizers.0.ratio: 0.2}, {training.a: 1}, {training.b: 1}, {training.c: 1}, {training.d: 1}]",
            "{} and",
        ),
        # A mean of the weights changes nothing of the training, and so no tuning loss either.
        (
            "[{regularizers: [{name: weight_averaging, decay: 0.9}]}, {regularizers: [{name: weight_averaging}]}, "
            "{training.a: 1}, {training.b: 1}, {training.c: 1}, {training.d: 1}]",
            "decay",
        ),
    ],
)
def test_a_trial_that_stands_there_twice_is_no_second_one(trials: str, phrase: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"tune.arms.dropped={trials}")
    assert phrase in message and "are the same training, which counts as one trial" in message


def test_only_a_study_tunes(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "\n".join(
            line
            for line in STUDY.splitlines()
            if not line.startswith(("seeds", "arms", "  plain", "  d", "    r", "    t"))
        )
    )
    with pytest.raises(InputError, match="tune: unknown key"):
        load_recipe(path, ["tune={seed: 3, arms: {}}"])


def test_the_lowest_loss_is_chosen_the_first_of_equal_ones() -> None:
    def trials(*losses: float | None) -> list[TrialResult]:
        return [TrialResult(settings={"training.x": n}, run="r", loss=loss, epoch=1) for n, loss in enumerate(losses)]

    assert best_trial(trials(3.0, None, 2.0, 2.0, 2.5), where="arm") == 2
    assert best_trial(trials(None, 7.0), where="arm") == 1
    with pytest.raises(InputError, match=r"arm: the tuning loss of all 2 trials is no number.*'training.x': 0"):
        best_trial(trials(None, None), where="arm")


@pytest.mark.parametrize(
    ("values", "chosen", "expected"),
    [
        ([0.1, 0.4, 3.2], 0, ["training.x 0.1 is the lowest that was tried"]),
        ([0.1, 0.4, 3.2], 1, []),
        ([4, 0.1, 4.0], 2, ["training.x 4.0 is the highest that was tried"]),
        ([0.1], 0, []),
        ([1, 1.0], 0, []),
        (["linear", "cosine"], 0, []),
        ([True, False], 0, []),
    ],
)
def test_a_choice_at_the_edge_is_told(values: list[Any], chosen: int, expected: list[str]) -> None:
    trials = [TrialResult(settings={"training.x": value}, run="r", loss=1.0, epoch=1) for value in values]
    trials.append(TrialResult(settings={}, run="r", loss=1.0, epoch=1))
    assert tuned(trials=trials, chosen=chosen, settings=trials[chosen].settings).edges() == expected


# ---------------------------------------------------------------------------------- the example


def test_the_recipe_of_the_repository_tunes_every_arm_alike() -> None:
    study = as_study(load_recipe(ROOT / "recipes" / "tuned.yaml"), "tuned.yaml")
    assert (len(study.trials()), len(study.plan())) == (15, 9)
    tried = [trial.recipe.training["weight_decay"] for trial in study.trials() if trial.arm == "baseline"]
    assert tried == [0.1, 0.4, 0.8, 1.6, 3.2]
    assert [one.split for one in study.held_out] == ["validation", "validation-general"]


def test_what_the_page_shows_of_it_stands_in_it() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(tuning:.*?)```", page, re.DOTALL)
    shown, whole = yaml.safe_load(block), yaml.safe_load((ROOT / "recipes" / "tuned.yaml").read_text(encoding="utf-8"))
    assert shown["tuning"] == whole["tuning"] and shown["seeds"] == whole["seeds"]
    assert shown["tune"]["seed"] == whole["tune"]["seed"] and len(shown["arms"]) == 2
    for arm in shown["arms"]:
        assert shown["arms"][arm] == whole["arms"][arm]
        assert shown["tune"]["arms"][arm] == whole["tune"]["arms"][arm]


def test_the_page_chooses_an_epoch_on_one_part_and_reads_it_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def planted(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
        # The lowest on the part for tuning is at epoch 2; on validation it is at epoch 3.
        return np.full(entropy.shape, {"tuning": [4, 3, 1, 2], "validation": [4, 3, 2.5, 2]}.get(split, [0] * 4)[epoch])

    held_out = ("validation", "tuning")
    make_study(tmp_path / "runs/quickstart", arms={"a": {}}, seeds=(0,), epochs=3, held_out=held_out, loss_fn=planted)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.split() == ["a", "2", "2.5"]
