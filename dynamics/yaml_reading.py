"""YAML as recipes want it: safe, 1e-3 is a number, and a key that stands twice is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from dynamics.errors import InputError


class _Loader(yaml.SafeLoader):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} is no text", problem_mark=key_node.start_mark)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1, which PyYAML follows, takes 1e-3 for text: it wants a point in a float. YAML 1.2 does not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


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


def parse_value(text: str, where: str) -> Any:
    """Return the value that `text` writes in YAML."""
    return _load(text, where)


def _load(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise InputError(f"{where}{place}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
