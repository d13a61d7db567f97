"""Recipes: YAML as people mean it, overrides, paths, what belongs to whom, and studies."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dynamics.errors import InputError
from dynamics.recipe.loading import (
    as_run,
    as_study,
    config_in,
    dump_yaml,
    load_recipe,
    packaged_recipes,
    resolved,
    told_differences,
)
from dynamics.recipe.settings import Recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.recipe.yaml_reading import apply_overrides, dump, load_yaml
from dynamics.records.schema import config_hash

RECIPE = """
corpus: builtin:python-reference
tokenizer: {train: {vocab_size: 300}}
model: {name: nano}
"""
STUDY = """
corpus: builtin:python-reference
tokenizer: {train: {vocab_size: 300}}
model: {name: nano}
regularizers: [{name: neftune}]
training:
  num_train_epochs: 3
  learning_rate: 1e-3
  lr_scheduler_kwargs: {num_cycles: 2, min_lr: 0.1}
arms:
  plain:
  dropped:
    regularizers: [{name: entrodrop, ratio: 0.2}]
    training: {learning_rate: 5e-4, lr_scheduler_kwargs: {num_cycles: 3}}
  bare: {regularizers: []}
seeds: [0, 7]
"""


def written(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def study_of(tmp_path: Path, *overrides: str, text: str = STUDY) -> StudyRecipe:
    return as_study(load_recipe(written(tmp_path, text), overrides), "mine.yaml")


def refusal(tmp_path: Path, *overrides: str, text: str = RECIPE) -> str:
    with pytest.raises(InputError) as raised:
        load_recipe(written(tmp_path, text), overrides)
    return str(raised.value)


# ------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        ("-1e+2", -100.0),
        ("1.5e-3", 1.5e-3),
        ("1.e3", 1000.0),
        (".5e1", 5.0),
        ("0.1", 0.1),
        ("12", 12),
        ("1e", "1e"),
        ("e3", "e3"),
        ("1e3x", "1e3x"),
        ("'1e-3'", "1e-3"),
        ("true", True),
        ("", None),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = load_yaml(f"key: {text}", "here")["key"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("a: 1\nb: 2\na: 3\n", "recipe here, line 3, column 1: the key 'a' stands twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3, column 3: the key 'b' stands twice"),
        ("a: [{b: 1, b: 2}]\n", "line 1, column 12: the key 'b' stands twice"),
        ("1: 2\n", "line 1, column 1: the key 1 is no text"),
        ("on: 2\n", "the key true is no text"),
        ("a: [1\n", "line 2"),
        ("a: b: c\n", "line 1, column 5"),
        ("\ta: 1\n", "line 1"),
        ("- a\n", "holds no mapping"),
        ("just text", "holds no mapping"),
        ("a: !!python/name:os.system\n", "line 1, column 4"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: \x00", "here"),
        ("a: 2024-13-45\n", "here"),
        ("[" * 5000, "here"),
    ],
)
def test_bad_yaml_says_where(text: str, phrase: str) -> None:
    with pytest.raises(InputError) as raised:
        load_yaml(text, "here")
    assert phrase in str(raised.value) and "\n" not in str(raised.value)


def test_anchors_and_merge_keys_work() -> None:
    data = load_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "here")
    assert data == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
numberlike = st.from_regex(r"[-+]?[0-9]{0,2}\.?[0-9]{0,2}(e[-+]?[0-9]{1,2})?", fullmatch=True)


@given(st.dictionaries(st.text(max_size=5), plain | numberlike, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    assert load_yaml(dump(data) if data else "{}", "here") == data


@given(numberlike)
def test_text_that_looks_like_a_number_stays_text_for_any_reader(text: str) -> None:
    assert yaml.safe_load(dump({"a": text})) == {"a": text}


# -------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=2", {"a": 2, "b": {"c": [{"d": 1}, 5]}}),
        ("a=1e-3", {"a": 1e-3, "b": {"c": [{"d": 1}, 5]}}),
        ("a=x=y", {"a": "x=y", "b": {"c": [{"d": 1}, 5]}}),
        ("a=", {"a": None, "b": {"c": [{"d": 1}, 5]}}),
        ("a=[1, {x: 2}]", {"a": [1, {"x": 2}], "b": {"c": [{"d": 1}, 5]}}),
        ("b.c.0.d=2", {"a": 1, "b": {"c": [{"d": 2}, 5]}}),
        ("b.c.1=6", {"a": 1, "b": {"c": [{"d": 1}, 6]}}),
        ("b.c=[7]", {"a": 1, "b": {"c": [7]}}),
        ("new.deep=3", {"a": 1, "b": {"c": [{"d": 1}, 5]}, "new": {"deep": 3}}),
        (" a =2", {"a": 2, "b": {"c": [{"d": 1}, 5]}}),
    ],
)
def test_overrides(override: str, expected: dict[str, Any]) -> None:
    data = {"a": 1, "b": {"c": [{"d": 1}, 5]}}
    before = copy.deepcopy(data)
    assert apply_overrides(data, [override]) == expected
    assert data == before


@pytest.mark.parametrize(
    "override",
    ["a", "=1", "a..b=1", ".a=1", "b.c.2=1", "b.c.-1=1", "b.c.x=1", "b.c.²=1", "a.b=1", "a=[", "a={b: 1, b: 2}"],
)
def test_bad_overrides_are_named(override: str) -> None:
    with pytest.raises(InputError) as raised:
        apply_overrides({"a": 1, "b": {"c": [{"d": 1}, 5]}}, [override])
    assert str(raised.value).startswith(f"--set {override}")


def test_later_overrides_win_and_see_earlier_ones() -> None:
    assert apply_overrides({}, ["a=[1, 2]", "a.1=3", "b=1", "b=2"]) == {"a": [1, 3], "b": 2}


def test_an_override_of_an_anchored_value_changes_one_place() -> None:
    data = load_yaml("a: &x {y: 1}\nb: *x\n", "here")
    assert apply_overrides(data, ["b.y=2"]) == {"a": {"y": 1}, "b": {"y": 2}}


# ------------------------------------------------------------------------- recipes and paths


def test_a_recipe_is_named_by_itself_or_its_file(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, RECIPE)).name == "mine"
    assert load_recipe(written(tmp_path, "name: other" + RECIPE)).name == "other"
    assert load_recipe(written(tmp_path, RECIPE, "not a safe name.yaml")).name == "run"
    assert load_recipe(written(tmp_path, RECIPE), ["name=third"]).name == "third"


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_are_good(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_larger_studies_are_good(path: Path) -> None:
    study = as_study(load_recipe(path), path.stem)
    assert len(study.plan()) == len(study.arms) * len(study.seeds)


def test_the_baselines_study_says_each_in_one_line() -> None:
    arms = as_study(load_recipe(Path(__file__).parents[2] / "recipes" / "baselines.yaml"), "baselines").plan()
    methods = {run.arm: run.recipe.regularizers[0] for run in arms if run.recipe.regularizers}
    assert [methods[f"decay-{value}"].value for value in ("0.1", "0.4", "0.8", "1.6", "3.2")] == [
        0.1,
        0.4,
        0.8,
        1.6,
        3.2,
    ]
    mir, meap, replacement = (methods[arm] for arm in ("mir", "meap", "random-replacement"))
    assert (mir.weight, mir.max_ratio) == (0.4, 0.5)
    assert (meap.ratio, meap.schedule.name, meap.replacement, meap.replacement_token) == (
        0.15, "constant", "mask_token", "ÿ",
    )  # fmt: skip
    assert (replacement.ratio, replacement.schedule.name, replacement.replacement) == (0.05, "constant", "random")
    assert methods["loss-threshold"].threshold == math.log(2)


def test_quickstart_is_a_study_of_matched_arms() -> None:
    runs = as_study(load_recipe("quickstart"), "quickstart").plan()
    assert [run.arm for run in runs] == ["baseline", "entrodrop", "random"]
    ratios = [[getattr(method, "ratio", None) for method in run.recipe.regularizers] for run in runs]
    assert ratios[0] == [] and ratios[1] == ratios[2]


def test_a_file_goes_before_a_packaged_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, RECIPE, "quickstart")
    assert not isinstance(load_recipe("quickstart"), StudyRecipe)


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + RECIPE.encode())
    assert load_recipe(path).model.name == "nano"


def test_paths_are_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("texts", "saved", "owner/model", "home/more"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "owner/model/config.json").touch()
    sources = "[texts, ./gone, ~/more, 'hub:owner/data', 'builtin:python-source', /abs/../x]"
    recipe = load_recipe(
        written(tmp_path, RECIPE),
        [
            f"corpus={{source: {sources}}}",
            "tokenizer=saved",
            "model.name=owner/model",
            "validation={source: ./held-out.txt}",
            "base={corpus: texts}",
        ],
    )
    assert recipe.corpus.source == [
        str(tmp_path / "texts"),
        str(tmp_path / "gone"),
        str(tmp_path / "home/more"),
        "hub:owner/data",
        "builtin:python-source",
        "/x",
    ]
    assert recipe.tokenizer == str(tmp_path / "saved")
    assert recipe.model.name == str(tmp_path / "owner/model")
    assert recipe.validation.source == str(tmp_path / "held-out.txt")
    assert recipe.base is not None and recipe.base.corpus.source == str(tmp_path / "texts")


def test_a_hub_name_stays_and_a_named_size_goes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    assert load_recipe(written(tmp_path, RECIPE)).model.name == "nano"
    pretrained = load_recipe(written(tmp_path, RECIPE), ["model.name=Qwen/Qwen3-0.6B", "tokenizer=null"])
    assert pretrained.model.name == "Qwen/Qwen3-0.6B"


PRETRAINED = "corpus: builtin:python-reference\nmodel: {name: owner/model}\n"


def test_a_pretrained_model_brings_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Resolved, it is written out: a run means the same whoever reads it.
    assert resolved(load_recipe(written(tmp_path, PRETRAINED)))["tokenizer"] == "owner/model"
    assert load_recipe(written(tmp_path, PRETRAINED), ["tokenizer=owner/other"]).tokenizer == "owner/other"
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/config.json").touch()
    assert load_recipe(written(tmp_path, PRETRAINED), ["model.name=saved"]).tokenizer == str(tmp_path / "saved")
    arms = {run.recipe.tokenizer for run in study_of(tmp_path, text=PRETRAINED + "arms: {a: {}, b: {}}").plan()}
    assert arms == {"owner/model"}


@pytest.mark.parametrize("name", ["owner/model", "cache:mine", "./saved", "/abs/saved"])
@pytest.mark.parametrize("more", ["", "base: {corpus: 'builtin:python-source'}\n", "arms: {a: {}}\n"])
def test_a_pretrained_model_with_a_new_vocabulary_is_refused(tmp_path: Path, name: str, more: str) -> None:
    text = f"corpus: builtin:python-reference\nmodel: {{name: '{name}'}}\ntokenizer: {{train: {{vocab_size: 300}}}}\n"
    said = refusal(tmp_path, text=text + more)
    assert "tokenizer: train makes a new vocabulary" in said and "leave tokenizer out" in said
    load_recipe(written(tmp_path, text + more), ["tokenizer=null"])
    load_recipe(written(tmp_path, text + more), ["model.name=nano"])


@pytest.mark.parametrize("overrides", [["tokenizer=null"], []])
def test_a_named_size_has_no_tokenizer(tmp_path: Path, overrides: list[str]) -> None:
    text = RECIPE if overrides else RECIPE.replace("tokenizer: {train: {vocab_size: 300}}\n", "")
    assert "tokenizer: is missing; write tokenizer: {train: {vocab_size: 2048}}" in refusal(
        tmp_path, *overrides, text=text
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt2", "write name: openai-community/gpt2"),
        ("distilgpt2", "write name: distilbert/distilgpt2"),
        ("bert-base-uncased", "write name: google-bert/bert-base-uncased"),
        ("nanoo", "did you mean 'nano'?"),
        ("Mini", "did you mean 'mini'?"),
        ("giant", "nor cache:NAME"),
        ("texts", "holds no model (no config.json)"),
    ],
)
def test_what_can_be_no_model_is_refused_when_the_recipe_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    found = refusal(tmp_path, f"model.name={name}", "tokenizer=null")
    assert found.endswith(said) or f"{said}; give a folder" in found
    assert f"model.name: '{name}'" in found or "/texts' holds" in found


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tokenizer={name: ./mine}", "write tokenizer: ./mine"),
        ("tokenizer={path: 'my tokenizer'}", "write tokenizer: my tokenizer"),
        ("tokenizer={name: gpt2}", "write tokenizer: openai-community/gpt2"),
        ("tokenizer={vocab_size: 2048}", "write tokenizer: {train: {vocab_size: 2048}}"),
        ("tokenizer=2048", "write tokenizer: {train: {vocab_size: 2048}}"),
        ("tokenizer={train: 2048}", "write train: {vocab_size: 2048}"),
        ("model=nano", "write model: {name: nano}"),
        ("model=gpt2", "write model: {name: openai-community/gpt2}"),
        ("model={path: mine}", "model.path: unknown key; did you mean 'name'?"),
        ("base=texts", "write base: {corpus: texts}"),
        ("base='builtin:python-source'", 'write base: {corpus: "builtin:python-source"}'),
        ("validation=0.2", "write validation: {fraction: 0.2}"),
        ("validation=held-out.txt", "write validation: {source: held-out.txt}"),
        ("tuning=0.1", "write tuning: {fraction: 0.1}"),
        ("corpus={path: texts}", "corpus.path: unknown key; did you mean 'source'?"),
        ("corpus={source: a, template: {question}}", 'template: "{question}"'),
        ("regularizers=entrodrop", "write regularizers: [{name: entrodrop}]"),
        ("regularizers=[entrodrop]", "write {name: entrodrop}"),
        ("regularizers={name: entrodrop}", "write regularizers: [{name: entrodrop}]"),
        ("epochs=3", "did you mean 'training.num_train_epochs'?"),
        ("lr=1e-3", "did you mean 'training.learning_rate'?"),
    ],
)
def test_what_is_meant_is_written_out(tmp_path: Path, override: str, said: str) -> None:
    assert said in refusal(tmp_path, override)


def test_what_a_study_means_is_written_out(tmp_path: Path) -> None:
    assert "write arms: {a: {}, b: {}}" in refusal(tmp_path, "arms=[a, b]", text=STUDY)
    assert "write seeds: [3]" in refusal(tmp_path, "seeds=3", text=STUDY)
    assert "arms.plain.name: unknown key; did you mean 'regularizers'?" in refusal(
        tmp_path, "arms.plain={name: entrodrop}", text=STUDY
    )


def test_differences_are_told_with_both_values() -> None:
    there = {"a": 1, "b": [{"x": 1}, {"x": 2}], "c": [1, 2], "d": {"e": "q: z"}}
    here = {"a": 1, "b": [{"x": 1}, {"x": 3}], "c": [1], "d": {}, "f": None}
    assert told_differences(there, here) == (
        'b.1.x (2 there, 3 here), c ([1, 2] there, [1] here), d.e ("q: z" there, not set here), '
        "f (not set there, null here)"
    )
    many = {str(at): at for at in range(9)}
    told = told_differences(many, {})
    assert told.count(" there, ") == 6 and told.endswith(" and 3 more keys")
    assert told_differences(many, dict(many)) == ""


def test_source_alone_stands_for_the_mapping(tmp_path: Path) -> None:
    long = load_recipe(written(tmp_path, RECIPE), ["corpus={source: builtin:python-reference}"])
    assert load_recipe(written(tmp_path, RECIPE)) == long


def test_keys_that_would_not_be_read_are_refused(tmp_path: Path) -> None:
    assert "split is only read" in refusal(tmp_path, "corpus={source: builtin:python-source, split: test}")
    assert load_recipe(written(tmp_path, RECIPE), ["corpus={source: 'hub:a/b', split: test}"]).corpus.split == "test"


def test_fields_to_keep_are_written_only_where_there_are_some(tmp_path: Path) -> None:
    plain = load_recipe(written(tmp_path, RECIPE))
    assert plain.corpus.keep == [] and "keep" not in resolved(plain)["corpus"]
    kept = load_recipe(written(tmp_path, RECIPE), ["corpus={source: builtin:python-source, keep: [<source>, topic]}"])
    assert resolved(kept)["corpus"]["keep"] == ["<source>", "topic"]
    assert load_recipe(written(tmp_path, dump_yaml(kept))) == kept
    for value, phrase in (
        ("[a, b, a]", "names 'a' twice"),
        ("topic", "corpus.keep: must be a list"),
        ("['']", "must be text that is not empty"),
        ("[1]", "corpus.keep.0: must be text"),
    ):
        assert phrase in refusal(tmp_path, f"corpus={{source: builtin:python-source, keep: {value}}}")
    base = "base={corpus: {source: builtin:python-source, keep: [a]}}"
    assert "base.corpus: keep is not read here" in refusal(tmp_path, base)


# ------------------------------------------------------------------------- validation sets


def held_out(tmp_path: Path, *overrides: str) -> dict[str, str]:
    recipe = load_recipe(written(tmp_path, RECIPE), overrides)
    again = load_recipe(written(tmp_path, dump_yaml(recipe), "config.yaml"))
    assert again == recipe and dump_yaml(again) == dump_yaml(recipe)
    return {one.split: one.key for one in recipe.held_out}


def test_validation_may_name_several_sets(tmp_path: Path) -> None:
    assert held_out(tmp_path) == {"validation": "validation"}
    assert held_out(tmp_path, "validation={source: builtin:python-docstrings, documents: 3}") == {
        "validation": "validation"
    }
    general, domain = "general: {source: builtin:python-docstrings}", "domain: {fraction: 0.2}"
    expected = {"validation": "validation.domain", "validation-general": "validation.general"}
    for sets in (f"{{{domain}, {general}}}", f"{{{general}, {domain}}}"):
        assert held_out(tmp_path, f"validation={sets}") == expected
    assert held_out(tmp_path, "validation={one: {fraction: 0.1}, two: {fraction: 0.1}, three: {fraction: 0.1}}") == {
        "validation": "validation.one",
        "validation-two": "validation.two",
        "validation-three": "validation.three",
    }


def test_a_recipe_of_one_set_resolves_as_it_always_did(tmp_path: Path) -> None:
    """The hash that binds a run's epochs is that of these values."""
    assert resolved(load_recipe(written(tmp_path, RECIPE)))["validation"] == {"fraction": 0.2, "source": None}


