"""The Markdown pages of the repository: their text, links, headings and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Pages that a reader starts from, and the handbook.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<language>[\w-]*)[ ]*(?P<info>[^\n]*)\n(?P<code>.*?)^ *(?P=fence) *$",
    re.M | re.S,
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
    language, info : str
        What follows the fence: ``python``, ``sh`` or ``text``, and the rest of that line.
    code : str
    follows : bool
        Whether only empty lines lie between the block before and this one.
    """

    page: str
    line: int
    language: str
    info: str
    code: str
    follows: bool


def named(path: Path) -> str:
    """Return a page's name, its path from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = path.read_text()
    made, end = [], -1
    for found in _FENCE.finditer(text):
        line = text[: found.start("code")].count("\n") + 1
        follows = end >= 0 and not text[end : found.start()].strip()
        made.append(Block(named(path), line, found["language"], found["info"].strip(), found["code"], follows))
        end = found.end()
    return made


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
