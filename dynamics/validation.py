"""Checked settings: one strict base model, and pydantic's errors as one clear message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from dynamics.errors import InputError, hub_name, nearest


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, no value changes type, none is changed.

    Attributes
    ----------
    later : frozenset of str
        Keys that came after the others. They are written only where they are not as by default, so that a recipe
        without them resolves to the same bytes, and the same hash, as before there were any.
    alone : tuple of str
        Keys that a user may mean who writes a value in place of the mapping, for messages: the first that takes it.
    other_words : mapping of str to str
        What users write, and the key that is meant (a dotted one from the top of the recipe, if it is elsewhere).
    """

    later: ClassVar[frozenset[str]] = frozenset()
    alone: ClassVar[tuple[str, ...]] = ()
    other_words: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _as_written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unset = {key for key in self.later if getattr(self, key) == fields[key].default}
        return {key: value for key, value in plain(self).items() if key not in unset}


T = TypeVar("T", bound=BaseModel)

# What pydantic wants, in the words of a recipe, by the type of its error.
_WANTED = {
    "string_type": "text",
    "string_unicode": "valid Unicode text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
}


def validated(model: type[T], data: Any, *, where: str) -> T:
    """Return `data` as an instance of `model`.

    Parameters
    ----------
    model : type
    data : mapping
        Plain values, as YAML or a caller's keywords give them.
    where : str
        What is being read, for the message.

    Raises
    ------
    InputError
        One message that names every offending key as the user wrote it, its value, and what is
        wanted.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = _sentences(model, data, error)
        raise InputError(f"{where}: {'; '.join(problems)}") from None
    except UnicodeEncodeError as error:
        # pydantic cannot even say what is wrong with a key that is no valid text.
        half = ord(error.object[error.start])
        raise InputError(
            f"{where}: a key or value holds a lone surrogate (U+{half:04X}), which is half a character; mend it"
        ) from None


def shown(value: Any) -> str:
    """Return a value as YAML would write it, more or less, cut to a length that can be read."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = str(value) if isinstance(value, date) else repr(value)  # a datetime is a date
    except ValueError:  # more digits than Python writes
        return "a number that is too large" if isinstance(value, int) else "values with a number that is too large"
    return text if len(text) <= 60 else f"{text[:57]}..."


def flow_yaml(value: Any) -> str:
    """Return a plain value as YAML on one line, as a person would write it: quotes only where they are needed."""
    if isinstance(value, Mapping):
        pairs = (flow_yaml(key) + ("" if one is None else f": {flow_yaml(one)}") for key, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow_yaml, value))}]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "yes", "no", "on", "off", "null")
        return value if plain else json.dumps(value, ensure_ascii=False)
    return shown(value)


_LONGEST_REMEDY = 100  # characters
_PLAIN = re.compile(r"[A-Za-z_./][\w./@+-]*(?: [\w./@+-]+)*")


def _sentences(model: type[BaseModel], data: Any, error: ValidationError) -> list[str]:
    # The members of a union each complain of the same value; they become one sentence.
    wanted: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    remedies: dict[str, str] = {}
    for problem in error.errors():
        path = _written(data, problem["loc"], problem["type"])
        key = ".".join(map(str, path))
        pattern = _WANTED.get(problem["type"])
        if pattern is None:
            text = _special(model, key, problem)
        else:
            limits = {name: _tidy(limit) for name, limit in problem.get("ctx", {}).items()}
            text = pattern.format(**limits)
            found[key] = problem["input"]
            remedies[key] = remedies.get(key) or _remedy(model, problem, path)
        texts = wanted.setdefault(key, [])
        if text not in texts:
            texts.append(text)
    sentences = []
    for key, texts in wanted.items():
        if key in found:
            text = f"must be {' or '.join(texts)}, not {shown(found[key])}"
            if texts == ["text"] and not isinstance(found[key], list | dict):
                text += " (quotes make it text)"
            texts = [text + remedies[key]]
        sentences += [f"{key}: {text}" if key else text for text in texts]
    return sentences