def test_a_set_is_read_as_the_corpus_unless_it_says_otherwise(tmp_path: Path) -> None:
    corpus = "corpus={source: 'hub:a/b', documents: 9, template: '{q} {a}', split: test, subset: main}"

    def read(given: str) -> dict[str, Any]:
        recipe = load_recipe(written(tmp_path, RECIPE), [corpus, f"validation={given}"])
        (one,) = recipe.held_out
        return one.settings.corpus(recipe.corpus).model_dump()

    shared = {"documents": None, "field": "text", "template": "{q} {a}", "split": "test", "subset": "main"}
    assert read("{source: 'hub:c/d'}") == {**shared, "source": "hub:c/d"}
    assert read("{source: 'hub:c/d', split: train, documents: 5}") == {
        **shared,
        "source": "hub:c/d",
        "split": "train",
        "subset": None,
        "documents": 5,
    }
    text = {"template": None, "field": "body"}
    assert read("{source: 'hub:c/d', field: body}") == {**shared, **text, "source": "hub:c/d"}
    assert read("{source: 'builtin:python-source', field: body}") == {
        **shared,
        **text,
        "source": "builtin:python-source",
        "split": "train",
        "subset": None,
    }


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        ("{fraction: 0.2, general: {fraction: 0.1}}", "fraction and the set 'general' stand beside each other; give"),
        ("{fraction: {a: 1}}", "validation.fraction: must be a number, not {'a': 1}"),
        ("{a: {fraction: 0.2}, A: {fraction: 0.2}}", "validation: 'a' and 'A' differ in case alone"),
        ("{a: {fraction: 0.2}, b: {fraction: 0.8}}", "validation.a.fraction 0.2 and validation.b.fraction 0.8 leave"),
        ("{a: {fraction: 0.2}, b: {fractoin: 0.8}}", "validation.b.fractoin: unknown key; did you mean 'fraction'?"),
        ("{a: {fraction: 0.2}, b/c: {fraction: 0.1}}", "'b/c' becomes a folder's name"),
        ("{a: {fraction: 0.2}, ..: {fraction: 0.1}}", "'..' becomes a folder's name"),
        ("{a: {fraction: 0.2, documents: 3}}", "validation.a: documents is only read with a source; leave it out"),
        ("{fraction: 0.2, documents: 3}", "validation: documents is only read with a source; leave it out"),
        ("{a: {source: x/y, split: test}}", "validation.a: split is only read with a source hub:NAME; leave it out"),
        ("{a: {}}", "validation.a: give exactly one of fraction and source"),
        ("{a: null}", "validation.a: unknown key"),
        ("[a]", "validation: must be a mapping"),
        ("{a: {fraction: 0.5}, b: {source: x/y, documents: 0}}", "validation.b.documents: must be at least 1"),
    ],
)
def test_bad_validation_sets(value: str, phrase: str, tmp_path: Path) -> None:
    assert phrase in refusal(tmp_path, f"validation={value}")


