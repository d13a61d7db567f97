"""The list of methods, and what is derived from it."""

import pytest
from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments

from dynamics.recipe.training_keys import conflict
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.entrodrop import EntroDropSettings
from dynamics.regularizers.registry import METHODS, RegularizerSettings, build_regularizers, curricula, setting
from dynamics.regularizers.schedules import ScheduleSettings

REQUIRED = {"weight_decay": {"value": 0.25}}


def made(name):
    return METHODS[name](**REQUIRED.get(name, {}))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_its_facts(name):
    method = made(name)
    assert method.recipe_name() == method.settings.name == name
    assert isinstance(method.settings, method.settings_model) and method.acts_on
    assert method.settings_model.__name__ == f"{type(method).__name__}Settings"
    assert method.settings_model.__module__ == type(method).__module__
    assert method.needs_logits <= method.adapts


@pytest.mark.parametrize("name", METHODS)
def test_the_union_holds_every_methods_settings(name):
    parsed = TypeAdapter(RegularizerSettings).validate_python({"name": name, **REQUIRED.get(name, {})})
    assert type(parsed) is METHODS[name].settings_model
    assert type(build_regularizers([parsed])[0]) is METHODS[name]


def test_the_union_holds_nothing_else():
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        TypeAdapter(RegularizerSettings).validate_python({"name": "dropout"})


def test_training_arguments_that_carry_methods():
    carried = {name: made(name).training_arguments() for name, method in METHODS.items() if method.argument}
    assert carried == {
        "weight_decay": {"weight_decay": 0.25},
        "label_smoothing": {"label_smoothing_factor": 0.1},
        "neftune": {"neftune_noise_alpha": 5.0},
    }
    fields = {field for arguments in carried.values() for field in arguments}
    assert fields <= set(TrainingArguments.__dataclass_fields__)
    assert all(made(name).training_arguments() == {} for name in METHODS if name not in carried)


def test_which_share_their_draws_and_which_end_they_drop():
    assert {name: method.pool_end for name, method in METHODS.items() if method.draws} == {
        "entrodrop": "lowest",
        "inverse_entrodrop": "highest",
        "random_token_dropout": "any",
    }
    assert all(method.draws for method in METHODS.values() if method.pool_end)


def test_who_asks_for_a_second_forward_pass():
    assert {name: made(name).auxiliary_weight for name in METHODS if made(name).auxiliary_weight} == {
        "masked_input_regularization": 0.4
    }


def test_divisors():
    def divisors(**settings):
        found = {name: method.divisor(settings) for name, method in METHODS.items()}
        return {name for name, divisor in found.items() if divisor is not None}

    assert divisors() == set()
    droppers = {"entrodrop", "inverse_entrodrop", "random_token_dropout"}
    assert divisors(target="loss", normalize="kept") == {"goldfish_loss", *droppers}
    assert divisors(target="input", normalize="all") == {"goldfish_loss"}
    assert METHODS["goldfish_loss"]().normalizes_by_kept and not METHODS["entrodrop"]().normalizes_by_kept
    assert METHODS["entrodrop"](target="both", normalize="kept").normalizes_by_kept


def test_a_setting_is_what_is_written_or_its_default():
    assert setting({"name": "entrodrop"}, "pool") == 0.5
    assert setting({"name": "entrodrop", "pool": 0.3}, "pool") == 0.3
    assert setting({"name": "entrodrop"}, "schedule") == ScheduleSettings()
    assert setting({"name": "weight_decay"}, "value") is None  # has no default
    assert setting({"name": "weight_decay"}, "pool") is None
    assert setting({"name": "another", "pool": 0.3}, "pool") == 0.3
    assert setting({}, "pool") is None


def test_curricula_are_those_of_methods_that_drop():
    entrodrop = build_regularizers([EntroDropSettings(ratio=0.2)])[0]
    [found] = curricula([made("weight_decay"), entrodrop], 4)
    assert found["name"] == "entrodrop" and found["mean_ratio"] == pytest.approx(0.2 * (0 + 0.25 + 0.5 + 0.75) / 4)


def test_a_method_of_ones_own_goes_with_all():
    assert issubclass(METHODS["entrodrop"], Regularizer)
    assert conflict([{"name": "mine", "normalize": "kept"}, {"name": "goldfish_loss", "normalize": "all"}], {}) is None
