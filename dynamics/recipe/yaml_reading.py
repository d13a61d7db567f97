"""YAML as recipes want it: safe, 1e-3 is a number, a key that stands twice is an error."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from dynamics.errors import InputError
from dynamics.validation import shown

_MERGE = "tag:yaml.org,2002:merge"
# Aliases stand for what they name wherever they stand: a few lines of them can stand for more than any memory holds.
_MOST_VALUES = 100_000
# Python writes no larger one in decimal digits, not even in a message.
_MOST_BITS = 14_000
# YAML 1.1, which PyYAML follows, takes 1e-3 for text: it wants a point in a float. YAML 1.2 does
# not. The writer must know it too, or the text "1e-3" would be written without its quotes.
_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$|[-+]?\.[0-9]+[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        problem = None
        try:
            value = super().construct_object(node, deep)
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError):
            # What PyYAML's own constructors raise for a value that is not of its tag: `!!int x`, or 2001-13-01.
            written = shown(node.value) if isinstance(node, yaml.ScalarNode) else "what stands here"
            problem = f"{written} is no {node.tag.rpartition(':')[2]}; put it in quotes if it is text"
        else:
            if isinstance(value, int) and value.bit_length() > _MOST_BITS:
                problem = "the number is too large"
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        problem = (
            f"the key {shown(key)} is no text; put it in quotes"
            if not isinstance(key, str)
            else f"the key {key!r} stands twice; keep one"
            if key in seen
            else None
        )
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    # Deep, so that a list that holds itself is an error of the loader.
    return loader.construct_sequence(node, deep=True)


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    # PyYAML writes these line ends as they are, and reads them back as a space or a newline.
    style = '"' if set(value) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SEQUENCE_TAG, _sequence)
_Dumper.add_representer(str, _text)
_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)


def load_yaml(text: str, where: str) -> dict[str, Any]:
    """Return the mapping that `text` holds.

    Raises
    ------
    InputError
        It is no YAML, naming line and column, or no mapping.
    """
    data = _load(text, f"recipe {where}")
    if not isinstance(data, dict):
        raise InputError(f"recipe {where}: holds no mapping; write KEY: VALUE lines, such as `model: {{name: nano}}`")
    return data


def dump(data: dict[str, Any]) -> str:
    """Return plain values as YAML that `load_yaml`, and any reader of YAML 1.1, reads back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with keys set; the mapping that was given stays as it is.

    Parameters
    ----------
    data : dict
        Mappings, lists and single values.
    overrides : sequence of str
        ``a.b=c``, in this order, the value in YAML. Mappings that are missing on the way are made;
        a number names an element of a list that is there.

    Raises
    ------
    InputError
        Naming the override, and what it does not fit.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            raise InputError(f"--set {override}: is not of the form KEY=VALUE, such as seed=1 or model.name=nano")
        try:
            value = _load(text, f"--set {override}")
        except InputError as error:
            raise InputError(f"{error}; {_how_to_quote(key.strip(), text)}") from None
        data = with_key(data, keys, value, where=f"--set {override}")
    return data


def quoted_override(key: str, text: str) -> str:
    """Return the option that sets a key to text, with the quotes that YAML and a shell need."""
    escapes = re.sub(r"\\[nt]", "", text)  # a shell's user writes \\n for a line end, as YAML's double quotes read it
    inner = "'" + text.replace("'", "''") + "'" if "\\" in escapes else '"' + text.replace('"', '\\"') + '"'
    return f"--set {shlex.quote(f'{key}={inner}')}"


def _how_to_quote(key: str, text: str) -> str:
    """Return what to write where the value of an override is no YAML."""
    value = text.strip()
    ends = {"{": "}", "[": "]"}.get(value[:1])
    depths = list(itertools.accumulate((one in "{[") - (one in "}]") for one in value))
    separated = "," in value or ": " in value or value.endswith((":", "["))
    if ends is not None and separated and depths[-1] > 0:
        return f"the value must stand in quotes for the shell, up to its closing {ends}: --set '{key}={text}...{ends}'"
    # One mapping or list from end to end, with text in it that YAML reads otherwise.
    if ends is not None and separated and 0 not in depths[:-1]:
        return 'text with braces, a colon or the like needs quotes of its own, such as {template: "{question}"}'
    return f"the value is YAML, and text with braces, a colon or the like needs quotes: {quoted_override(key, text)}"


def with_key(here: Any, keys: Sequence[str], value: Any, *, where: str, above: str = "") -> Any:
    """Return a copy of `here` with one key set, copying only what is on the way.

    What is not on the way may stand in several places (a YAML alias), so nothing is set in place.

    Parameters
    ----------
    here : mapping, list or single value
    keys : sequence of str
        The way to the value; a number names an element of a list that is there.
    value
    where : str
        What sets it, for messages.
    above : str
        The dotted key of `here` itself.

    Raises
    ------
    InputError
        The keys do not fit.
    """
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    below = f"{above}.{key}" if above else key
    if isinstance(here, list):
        if not (key.isascii() and key.isdecimal()) or int(key) >= len(here):
            raise InputError(
                f"{where}: {above} is a list of {len(here)}, and {key!r} is no index of "
                f"it; count from 0, or set the whole list: {above}=[...]"
            )
        changed = list(here)
        changed[int(key)] = with_key(here[int(key)], rest, value, where=where, above=below)
        return changed
    if here is None:
        here = {}
    if not isinstance(here, dict):
        raise InputError(
            f"{where}: {above} is the single value {shown(here)}, which has no keys; set it whole: {above}=..."
        )
    return {**here, key: with_key(here.get(key), rest, value, where=where, above=below)}


def _load(text: str, where: str) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _require_few(node, {})
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        parts = ", ".join(part for part in (error.context, error.problem) if part)
        # What text that wants quotes leads to, where a recipe is a file; --set says how to write its own.
        unquoted = "mapping values are not allowed" in parts or "cannot start any token" in parts
        hint = "; text with a colon and a space in it, or a mark in front, needs quotes" if unquoted else ""
        raise InputError(f"{where}{place}: {parts}{hint if where.startswith('recipe') else ''}") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None


def _require_few(node: yaml.Node | None, counted: dict[int, int]) -> int:
    """Return how many values `node` stands for, every alias counted as what it names; raise if they are too many."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = 1  # One that holds itself is refused when it is built.
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        counted[id(node)] += sum(_require_few(part, counted) for part in inner)
        if counted[id(node)] > _MOST_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MOST_VALUES:,} values, aliases counted as what they name; write fewer",
                problem_mark=node.start_mark,
            )
    return counted[id(node)]