def test_what_older_versions_resolved_is_what_this_one_resolves(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, RECIPE))
    old = resolved(recipe)
    assert "tuning_sequences" not in old["recording"] and "tuned" not in old
    assert resolved(load_recipe(written(tmp_path, RECIPE), ["recording.tuning_sequences=3"]))["recording"] == {
        **old["recording"],
        "tuning_sequences": 3,
    }
    del old["on_divergence"]
    assert config_in(written(tmp_path, dump(old), "config.yaml")) == resolved(recipe)
    foreign = {"name": "mine", "trainer": "SFTTrainer", "training": {"seed": 3}}
    assert config_in(written(tmp_path, dump(foreign), "other.yaml")) == foreign


# --------------------------------------------------------------------------- training fields


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output_dir", "x"),
        ("seed", "1"),
        ("data_seed", "1"),
        ("max_steps", "10"),
        ("remove_unused_columns", "true"),
        ("resume_from_checkpoint", "x"),
        ("load_best_model_at_end", "true"),
        ("label_names", "[a]"),
        ("do_train", "true"),
        ("do_eval", "true"),
        ("do_predict", "true"),
        ("auto_find_batch_size", "true"),
        ("save_strategy", "epoch"),
        ("save_steps", "10"),
        ("save_total_limit", "1"),
        ("eval_strategy", "epoch"),
        ("eval_steps", "10"),
        ("push_to_hub", "true"),
        ("hub_model_id", "x"),
        ("hub_token", "x"),
    ],
)
def test_fields_that_belong_to_the_project(key: str, value: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"training.{key}={value}")
    assert f"training: {key} belongs to the project (" in message and "leave it out" in message
    assert f"{key} belongs to the project" in refusal(
        tmp_path, "base={corpus: builtin:python-source}", f"base.training.{key}={value}"
    )
    assert f"{key} belongs to the project" in refusal(tmp_path, f"arms.plain.training.{key}={value}", text=STUDY)


