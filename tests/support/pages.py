"""The Markdown pages of the repository: their text, links, headings and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Pages that a reader starts from, and the handbook.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^ *(?P=fence) *$", re.M | re.S
)
_REFERENCE = re.compile(r"^\[[^\]\n]+\]: (\S+)$", re.M)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\((?P<target>[^()\s]+(?:\([^()]*\))?)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes
    ----------
    page : str
        The page's path from the repository's root.
    line : int
        The line of the page on which the code begins, from 1.
    language : str
        What follows the fence: ``python``, ``sh``, ``text``.
    code : str
    """

    page: str
    line: int
    language: str
    code: str


def named(path: Path) -> str:
    """Return a page's name, its path from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = path.read_text()
    return [
        Block(named(path), text[: found.start("code")].count("\n") + 1, found["language"], found["code"])
        for found in _FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """Return a page's text without its fenced blocks, indented code and code spans."""
    text = _FENCE.sub("", text)
    text = re.sub(r"^(?: {4}|\t)(?! *[-*\d]).*$", "", text, flags=re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def links(path: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    text = prose(path.read_text())
    return [found["target"] for found in _LINK.finditer(text)] + _REFERENCE.findall(text)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCE.sub("", path.read_text()), flags=re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)
