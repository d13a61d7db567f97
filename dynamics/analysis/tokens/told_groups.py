"""Groups of tokens as JSON tells them, so that a summary can say of what groups it keeps sums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dynamics.analysis.tokens.groups import Groups, groups_by_field, groups_by_regex
from dynamics.analysis.tokens.matches import TASKS, groups_by_kind, groups_by_match, task_tokens
from dynamics.errors import InputError
from dynamics.records.reader import Study


def told_groups(groups: Groups) -> dict[str, Any] | None:
    """Return the labels and the key of groups, as JSON has them; None of those that only arrays tell, not a rule."""
    if groups.key[0] == "own":
        return None
    told: dict[str, Any] = json.loads(json.dumps({"labels": groups.labels, "key": groups.key}))
    return told


def unnamed(told: Mapping[str, Any]) -> list[Any]:
    """Return all that is told of groups but their name."""
    kind, _, *rule = told["key"]
    return [told["labels"], kind, *rule]


def groups_key(told: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the key that groups had before they were told."""

    def hashable(value: Any) -> Any:
        return tuple(map(hashable, value)) if isinstance(value, list) else value

    key: tuple[Any, ...] = hashable(told["key"])
    return key


def named_group(text: str) -> Groups:
    r"""Return the groups that an option of the command line names: ``NAME=REGEX``, or a task such as ``gsm8k``.

    Raises
    ------
    InputError
        For no name, no pattern or one that is malformed.
    """
    name, sign, pattern = text.partition("=")
    if not sign:
        if text not in TASKS:
            raise InputError(f"--group: {text!r} is no task ({', '.join(TASKS)}); write NAME=REGEX")
        return task_tokens(text)
    if not name or not pattern:
        raise InputError(f"--group: {text!r} lacks a {'pattern' if name else 'name'}; write NAME=REGEX")
    return groups_by_match({"result": pattern}, name=name)


def remade_groups(study: Study, key: list[Any]) -> Groups:
    """Return the groups of a told key, for the records of a study."""
    kind, name, *rest = key
    if kind == "kind":
        return groups_by_kind()
    if kind == "field":
        return groups_by_field(study, name, missing=rest[1])
    patterns, other, flags = dict(rest[0]), rest[1], rest[2]
    make = {"match": groups_by_match, "regex": groups_by_regex}[kind]
    return make(patterns, other=other, name=name, flags=flags)


def shown_groups(groups: Mapping[str, Any]) -> str:
    """Return told groups by name, for a message."""
    return "; ".join(f"{name} {one['key'][2:]}" for name, one in groups.items()) or "none"
