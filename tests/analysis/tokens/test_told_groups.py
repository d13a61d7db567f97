"""Groups as JSON tells them, and as an option of the command line names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.synthetic import make_study

from dynamics.analysis.tokens.groups import Groups, groups_by_field, groups_by_regex, own_groups
from dynamics.analysis.tokens.matches import groups_by_match, task_tokens
from dynamics.analysis.tokens.told_groups import groups_key, named_group, remade_groups, told_groups, unnamed
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("told") / "study"
    return open_study(
        make_study(path, n_documents=8, epochs=1, document_fields=lambda n: {"kind": ["a", None] * (n // 2)})
    )


def every(study: Study) -> list[Groups]:
    return [
        groups_by_match({"a": "l(is)t", "b": "of"}, other="rest", name="n", flags=2),
        groups_by_regex("list"),
        groups_by_field(study, "kind", missing="none"),
        task_tokens("gsm8k"),
    ]


def test_groups_are_told_and_made_again(study: Study) -> None:
    for groups in every(study):
        told = told_groups(groups)
        assert told is not None and json.loads(json.dumps(told)) == told
        assert groups_key(told) == groups.key
        again = remade_groups(study, told["key"])
        assert (again.key, again.labels, again.name) == (groups.key, groups.labels, groups.name)


def test_groups_of_arrays_are_not_told() -> None:
    assert told_groups(own_groups("mine", {"train": ["a"]})) is None


def test_the_name_of_groups_is_no_part_of_their_rule() -> None:
    told = [told_groups(groups_by_match({"result": pattern}, name=name)) for pattern, name in ("ab", "ac", "db")]
    assert None not in told
    first, second, other = (unnamed(one) for one in told if one)
    assert first == second != other


def test_an_option_names_groups(tmp_path: Path) -> None:
    assert named_group("gsm8k").key == task_tokens("gsm8k").key
    assert named_group("steps=<<.*?=(.*?)>>").key == groups_by_match({"result": "<<.*?=(.*?)>>"}, name="steps").key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsm", r"--group: 'gsm' is no task \(gsm8k\); write NAME=REGEX"),
        ("=a", "--group: '=a' lacks a name"),
        ("a=", "--group: 'a=' lacks a pattern"),
        ("", "--group: '' is no task"),
        ("a=(", "is no regular expression"),
    ],
)
def test_bad_options(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_group(text)
