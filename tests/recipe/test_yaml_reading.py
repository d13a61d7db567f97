"""YAML and --set: numbers, double keys, places in messages, and elements of lists."""

from __future__ import annotations

from typing import Any

import pytest

from dynamics.errors import InputError
from dynamics.recipe.yaml_reading import apply_overrides, dump, load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E+4", -20000.0),
        ("5.e1", 50.0),
        (".5e1", 5.0),
        ("1.5e-3", 0.0015),
        ("1_0e1", 100.0),
        ("3", 3),
        ("'1e-3'", "1e-3"),
        ("e-3", "e-3"),
        ("1e", "1e"),
        ("1e-3x", "1e-3x"),
        ("true", True),
        ("~", None),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ('"{question}\\n{answer}"', "{question}\n{answer}"),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = load_yaml(f"key: {text}", "f")["key"]
    assert found == value and type(found) is type(value)
    assert apply_overrides({}, [f"key={text}"]) == {"key": value}
    assert load_yaml(dump({"key": value}), "f") == {"key": value}


def test_merge_keys_and_aliases() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n"
    assert load_yaml(text, "f") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "recipe f, line 3, column 1: the key 'a' stands twice; keep one"),
        ("a:\n  b: 1\n  b: 1\n", "recipe f, line 3, column 3: the key 'b' stands twice"),
        ("a: [{b: 1, b: 2}]", "recipe f, line 1, column 12: the key 'b' stands twice"),
        ("a: 1\n3: 2\n", "recipe f, line 2, column 1: the key 3 is no text; put it in quotes"),
        ("yes: 2\n", "the key true is no text"),
        (
            "a: {b: 1",
            "recipe f, line 1, column 9: while parsing a flow mapping, expected ',' or '}'",
        ),
        ("a: b: c", "recipe f, line 1, column 5: mapping values are not allowed here"),
        (
            "\ta: 1",
            "recipe f, line 1, column 1: while scanning for the next token, found character '\\t'",
        ),
        ("a: !!python/object:os.system {}", "recipe f, line 1, column 4: could not determine"),
        ("a: *b", "recipe f, line 1, column 4: found undefined alias 'b'"),
        ("a: &b [*b]", "found unconstructable recursive node"),
        ("a: &b {c: *b}", "found unconstructable recursive node"),
        ("[a]: 1", "the key ['a'] is no text"),
        ("a: 1\n---\nb: 2\n", "expected a single document in the stream"),
        ("a: \x01", "special characters are not allowed"),
        ("a: " + "[" * 5000, "recipe f: is nested too deeply"),
        ("", "recipe f: holds no mapping; write KEY: VALUE lines"),
        ("- a\n- b\n", "recipe f: holds no mapping"),
        ("&a [*a]", "recursive"),
    ],
)
def test_bad_yaml_is_one_message_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_yaml(text, "f")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_change_a_copy() -> None:
    data = {"a": {"b": [1, {"c": 2}], "d": 3}, "e": None}
    changed = apply_overrides(data, ["a.b.1.c=5", "e.f.g=x", "a.b.0=[7]", "h=", "a.d = 4"])
    assert changed == {
        "a": {"b": [[7], {"c": 5}], "d": 4},
        "e": {"f": {"g": "x"}},
        "h": None,
    }
    assert data == {"a": {"b": [1, {"c": 2}], "d": 3}, "e": None}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a", "--set a: is not of the form KEY=VALUE, such as seed=1"),
        ("=1", "is not of the form KEY=VALUE"),
        ("a..b=1", "is not of the form KEY=VALUE"),
        ("list.2=1", "list is a list of 2, and '2' is no index of it; count from 0"),
        ("list.-1=1", "'-1' is no index"),
        ("list.²=1", "'²' is no index"),
        ("list.x=1", "'x' is no index"),
        ("one.list.1.x=1", "one.list is a list of 1, and '1' is no index"),
        ("list.0.x=1", "list.0 is the single value 1, which has no keys; set it whole: list.0=..."),
        ("a=[", "--set a=[, line 1, column 2: "),
        ("a={b: 1, b: 2}", "--set a={b: 1, b: 2}, line 1, column 8: the key 'b' stands twice"),
    ],
)
def test_bad_overrides_name_themselves(override: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_overrides({"list": [1, 2], "one": {"list": [0]}}, [override])
    assert str(caught.value).startswith(f"--set {override}") and expected in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("!!int x", "'x' is no int; put it in quotes if it is text"),
        ("!!int ''", "'' is no int"),
        ("!!float ''", "'' is no float"),
        ("!!bool maybe", "'maybe' is no bool"),
        ("!!timestamp soon", "'soon' is no timestamp"),
        ("2001-13-41", "'2001-13-41' is no timestamp"),
        ("0x" + "f" * 5000, "the number is too large"),
        ("9" * 5000, "is no int"),
    ],
    ids=lambda text: text[:20],
)
def test_a_value_that_is_not_of_its_tag(value: str, message: str) -> None:
    with pytest.raises(InputError, match=r"recipe f, line 2, column 4: .*" + message):
        load_yaml(f"a: 1\nb: {value}\n", "f")
    with pytest.raises(InputError, match="--set b=.*" + message):
        apply_overrides({}, [f"b={value}"])


def bomb(last: str) -> str:
    """Ten aliases of ten aliases, twenty deep: a few lines that stand for more than any memory holds."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 21):
        lines.append(f"a{level}: &a{level} " + last.format(", ".join([f"*a{level - 1}"] * 10)))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("last", ["[{}]", "{{<<: [{}]}}"], ids=["aliases", "merge keys"])
def test_aliases_that_stand_for_too_much(last: str) -> None:
    with pytest.raises(InputError, match="more than 100,000 values, aliases counted as what they name; write fewer"):
        load_yaml(bomb(last), "f")


def test_a_large_recipe_is_no_bomb() -> None:
    arms = "".join(f"  arm{number}: {{training: {{seed: {number}, list: [1, 2, 3]}}}}\n" for number in range(2000))
    assert len(load_yaml("arms:\n" + arms, "f")["arms"]) == 2000
