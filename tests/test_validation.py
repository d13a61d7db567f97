"""Every way in which settings can be wrong, in the words of whoever wrote them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field

from dynamics.errors import InputError
from dynamics.recipe.settings import Recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.validation import Settings, shown, validated

GOOD: dict[str, Any] = {"corpus": "builtin:python-reference", "tokenizer": "gpt2", "model": {"name": "nano"}}


class Leaf(Settings):
    name: Literal["leaf"] = "leaf"
    size: int = 1
    share: float = Field(default=0.5, gt=0.0, le=1.0)


class Twig(Settings):
    name: Literal["twig"] = "twig"
    leaves: list[Leaf] = []
    by_key: dict[str, Leaf] = {}
    deep: dict[str, dict[str, list[Leaf]]] = {}
    either: Literal["all"] | int = "all"
    maybe: Leaf | None = None


def problems(data: Any, model: type[Settings] = Twig) -> list[str]:
    with pytest.raises(InputError) as raised:
        validated(model, data, where="here")
    message = str(raised.value)
    assert message.startswith("here: ") and "\n" not in message
    return message.removeprefix("here: ").split("; ")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"leves": []}, ["leves: unknown key", "did you mean 'leaves'?"]),
        ({"leaves": [{}, {"siz": 1}]}, ["leaves.1.siz: unknown key", "did you mean 'size'?"]),
        ({"by_key": {"a": {"siz": 1}}}, ["by_key.a.siz: unknown key", "did you mean 'size'?"]),
        ({"by_key": {"leaf": {"siz": 1}}}, ["by_key.leaf.siz: unknown key", "did you mean 'size'?"]),
        ({"deep": {"a": {"b": [{"siz": 1}]}}}, ["deep.a.b.0.siz: unknown key", "did you mean 'size'?"]),
        ({"maybe": {"siz": 1}}, ["maybe.siz: unknown key", "did you mean 'size'?"]),
        ({"maybe": {"zzz": 1}}, ["maybe.zzz: unknown key", "the keys here are name, share, size"]),
        ({"leaves": [{"size": "a"}]}, ["leaves.0.size: must be a whole number, not 'a'"]),
        ({"leaves": [{"size": 1.5}]}, ["leaves.0.size: must be a whole number, not 1.5"]),
        ({"leaves": [{"size": True}]}, ["leaves.0.size: must be a whole number, not true"]),
        ({"leaves": [{"size": None}]}, ["leaves.0.size: must be a whole number, not null"]),
        ({"leaves": {"size": 1}}, ["leaves: must be a list, not {'size': 1}", "write leaves: [{size: 1}]"]),
        ({"leaves": [3]}, ["leaves.0: must be a mapping (key: value), not 3"]),
        ({"maybe": {"share": 0.0}}, ["maybe.share: must be above 0, not 0.0"]),
        ({"maybe": {"share": 2.0}}, ["maybe.share: must be at most 1, not 2.0"]),
        ({"maybe": {"share": float("inf")}}, ["maybe.share: must be a finite number, not inf"]),
        ({"either": "some"}, ["either: must be 'all' or a whole number, not 'some'"]),
        ({"name": "leaf"}, ["name: must be 'twig', not 'leaf'"]),
        ([], ["must be a mapping (key: value), not []"]),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_where_it_stands(data: Any, expected: list[str]) -> None:
    assert problems(data) == expected


@pytest.mark.parametrize(
    ("change", "phrases"),
    [
        ({"model": {}}, ["model.name: is missing"]),
        ({"corpus": {}}, ["corpus.source: is missing"]),
        ({"regularizers": [{"name": "randm"}]}, ["regularizers.0: name 'randm' is unknown"]),
        ({"regularizers": [{"name": "entrodrop", "ratoi": 3}]}, ["regularizers.0.ratoi: unknown key", "'ratio'"]),
        ({"regularizers": [{"ratio": 0.1}]}, ["regularizers.0: has no name", "entrodrop", "neftune"]),
        ({"regularizers": [{"name": 3}]}, ["regularizers.0"]),
        ({"regularizers": [{"name": "weight_decay"}]}, ["regularizers.0.value: is missing"]),
        (
            {"regularizers": [{"name": "entrodrop", "schedule": {"name": "linera"}}]},
            ["regularizers.0.schedule.name: must be", "'linear'", "'linera'"],
        ),
        ({"tokenizer": {"train": {"vocab": 300}}}, ["tokenizer.train.vocab: unknown key", "'vocab_size'"]),
        ({"tokenizer": {"trian": 1}}, ["tokenizer.trian: unknown key; did you mean 'train'?"]),
        ({"base": {"corpus": {"sorce": "x"}}}, ["base.corpus.sorce: unknown key; did you mean 'source'?"]),
        ({"recording": {"train_sequences": 0}}, ["recording.train_sequences: must be", "'all'", "at least 1"]),
        ({"model": {"name": ""}}, ["model.name: must be text that is not empty"]),
        ({"model": {"name": 3}}, ["model.name: must be text, not 3 (quotes make it text)"]),
    ],
    ids=str,
)
def test_recipes(change: dict[str, Any], phrases: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        validated(Recipe, {**GOOD, **change}, where="recipe")
    assert [phrase for phrase in phrases if phrase not in str(raised.value)] == [], str(raised.value)


def test_below_an_arm_the_keys_are_those_of_the_arm() -> None:
    arms = {
        "regularizers": {"regularizers": [{"name": "entrodrop", "ratoi": 3}]},  # an arm named as a field
        "other": {"regularisers": []},
    }
    with pytest.raises(InputError) as raised:
        validated(StudyRecipe, {**GOOD, "arms": arms}, where="recipe")
    assert "arms.regularizers.regularizers.0.ratoi: unknown key; did you mean 'ratio'?" in str(raised.value)
    assert "arms.other.regularisers: unknown key; did you mean 'regularizers'?" in str(raised.value)


def test_all_problems_are_in_one_message_and_none_is_there_twice() -> None:
    found = problems({"leaves": [{"size": "a"}, {"size": "a"}], "either": [], "zzz": 1})
    assert len(found) == len(set(found))
    text = "; ".join(found)
    for key in ("leaves.0.size: ", "leaves.1.size: ", "either: ", "zzz: "):
        assert text.count(key) == 1


def test_good_data_is_returned_and_does_not_change_type() -> None:
    leaf = validated(Leaf, {"size": 2, "share": 1}, where="here")
    assert (leaf.name, leaf.size, leaf.share) == ("leaf", 2, 1.0)
    assert validated(Twig, {"either": 3}, where="here").either == 3


@pytest.mark.parametrize(("value", "text"), [(None, "null"), (True, "true"), ("a", "'a'"), (1.5, "1.5"), ([1], "[1]")])
def test_shown_is_much_like_yaml(value: Any, text: str) -> None:
    assert shown(value) == text


def test_shown_is_short_and_one_line() -> None:
    assert len(shown("x" * 1000)) == 60
    assert "\n" not in shown("a\nb")


def test_shown_names_a_number_that_python_does_not_write() -> None:
    assert shown(10**5000) == "a number that is too large"
    assert shown([10**5000]) == "values with a number that is too large"


def test_a_key_that_is_half_a_character() -> None:
    # Its message would hold the key, which pydantic cannot write.
    training = {"accelerator_config": {"a\ud800": b""}}
    with pytest.raises(InputError, match=r"recipe: a key or value holds a lone surrogate \(U\+D800\)"):
        validated(Recipe, {**GOOD, "training": training}, where="recipe")
