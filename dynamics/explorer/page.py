"""The page around the data: one file, whose policy lets it run its own script and reach nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from dynamics.explorer.payload import packed

_SCRIPTS = ("data", "text", "colour", "charts", "overview", "view", "lists", "state", "keys", "main")


def fill(meta: str, chunks: str) -> str:
    """Return the page.

    Parameters
    ----------
    meta : str
        JSON.
    chunks : str
        Lines in base 64. Nothing that a corpus, a recipe or a path holds stands in the page as itself, so that none of
        it can end an element or begin one.
    """
    style, script = _asset("style.css"), _script()
    filled = _asset("page.html")
    for name, content in (
        ("STYLE_HASH", _hash(style)),
        ("SCRIPT_HASH", _hash(script)),
        ("STYLE", style),
        ("META", packed(meta.encode("utf-8"))),
        ("CHUNKS", chunks),
        ("SCRIPT", script),
    ):
        before, mark, after = filled.partition(f"%{name}%")
        assert mark, name
        filled = before + content + after
    return filled


@cache
def _asset(name: str) -> str:
    return files("dynamics.explorer").joinpath("assets", name).read_text("utf-8")


@cache
def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
