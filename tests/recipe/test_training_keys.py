"""The `training:` part of a recipe: what the project owns, what contradicts, what is merged."""

from __future__ import annotations

from datetime import date
from itertools import combinations
from typing import Any

import pytest

from dynamics.recipe.training_keys import checked_training, conflict, deep_merged

METHODS = [
    "random_token_dropout",
    "entrodrop",
    "weight_decay",
    "hidden_dropout",
    "attention_dropout",
    "label_smoothing",
    "neftune",
    "goldfish_loss",
    "entropy_adaptive_weighting",
    "loss_truncation",
]


def by_name(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def test_what_belongs_to_the_recipe_passes_as_it_is() -> None:
    fields = {
        "num_train_epochs": 3.0,
        "learning_rate": 0.001,
        "per_device_eval_batch_size": 4,
        "eval_accumulation_steps": 2,
        "lr_scheduler_kwargs": {"a": [1, "b", None, True]},
    }
    assert checked_training(fields) == fields
    assert checked_training({}) == {}


def test_every_field_that_the_project_owns_is_named_with_its_reason() -> None:
    with pytest.raises(ValueError) as caught:
        checked_training({"save_total_limit": 1, "learning_rate": 1, "max_steps": 5})
    assert str(caught.value) == (
        "save_total_limit belongs to the project (every run saves its model); leave it out; "
        "max_steps belongs to the project (set num_train_epochs: recording is by epoch); "
        "leave it out"
    )


@pytest.mark.parametrize("epochs", [0, -1, 0.5, 1.5, True, None, "3", float("nan"), float("inf")])
def test_epochs_are_whole_numbers_of_at_least_one(epochs: Any) -> None:
    with pytest.raises(ValueError, match="num_train_epochs must be a whole number of at least 1"):
        checked_training({"num_train_epochs": epochs})


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), "x must be a finite number, not nan"),
        ([1, {"a": float("inf")}], "x.1.a must be a finite number, not inf"),
        ({"a": {1: 2}}, "x.a: the key 1 must be text"),
        (date(2024, 1, 2), "x must be a number, text, true or false, not 2024-01-02"),
    ],
)
def test_what_json_cannot_hold_is_refused(value: Any, place: str) -> None:
    with pytest.raises(ValueError) as caught:
        checked_training({"x": value})
    assert str(caught.value) == place


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("weight_decay", "weight_decay"),
        ("label_smoothing", "label_smoothing_factor"),
        ("neftune", "neftune_noise_alpha"),
    ],
)
@pytest.mark.parametrize("value", [0.1, 0.0, None])
def test_a_method_and_its_field_contradict_whatever_the_value(name: str, field: str, value: Any) -> None:
    problem = conflict(by_name("entrodrop", name), {field: value})
    assert problem == f"regularizers: {name} and training.{field} set the same value; keep one of them"


def test_other_methods_and_fields_go_together() -> None:
    assert conflict(by_name("entrodrop", "neftune"), {"weight_decay": 0.1}) is None
    assert conflict(by_name(*METHODS[1:]), {"learning_rate": 0.1}) is None
    twice = conflict(by_name("neftune", "entrodrop", "neftune"), {})
    assert twice == "regularizers: neftune stands there twice; keep one"


def test_deleted_tokens_and_a_masked_second_pass_do_not_go_together() -> None:
    deleting = {"name": "entrodrop", "target": "both", "replacement": "deleted"}
    masked = {"name": "masked_input_regularization"}
    for pair in ([deleting, masked], [masked, deleting]):
        problem = conflict(pair, {})
        assert problem is not None and "entrodrop with replacement: deleted moves tokens" in problem
    assert conflict([{**deleting, "replacement": "zero"}, masked], {}) is None


@pytest.mark.parametrize("pair", list(combinations(["entrodrop", "inverse_entrodrop", "random_token_dropout"], 2)))
def test_a_control_does_not_stand_beside_what_it_controls(pair: tuple[str, str]) -> None:
    problem = conflict(by_name("weight_decay", *pair), {})
    assert problem is not None and f"{pair[0]} and {pair[1]} are each other's controls" in problem


def test_two_divisors_contradict_and_both_methods_are_named() -> None:
    goldfish = {"name": "goldfish_loss", "normalize": "kept"}
    dropped = {"name": "random_token_dropout", "target": "loss", "normalize": "all"}
    expected = (
        "regularizers: goldfish_loss divides the loss by the tokens kept (normalize: kept), and random_token_dropout by "
        "all predicted tokens (normalize: all); give both the same normalize"
    )
    assert conflict([goldfish, dropped], {}) == conflict([dropped, goldfish], {}) == expected
    assert conflict([goldfish, {**dropped, "target": "both"}], {}) == expected
    assert conflict([goldfish, {**dropped, "normalize": "kept"}], {}) is None
    assert conflict([{**goldfish, "normalize": "all"}, dropped], {}) is None
    # What drops inputs alone does not divide, and the weights of the others come after both.
    assert conflict([goldfish, {**dropped, "target": "input"}], {}) is None
    adaptive = {"name": "entropy_adaptive_weighting", "normalize": "paper"}
    assert conflict([goldfish, adaptive, *by_name("loss_truncation", "label_smoothing")], {}) is None


def test_settings_contradict_in_a_recipe_as_they_do_here() -> None:
    from dynamics.errors import InputError
    from dynamics.recipe.settings import Recipe
    from dynamics.validation import validated

    fields = {
        "corpus": "builtin:python-reference",
        "tokenizer": {"train": {"vocab_size": 300}},
        "model": {"name": "nano"},
    }
    pair = [{"name": "goldfish_loss"}, {"name": "entrodrop", "target": "loss"}]
    with pytest.raises(InputError, match="goldfish_loss divides the loss by the tokens kept .* and entrodrop by all"):
        validated(Recipe, {**fields, "regularizers": pair}, where="recipe")
    pair[1] |= {"normalize": "kept"}
    assert len(validated(Recipe, {**fields, "regularizers": pair}, where="recipe").regularizers) == 2


def test_mappings_are_merged_and_all_else_is_replaced() -> None:
    fields = {"a": {"b": {"c": 1, "d": 2}, "e": [1, 2]}, "f": {"g": 1}, "h": 3}
    change = {"a": {"b": {"c": 5}, "e": [3]}, "f": 7, "h": {"i": 8}, "j": None}
    expected = {"a": {"b": {"c": 5, "d": 2}, "e": [3]}, "f": 7, "h": {"i": 8}, "j": None}
    assert deep_merged(fields, change) == expected
    assert fields == {"a": {"b": {"c": 1, "d": 2}, "e": [1, 2]}, "f": {"g": 1}, "h": 3}
