"""The text of one record."""

from __future__ import annotations

import pytest

from dynamics.corpus.rows import check_columns, row_text
from dynamics.errors import InputError


def test_a_field_is_taken_as_it_is() -> None:
    text_of = row_text("body", None)
    assert text_of({"body": " a{b}\r\n", "x": 1}, "f:1") == " a{b}\r\n"
    assert text_of.fields == ("body",)


def test_a_template_joins_literals_and_scalars() -> None:
    text_of = row_text("unused", "{{Q}} {q} = {a}; {q}!")
    assert text_of.fields == ("q", "a")
    assert text_of({"q": "1+1", "a": 2}, "f:1") == "{Q} 1+1 = 2; 1+1!"
    assert text_of({"q": 0.5, "a": True}, "f:1") == "{Q} 0.5 = True; 0.5!"
    # A value is never parsed as a template itself.
    assert text_of({"q": "{a.__class__}", "a": ""}, "f:1") == "{Q} {a.__class__} = ; {a.__class__}!"


def test_names_with_spaces_and_dashes_are_plain() -> None:
    assert row_text("t", "{problem-id}: {the text}")({"problem-id": 7, "the text": "x"}, "p") == "7: x"


@pytest.mark.parametrize(
    "template",
    [
        *("{a", "a}", "{", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a:{b}}"),
        *("no field", "{{a}}", ""),
    ],
)
def test_templates_that_are_refused(template: str) -> None:
    with pytest.raises(InputError, match="template") as caught:
        row_text("text", template)
    assert repr(template) in str(caught.value)
    assert "{name}" in str(caught.value)


@pytest.mark.parametrize(("value", "kind"), [(3, "int"), (None, "null"), (["a"], "list")])
def test_a_field_must_be_text(value: object, kind: str) -> None:
    with pytest.raises(InputError, match=rf"data:4: field 'text' .*{kind}.*template"):
        row_text("text", None)({"text": value}, "data:4")


@pytest.mark.parametrize("value", [None, ["a"], {"b": 1}, b"bytes"])
def test_a_template_takes_scalars_only(value: object) -> None:
    with pytest.raises(InputError, match="data:4: field 'a' holds"):
        row_text("text", "{a}")({"a": value}, "data:4")


def test_a_missing_field_is_named_with_those_there_are() -> None:
    row = {"question": "", "answer": ""}
    with pytest.raises(InputError, match=r"data:9: .*'anwser'; did you mean 'answer'.*'question'"):
        row_text("anwser", None)(row, "data:9")
    with pytest.raises(InputError, match=r"no field 'q'.*corpus\.template"):
        row_text("text", "{q}")({}, "data:9")
    with pytest.raises(InputError, match="table: there is no field 'b'"):
        check_columns(row_text("t", "{a}{b}"), ["a", "c"], "table")
    check_columns(row_text("t", "{a}{b}"), ["b", "a"], "table")


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(InputError, match=r"data:2: .*lone surrogate \(U\+D83D\)"):
        row_text("text", None)({"text": "ok \ud83d"}, "data:2")


def test_a_conversation_is_the_texts_of_its_turns() -> None:
    text_of = row_text("turns", None)
    by_role = {"turns": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
    by_speaker = {"turns": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}
    assert text_of(by_role, "here") == text_of(by_speaker, "here") == "Why?\n\nSo."
    for wrong in ([], ["Why?"], [{"role": "user"}], [{"content": 3}], [{"content": "Why?"}, None]):
        with pytest.raises(InputError, match="data:1: field 'turns' holds a value of type list, not text"):
            text_of({"turns": wrong}, "data:1")