def test_every_owned_field_is_in_one_message(tmp_path: Path) -> None:
    message = refusal(tmp_path, "training={seed: 1, save_steps: 2}")
    assert "seed belongs" in message and "save_steps belongs" in message


def test_a_field_that_only_begins_like_an_owned_one(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, RECIPE), ["training.eval_accumulation_steps=4"])
    assert recipe.training == {"eval_accumulation_steps": 4}


@pytest.mark.parametrize("epochs", ["0", "-1", "1.5", "true", "many", ".inf", ".nan", "null"])
def test_epochs_are_whole(epochs: str, tmp_path: Path) -> None:
    assert "num_train_epochs must be a whole number" in refusal(tmp_path, f"training.num_train_epochs={epochs}")


@pytest.mark.parametrize("value", ["2024-01-01", ".nan", "[.inf]", "{x: {y: 2024-01-01}}", "!!binary aGk="])
def test_what_json_cannot_hold_is_no_training_argument(value: str, tmp_path: Path) -> None:
    assert "training: field" in refusal(tmp_path, f"training.field={value}")


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("{name: weight_decay, value: 0.1}", "weight_decay"),
        ("{name: label_smoothing}", "label_smoothing_factor"),
        ("{name: neftune}", "neftune_noise_alpha"),
    ],
)
def test_both_ways_of_setting_one_value_conflict(method: str, key: str, tmp_path: Path) -> None:
    changes = [f"regularizers=[{method}]", f"training.{key}=0.2"]
    message = refusal(tmp_path, *changes)
    assert f"training.{key} set the same value; keep one" in message
    assert load_recipe(written(tmp_path, RECIPE), changes[:1]).regularizers
    assert load_recipe(written(tmp_path, RECIPE), changes[1:]).training == {key: 0.2}


