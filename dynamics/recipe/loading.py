"""Recipes read from YAML and checked, and written back. Never loads torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, nearest
from dynamics.recipe.names import SAFE_NAME
from dynamics.recipe.settings import Recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.recipe.yaml_reading import apply_overrides, dump, load_yaml, quoted_override
from dynamics.validation import flow_yaml, validated


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe | StudyRecipe:
    """Read a recipe and check it.

    Parameters
    ----------
    name_or_path : str or Path
        A YAML file, or the name of a recipe that ships with the library.
    overrides : sequence of str
        ``a.b=c``, the value in YAML; ``regularizers.0.ratio=0.3`` sets an element.

    Returns
    -------
    Recipe or StudyRecipe
        A study if the recipe has arms. Paths in it are absolute. Its name, if it gives none, is
        that of the file.

    Raises
    ------
    InputError
        Naming every key that is wrong, its value, and the remedy.
    """
    text, where, name = _read(str(name_or_path))
    data = apply_overrides({"name": name, **load_yaml(text, where)}, overrides)
    if "seeds" in data and "arms" not in data:
        raise InputError(f"recipe {where}: seeds: only a study has seeds; add arms, or write seed: N")
    model = StudyRecipe if "arms" in data else Recipe
    try:
        return validated(model, data, where=f"recipe {where}")
    except InputError as error:
        raise InputError(f"{error}{_quoting(str(error), overrides)}") from None


def _quoting(message: str, overrides: Sequence[str]) -> str:
    """Return how to write an override that YAML reads as a mapping or a list where text is wanted."""
    for override in overrides:
        key, _, text = override.partition("=")
        if f" {key.strip()}: must be text, not {{" in message or f" {key.strip()}: must be text, not [" in message:
            return f"; to set text, write {quoted_override(key.strip(), text)}"
    return ""


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, every default filled in but those of `Settings.later`."""
    unread = {"seed"} if isinstance(recipe, StudyRecipe) else set()
    return recipe.model_dump(mode="json", exclude=unread)


def dump_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that `load_recipe` reads back."""
    return dump(resolved(recipe))


def config_in(file: Path) -> dict[str, Any]:
    """Return the resolved recipe that a file holds, with the defaults of keys that came after it was written.

    What no recipe is, such as the config of somebody's own trainer, is returned as it stands.
    """
    try:
        return resolved(load_recipe(file))
    except InputError:
        config: dict[str, Any] = load_yaml(_read(str(file))[0], str(file))
        return config


def differing_keys(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys at which two resolved recipes differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        return [found for key in keys for found in differing_keys(one.get(key), other.get(key), f"{prefix}.{key}")]
    return [] if one == other else [prefix.lstrip(".")]


def told_differences(there: Any, here: Any) -> str:
    """Return in words where two resolved recipes differ: each key with both values, the first six of them.

    Lists of one length are compared element by element: ``regularizers.0.ratio (0.1 there, 0.2 here)``.
    """
    found = _differences(there, here, "")
    shown = [f"{key} ({_written(one)} there, {_written(other)} here)" for key, one, other in found[:_MOST_TOLD]]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f" and {more} more keys" if more else "")


_MOST_TOLD = 6
_LONGEST_VALUE = 80  # characters
_NOT_SET: Any = object()


def _differences(there: Any, here: Any, key: str) -> list[tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict):
        names = [*there, *(name for name in here if name not in there)]
        pairs = [(str(name), there.get(name, _NOT_SET), here.get(name, _NOT_SET)) for name in names]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(str(at), one, other) for at, (one, other) in enumerate(zip(there, here, strict=True))]
    else:
        return [] if there == here else [(key, there, here)]
    below = (_differences(one, other, f"{key}.{name}" if key else name) for name, one, other in pairs)
    return [found for each in below for found in each]


def _written(value: Any) -> str:
    text = "not set" if value is _NOT_SET else flow_yaml(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that ship with the library."""
    folder = files("dynamics") / "recipe" / "packaged"
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def as_study(recipe: Recipe, where: str) -> StudyRecipe:
    """Return `recipe` if it is a study; raise InputError if it is one run."""
    if not isinstance(recipe, StudyRecipe):
        raise InputError(f"recipe {where}: has no arms, so it is one run; use `dynamics train {where}`")
    return recipe


def as_run(recipe: Recipe, where: str) -> Recipe:
    """Return `recipe` if it is one run; raise InputError if it is a study."""
    if isinstance(recipe, StudyRecipe):
        raise InputError(f"recipe {where}: has arms, so it is a study; use `dynamics study {where}`")
    return recipe


def _read(name: str) -> tuple[str, str, str]:
    """Return the text of a recipe, what to call it in messages, and the name it has by default."""
    path = os.path.expanduser(name)
    known = packaged_recipes()
    if name in known and not os.path.isfile(path):
        return (files("dynamics") / "recipe" / "packaged" / f"{name}.yaml").read_text("utf-8"), name, name
    if os.path.isdir(path):
        inside = [file for file in ("study.yaml", "config.yaml") if os.path.isfile(f"{path}/{file}")]
        hint = f"the file {os.path.join(name, inside[0])}" if inside else "a YAML file"
        raise InputError(f"recipe {name}: is a folder; give {hint}")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except FileNotFoundError:
        raise InputError(
            f"recipe {name}: there is no such file, and no recipe of that name ships with the "
            f"library{nearest(name, known)}; there are {', '.join(known)}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"recipe {name}: cannot be read ({reason}); give a YAML file") from None
    stem = Path(path).stem
    return text, name, stem if SAFE_NAME.fullmatch(stem) else "run"
