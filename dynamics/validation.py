"""Checked settings: one strict base model, and pydantic's errors as one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dynamics.errors import InputError, nearest


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, no value changes type, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=BaseModel)


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
        One message that names every offending key as the user wrote it, its value, and what is wanted.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = dict.fromkeys(_describe(model, data, problem) for problem in error.errors())
        raise InputError(f"{where}: {'; '.join(problems)}") from None


def _describe(model: type[BaseModel], data: Any, problem: Any) -> str:
    path = _written(data, problem["loc"])
    key = ".".join(map(str, path)) or "the whole"
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            names = _siblings(model, data, path)
            known = f" (there are {', '.join(names)})" if names else ""
            return f"{key}: unknown key{nearest(str(path[-1]), names)}{known}"
        case "missing":
            return f"{key}: is missing"
        case "union_tag_invalid":
            tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
            return f"{key}.name: {context['tag']!r} is unknown{nearest(context['tag'], tags)}; there are {', '.join(tags)}"
        case "union_tag_not_found":
            return f"{key}.name: is missing"
        case "value_error":
            message = str(context["error"])
            return f"{key}: {message}" if path else message
        case _:
            message = problem["msg"].replace("Input should be", "should be")
            return f"{key}: {problem['input']!r} {message}"


def _written(data: Any, location: tuple[Any, ...]) -> list[Any]:
    """The keys of `location` that stand in `data`: pydantic adds the names of a union's members."""
    path: list[Any] = []
    for at, key in enumerate(location):
        last = at == len(location) - 1
        if isinstance(data, Mapping) and key in data:
            path, data = [*path, key], data[key]
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            path, data = [*path, key], data[key]
        elif last and isinstance(data, Mapping) and isinstance(key, str) and key.isidentifier():
            path = [*path, key]  # a key that is missing
    return path


def _siblings(model: type[BaseModel], data: Any, path: list[Any]) -> list[str]:
    """The keys that the model knows at the place of the last key of `path`."""
    found: Any = model
    for key in path[:-1]:
        if isinstance(found, type) and issubclass(found, BaseModel):
            found = found.model_fields[key].annotation
            data = data.get(key)
        elif isinstance(key, int) or isinstance(data, Mapping):
            data = data[key]
        found = _matching(found, data)
        if found is None:
            return []
    return sorted(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _matching(annotation: Any, data: Any) -> Any:
    """The settings class within `annotation` that `data` is meant for."""
    classes = _classes(annotation)
    if isinstance(data, list):
        return annotation
    tagged = [
        c
        for c in classes
        if isinstance(data, Mapping) and "name" in c.model_fields and c.model_fields["name"].default == data.get("name")
    ]
    return (tagged or classes or [None])[0]


def _classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _classes(part)]