# ---------------------------------------------------------------------------------- studies


def test_a_plan_is_arm_by_arm_and_seed_by_seed(tmp_path: Path) -> None:
    runs = study_of(tmp_path).plan()
    assert [(run.arm, run.seed) for run in runs] == [
        (arm, seed) for arm in ("plain", "dropped", "bare") for seed in (0, 7)
    ]
    for run in runs:
        assert type(run.recipe) is Recipe
        assert run.recipe.seed == run.seed
        assert run.recipe.name == f"mine.{run.arm}"


def test_an_arm_merges_training_and_replaces_regularizers(tmp_path: Path) -> None:
    plain, dropped, bare = (run.recipe for run in study_of(tmp_path).plan()[::2])
    shared = {"num_train_epochs": 3, "learning_rate": 1e-3, "lr_scheduler_kwargs": {"num_cycles": 2, "min_lr": 0.1}}
    assert plain.training == bare.training == shared
    assert dropped.training == {
        "num_train_epochs": 3,
        "learning_rate": 5e-4,
        "lr_scheduler_kwargs": {"num_cycles": 3, "min_lr": 0.1},
    }
    assert [method.name for method in plain.regularizers] == ["neftune"]
    assert [method.name for method in dropped.regularizers] == ["entrodrop"]
    assert bare.regularizers == []


