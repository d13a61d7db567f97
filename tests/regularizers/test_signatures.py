"""A method's settings, one truth in four places: its settings model, its signature, its docstring, docs/methods.md."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

import dynamics
from dynamics.errors import InputError
from dynamics.regularizers.registry import METHODS
from dynamics.validation import Settings

REQUIRED: dict[str, dict[str, Any]] = {"weight_decay": {"value": 0.25}}
PAGE = Path(dynamics.__file__).parents[1] / "docs" / "methods.md"


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(METHODS[name]).parameters)


def fields(name: str) -> dict[str, Any]:
    return {key: field for key, field in METHODS[name].settings_model.model_fields.items() if key != "name"}


def options(annotation: Any) -> set[Any]:
    """Return the types that an annotation allows, with the words of its Literals; settings are mappings to a caller."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return set().union(*map(options, get_args(annotation)))
    if origin is Literal:
        return set(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return {"a mapping"}
    if hasattr(annotation, "__metadata__"):  # Annotated
        return options(get_args(annotation)[0])
    return {"a mapping"} if origin is not None else {annotation}


def documented(method: type) -> dict[str, str]:
    """Return what the section Parameters of a class's docstring says, by parameter: its type line and text."""
    section = re.search(r"Parameters\n-+\n(.*?)(?:\n\n\w[^\n]*\n-+\n|\Z)", inspect.getdoc(method) or "", re.S)
    assert section is not None
    entries = re.split(r"^(?=\w)", section[1], flags=re.M)
    return {entry.partition(" : ")[0]: entry.partition(" : ")[2] for entry in entries if entry}


def written(value: Any) -> str:
    """Return a default as the page writes it."""
    if value == math.log(2.0):
        return "ln 2"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("name", METHODS)
def test_the_signature_has_every_setting_by_keyword_with_its_default(name: str) -> None:
    signature, known = parameters(name), fields(name)
    assert set(signature) == set(known)
    assert {parameter.kind for parameter in signature.values()} == {inspect.Parameter.KEYWORD_ONLY}
    required = {key for key, parameter in signature.items() if parameter.default is inspect.Parameter.empty}
    assert required == {key for key, field in known.items() if field.is_required()} == set(REQUIRED.get(name, {}))
    given = {key: parameter.default for key, parameter in signature.items() if key not in required}
    method, needed = METHODS[name], REQUIRED.get(name, {})
    assert method(**given, **needed).settings == method(**needed).settings


@pytest.mark.parametrize("name", METHODS)
def test_the_signature_has_the_types_of_the_settings(name: str) -> None:
    hints = get_type_hints(METHODS[name].__init__)
    for key, field in fields(name).items():
        allowed = options(hints[key])
        if key == "schedule":  # a schedule's name will do
            allowed -= set(
                get_args(METHODS[name].settings_model.model_fields[key].annotation.model_fields["name"].annotation)
            )
        assert allowed == options(field.annotation), key


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_has_every_setting_with_its_default_and_words(name: str) -> None:
    said, signature, known = documented(METHODS[name]), parameters(name), fields(name)
    assert list(said) == list(signature)
    for key, text in said.items():
        kind = text.partition("\n")[0]
        default = signature[key].default
        if default is inspect.Parameter.empty or default is None:
            assert "default" not in kind
        else:
            shown = (
                "ln 2" if default == math.log(2.0) else f'"{default}"' if isinstance(default, str) else repr(default)
            )
            assert kind.endswith(f"default {shown}"), key
        allowed = options(known[key].annotation)
        assert ("optional" in kind) == (NoneType in allowed), key
        for word in allowed:
            if isinstance(word, str) and word != "a mapping":
                assert f'"{word}"' in text, (key, word)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_methods_has_every_setting_with_its_default(name: str) -> None:
    """In the list item or the table row that begins with the method's name; a setting that is off may be left out."""
    blocks = re.findall(r"^(?:- `|\| `).*(?:\n(?:  .*))*", PAGE.read_text(encoding="utf-8"), re.M)
    heads = {block: re.split(r": |\|", block.lstrip("|"), maxsplit=1)[0] for block in blocks}
    text = " ".join(re.sub(r"\s+", " ", block) for block, head in heads.items() if f"`{name}`" in head)
    assert text
    if "the same" in text:
        entrodrop = [block for block, head in heads.items() if "`entrodrop`" in head]
        text += " ".join(re.sub(r"\s+", " ", block) for block in entrodrop)
    for key, field in fields(name).items():
        if field.is_required():
            assert re.search(rf"\b{key}\b", text), key
        elif field.default is not None and key not in ("replacement", "source") or key in text:
            default = "linear" if key == "schedule" else written(field.default)
            assert re.search(rf"\b{key} {re.escape(default)}(?![\w.]*\w)", text), f"{key} {default}"


@pytest.mark.parametrize("name", METHODS)
def test_help_shows_the_signature(name: str) -> None:
    method = METHODS[name]
    text = str(inspect.signature(method))
    assert "settings" not in text and all(f"{key}:" in text for key in fields(name))
    assert "Parameters" in (method.__doc__ or "") and "InputError" in (method.__doc__ or "")


@pytest.mark.parametrize("name", METHODS)
def test_a_setting_by_position_is_one_clear_error(name: str) -> None:
    cls = METHODS[name].__name__
    with pytest.raises(InputError, match=rf"^{cls}: settings are given by name, such as {cls}\(\w+=\.\.\.\)"):
        METHODS[name](0.2)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_or_missing_setting_names_the_method(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{METHODS[name].__name__}: .*no_such_key: unknown key"):
        METHODS[name](no_such_key=1, **REQUIRED.get(name, {}))
    if name in REQUIRED:
        with pytest.raises(InputError, match=f"^{METHODS[name].__name__}: value: is missing"):
            METHODS[name]()


def test_what_was_given_is_told_from_a_default() -> None:
    """A pool beside a threshold is refused, even the default one; a threshold alone leaves it out."""
    assert dynamics.EntroDrop(threshold=0.5).settings.pool is None
    with pytest.raises(InputError, match="pool and threshold both say"):
        dynamics.EntroDrop(threshold=0.5, pool=0.5)


def test_a_subclass_may_have_an_init_of_its_own() -> None:
    class Halved(dynamics.EntroDrop):
        def __init__(self, twice: float, **settings: Any) -> None:
            super().__init__(ratio=twice / 2, **settings)

    method = Halved(0.5, choice="graded")
    assert method.settings.ratio == 0.25 and method.settings.choice == "graded" and method.key == "Halved"