def _remedy(model: type[BaseModel], problem: Any, path: list[Any]) -> str:
    """Return what to write instead, such as ``"; write model: {name: nano}"``, where a value shows what is meant.

    `path` are the keys that stand in the recipe.
    """
    kind, value, members = problem["type"], problem["input"], _members_at(model, problem["loc"])
    prefix = f"{path[-1]}: " if path and isinstance(path[-1], str) else ""
    meant: Any = None
    if kind == "string_type" and isinstance(value, list | dict):
        braces = isinstance(value, dict) and not any(value.values())
        exact = f": {prefix}{json.dumps(flow_yaml(value), ensure_ascii=False)}" if braces else ""
        return f"; if it is text, put it in quotes{exact}"
    if kind == "list_type" and isinstance(value, str | int | float | Mapping) and value != {}:
        elements = (part for one in members if get_origin(one) is list for part in _members(get_args(one)[0]))
        meant = [{"name": value} if value in _tags(elements) else value]
    elif kind == "dict_type" and isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        meant = {one: {} for one in value}
    elif kind in ("model_type", "model_attributes_type") and isinstance(value, str | int | float):
        settings = [one for one in members if _is_model(one) and issubclass(one, Settings)]
        tags = _tags(settings)
        if tags and not isinstance(value, str):
            return ""
        if isinstance(value, str) and tags and value not in tags:
            return f"; write {{name: NAME}} with one of {', '.join(tags)}{nearest(value, tags)}"
        keys = ["name"] if tags else [key for one in settings for key in one.alone if _takes(one, key, value)]
        owned = hub_name(value) if isinstance(value, str) and not tags and keys[:1] == ["name"] else None
        meant = {keys[0]: owned or value} if keys else None
    written = flow_yaml(meant)
    return f"; write {prefix}{written}" if meant is not None and len(written) <= _LONGEST_REMEDY else ""


def _takes(settings: type[Settings], key: str, value: Any) -> bool:
    """Return whether a key of `settings` takes values of this type."""
    annotation: Any = settings.model_fields[key].annotation
    if _is_model(annotation):
        return isinstance(value, str)
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _tidy(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _special(model: type[BaseModel], key: str, problem: Any) -> str:
    context, location = problem.get("ctx", {}), problem["loc"]
    match problem["type"]:
        case "extra_forbidden":
            word, names = str(location[-1]), _fields_at(model, location[:-1])
            meant = _other_words(model, location[:-1]).get(word.lower())
            hint = f"; did you mean {meant!r}?" if meant else nearest(word, names)
            return f"unknown key{hint or '; the keys here are ' + ', '.join(names)}"
        case "missing":
            examples = [
                one.model_fields[location[-1]].examples
                for one in _members_at(model, location[:-1])
                if _is_model(one) and location[-1] in one.model_fields
            ]
            given = next((each[0] for each in examples if each), None)
            return "is missing (add it)" if given is None else f"is missing; write {location[-1]}: {given}"
        case "invalid_key":
            return "keys must be text (quotes make it text)"
        case "union_tag_not_found":
            names = _tags(_members_at(model, location))
            return f"has no name; give name: one of {', '.join(names)}"
        case "union_tag_invalid":
            names, word = _tags(_members_at(model, location)), context["tag"]
            hint = nearest(word, names) or f"; there are {', '.join(names)}"
            return f"name {word!r} is unknown{hint}"
        case "too_short":
            return "must not be empty"
        case "value_error":
            return str(context["error"])
    message: str = problem["msg"]
    return f"{message}, not {shown(problem['input'])}"


def _written(data: Any, location: Iterable[Any], kind: str) -> list[Any]:
    """Return the keys of `location` that stand in `data`: pydantic adds names of its own."""
    path: list[Any] = []
    location = list(location)
    for at, key in enumerate(location):
        if (isinstance(data, Mapping) and key in data) or (
            isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data)
        ):
            path, data = [*path, key], data[key]
        elif kind == "missing" and at == len(location) - 1:
            path.append(key)
    return path


def _fields_at(model: type[BaseModel], location: Iterable[Any]) -> list[str]:
    """Return the keys that the settings at `location` know."""
    members = _members_at(model, location)
    return sorted({field for one in members if _is_model(one) for field in one.model_fields})


def _other_words(model: type[BaseModel], location: Iterable[Any]) -> dict[str, str]:
    """Return what users write in the settings at `location`, and the key that they mean."""
    found: dict[str, str] = {}
    for one in _members_at(model, location):
        if _is_model(one) and issubclass(one, Settings):
            found |= one.other_words
    return found


def _members_at(model: type[BaseModel], location: Iterable[Any]) -> list[Any]:
    """Return the types, unions taken apart, that may stand at pydantic's `location`."""
    members: list[Any] = [model]
    for key in location:
        below: list[Any] = []
        for one in members:
            if _is_model(one) and key in one.model_fields:
                below += _members(one.model_fields[key].annotation)
            elif get_origin(one) is list and isinstance(key, int):
                below += _members(get_args(one)[0])
            elif get_origin(one) is dict:
                below += _members(get_args(one)[1])
        # A key that leads nowhere is the tag of a union's member.
        members = below or [one for one in members if key in _tags([one])] or members
    return members


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin is None or origin in (list, dict, Literal):
        yield annotation
    else:  # a union, in either of Python's two spellings
        for part in get_args(annotation):
            yield from _members(part)


def _tags(members: Iterable[Any]) -> list[str]:
    """Return the values of `name` that tell the members of a union apart."""
    return [
        tag
        for one in members
        if _is_model(one) and "name" in one.model_fields
        for tag in get_args(one.model_fields["name"].annotation)
    ]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