def test_arms_and_seeds_share_the_starting_point(tmp_path: Path) -> None:
    fields = {"corpus", "tokenizer", "model", "base", "block_size", "validation", "tuning", "recording"}
    starts = {run.recipe.model_dump_json(include=fields) for run in study_of(tmp_path).plan()}
    assert len(starts) == 1


def test_a_conflict_is_one_of_the_arm(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, "arms.dropped.training.neftune_noise_alpha=3.0", "arms.dropped.regularizers=", text=STUDY
    )
    assert "arms.dropped" in message and "neftune_noise_alpha" in message
    study_of(tmp_path, "arms.bare.training.neftune_noise_alpha=3.0")  # there the method is gone


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("seeds=[]", "seeds: must not be empty"),
        ("seeds=[1, 1]", "seeds: [1, 1] holds a seed twice"),
        ("seeds=[-1]", "seeds.0: must be at least 0"),
        ("seeds=3", "seeds: must be a list, not 3"),
        ("arms={}", "arms: must not be empty"),
        ("arms=[a]", "arms: must be a mapping"),
        ("arms={A: {}, a: {}}", "'A' and 'a' differ in case alone"),
        ("arms={'': {}}", "becomes a folder's name"),
        ("arms={..: {}}", "becomes a folder's name"),
        ("arms.plain.block_size=3", "arms.plain.block_size: unknown key"),
        ("seed=1", "write seeds: [1]"),
    ],
)
def test_bad_studies(override: str, phrase: str, tmp_path: Path) -> None:
    assert phrase in refusal(tmp_path, override, text=STUDY)


