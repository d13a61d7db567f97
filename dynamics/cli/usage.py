"""Wrong usage of the command, in plain words: one line in place of what Typer writes."""

from __future__ import annotations

import re
import sys
from typing import Any

from dynamics.errors import nearest

# What Typer and click write of a value that an option does not take, in any of their versions, and the words of ours.
_WANTED = (
    (r"([\d.]+)<=x<=([\d.]+)", "from {} to {}"),
    (r"greater than or equal to ([\d.]+)|x>=([\d.]+)", "at least {}"),
    (r"less than or equal to ([\d.]+)|x<=([\d.]+)", "at most {}"),
    (r"valid integer", "a whole number"),
    (r"valid (?:number|float)", "a number"),
)


def in_plain_words(error: Any) -> str:
    """Return what is wrong with the command that was given, in one line, and where its help is."""
    context, given = error.ctx, sys.argv[1:]
    named = given[:1] if given and not given[0].startswith("-") else []
    command = getattr(context, "command_path", None) or " ".join(["dynamics", *named])
    cut = _cut_by_the_shell(given)
    if cut is not None:
        text = f"{cut} is only a part of a --set value; put the whole value in quotes, such as --set 'seeds=[0, 1]'"
    else:
        text = _problem(error, context, given)
    return f"{text}; see `{command} --help`"


def _problem(error: Any, context: Any, given: list[str]) -> str:
    kind, parameter = type(error).__name__, getattr(error, "param", None)
    text = " ".join(error.format_message().split()).rstrip(".")
    if kind == "NoSuchOption":
        options = [name for one in context.command.params for name in (*one.opts, *one.secondary_opts)]
        known = [name for name in [*options, "--help"] if name.startswith("--")]
        return f"{error.option_name}: there is no such option{_near_or_all(error.option_name, known)}"
    if kind == "MissingParameter" and parameter is not None:
        return f"{_name_of(parameter)} is missing"
    if kind == "BadParameter" and parameter is not None:
        wanted = [(re.search(pattern, text), words) for pattern, words in _WANTED]
        found = [words.format(*filter(None, match.groups())) for match, words in wanted if match]
        name = _name_of(parameter)
        value = next(
            (f", not {after!r}" for before, after in zip(given, given[1:], strict=False) if before == name), ""
        )
        return f"{name}: must be {found[0]}{value}" if found else text
    if kind == "BadOptionUsage":
        return f"{error.option_name}: {'takes no value' if 'not take' in text else 'needs a value after it'}"
    if "unexpected extra argument" in text:
        extra = text[text.rindex("(") + 1 : -1]
        hint = "; put a --set value that has braces in quotes" if "--set" in given and "=" in extra else ""
        return f"{extra}: more arguments than this command takes{hint}"
    if text.startswith("No such command"):
        name = next((one for one in given if not one.startswith("-")), "")
        return f"there is no command {name!r}{_near_or_all(name, list(context.command.commands))}"
    return text


def _near_or_all(word: str, known: list[str]) -> str:
    return nearest(word, known) or f"; there {'is' if len(known) == 1 else 'are'} {', '.join(known)}"


def _name_of(parameter: Any) -> str:
    """Return an option, or an argument as the help writes it, without the signs that say how many there may be."""
    name = parameter.metavar or parameter.name if parameter.param_type_name == "argument" else parameter.opts[0]
    return str(name).partition(" ")[0].strip("[]{}").removesuffix("...")


def _cut_by_the_shell(given: list[str]) -> str | None:
    """Return the first --set value that the shell cut at a space, or split at a brace; None if there is none."""
    for option, value, following in zip(given, given[1:], [*given[2:], ""], strict=False):
        unclosed = value.count("{") > value.count("}") or value.count("[") > value.count("]")
        if option == "--set" and (unclosed or value.endswith(":")) and following and not following.startswith("--"):
            return value
    return None
