"""Checked settings: one strict base model, and pydantic's errors as one clear message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from dynamics.errors import InputError, nearest


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, no value changes type, none is changed.

    Attributes
    ----------
    later : frozenset of str
        Keys that came after the others. They are written only where they are not as by default, so that a recipe
        without them resolves to the same bytes, and the same hash, as before there were any.
    """

    later: ClassVar[frozenset[str]] = frozenset()

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


def _sentences(model: type[BaseModel], data: Any, error: ValidationError) -> list[str]:
    # The members of a union each complain of the same value; they become one sentence.
    wanted: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for problem in error.errors():
        key = ".".join(map(str, _written(data, problem["loc"], problem["type"])))
        pattern = _WANTED.get(problem["type"])
        if pattern is None:
            text = _special(model, key, problem)
        else:
            limits = {name: _tidy(limit) for name, limit in problem.get("ctx", {}).items()}
            text = pattern.format(**limits)
            found[key] = problem["input"]
        texts = wanted.setdefault(key, [])
        if text not in texts:
            texts.append(text)
    sentences = []
    for key, texts in wanted.items():
        if key in found:
            text = f"must be {' or '.join(texts)}, not {shown(found[key])}"
            if texts == ["text"] and not isinstance(found[key], list | dict):
                text += " (quotes make it text)"
            texts = [text]
        sentences += [f"{key}: {text}" if key else text for text in texts]
    return sentences


def _tidy(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _special(model: type[BaseModel], key: str, problem: Any) -> str:
    context, location = problem.get("ctx", {}), problem["loc"]
    match problem["type"]:
        case "extra_forbidden":
            word, names = str(location[-1]), _fields_at(model, location[:-1])
            hint = nearest(word, names) or f"; the keys here are {', '.join(names)}"
            return f"unknown key{hint}"
        case "missing":
            return "is missing (add it)"
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