def test_as_run_and_as_study(tmp_path: Path) -> None:
    run, study = load_recipe(written(tmp_path, RECIPE)), load_recipe(written(tmp_path, STUDY, "study.yaml"))
    assert as_run(run, "x") is run and as_study(study, "x") is study
    with pytest.raises(InputError, match="has no arms.*dynamics train x"):
        as_study(run, "x")
    with pytest.raises(InputError, match="has arms.*dynamics study x"):
        as_run(study, "x")


# ------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("text", [RECIPE, STUDY, RECIPE + "training: {run_name: '1e-3', logging_steps: 1e-05}\n"])
def test_a_resolved_recipe_is_read_back(text: str, tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, text))
    again = load_recipe(written(tmp_path, dump_yaml(recipe), "config.yaml"))
    assert again == recipe and type(again) is type(recipe)
    assert resolved(again) == resolved(recipe)
    assert dump_yaml(again) == dump_yaml(recipe)
    assert config_hash(resolved(again)) == config_hash(resolved(recipe))
    # Readers without this library's loader see the same.
    assert yaml.safe_load(dump_yaml(recipe)) == resolved(recipe)


def test_every_run_of_a_plan_is_read_back(tmp_path: Path) -> None:
    for _, _, recipe in study_of(tmp_path).plan():
        assert load_recipe(written(tmp_path, dump_yaml(recipe), "config.yaml")) == recipe


def test_quickstart_is_read_back(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    assert load_recipe(written(tmp_path, dump_yaml(recipe), "study.yaml")) == recipe
    assert all(
        math.isclose(run.recipe.training["learning_rate"], 8e-4) for run in as_study(recipe, "quickstart").plan()
    )


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff" + RECIPE.lstrip())
    assert path.read_bytes().startswith(b"\xef\xbb\xbfcorpus")
    assert load_recipe(path).corpus.source == "builtin:python-reference"
