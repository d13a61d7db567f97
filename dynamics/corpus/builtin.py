"""The four built-in corpora: real text that every Python installation already holds.

Nothing is downloaded and nothing is imported to be read: the sources are files. The corpora differ
between Python versions (and `site-packages` between environments), so a run keeps their hash.
"""

from __future__ import annotations

import ast
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dynamics.errors import InputError, nearest

# Bytes of UTF-8 that a cut aims at, and below which a piece is joined to its neighbour; a cut
# document never exceeds their sum of 2 kB. Docstrings are never cut.
DOCUMENT_LIMIT = 1_700
TINY = 300
DOCSTRING_MINIMUM = 200  # characters

# A run of paragraphs that stood in an earlier topic is left out from this many characters on.
# Shorter ones ("For example:") are ordinary language, not copied text.
REPEATED_MINIMUM = 50

_TITLE = re.compile(r"(.+)\n([*=~^\"-])\2+")
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_FOOTNOTE = re.compile(r"\[\d+\]")

# Where text may be cut: each matches empty at the start of the next piece. An unindented line after
# a blank one starts a top-level definition in source, and an entry in the reference.
_AT_TOP_LEVEL = re.compile(r"(?<=\n)(?=[ \t]*\r?\n\S)")
_AT_PARAGRAPH = re.compile(r"(?<=\n)(?=[ \t]*\r?\n[ \t]*\S)")
_AT_LINE = re.compile(r"(?<=\n)")
_CUTS = (_AT_TOP_LEVEL, _AT_PARAGRAPH, _AT_LINE)

_NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
# topics.py *is* builtin:python-reference: a base model must not read the validation text there.
_REFERENCE_FILE = "pydoc_data/topics.py"

TextAndOrigin = tuple[str, str]


def builtin_texts(name: str) -> Iterator[TextAndOrigin]:
    """Yield the documents of a built-in corpus, exact duplicates left out.

    Parameters
    ----------
    name
        The corpus without its prefix, one of `BUILTIN_NAMES`.

    Yields
    ------
    (text, origin)
        Always in the same order for the same installation.

    Raises
    ------
    InputError
        No corpus has that name.
    """
    if name not in _BUILTIN:
        raise InputError(
            f"there is no built-in corpus 'builtin:{name}'{nearest(name, BUILTIN_NAMES)}; there "
            "are " + ", ".join(f"builtin:{known}" for known in BUILTIN_NAMES)
        )
    seen: set[str] = set()
    for text, place in _BUILTIN[name]():
        if text not in seen:
            seen.add(text)
            yield text, f"builtin:{name} {place}"


def topic_documents(topics: dict[str, str]) -> Iterator[TextAndOrigin]:
    """Cut the topics of the language reference into documents, each text used once.

    Many topics are sections of other topics ("if" is a part of "compound"). Longer topics go first,
    and paragraphs that an earlier topic has are left out of later ones; otherwise the same text
    would lie in training and in validation.

    Parameters
    ----------
    topics
        Topic name to text, as in ``pydoc_data.topics.topics``.

    Yields
    ------
    (text, place)
        One document a section; long sections in parts, tiny ones joined to a neighbour.
    """
    seen: set[str] = set()
    for topic in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        sections = [_novel(section, seen) for section in _sections(topics[topic])]
        parts = [part for section in sections if section for part in cut(section, *_CUTS)]
        for number, part in enumerate(join_tiny(parts), start=1):
            yield part.strip("\n"), f"topic {topic!r} part {number}"


def cut(text: str, *patterns: re.Pattern[str]) -> list[str]:
    """Cut `text` into consecutive pieces of at most `DOCUMENT_LIMIT` (+ `TINY`) bytes.

    Parameters
    ----------
    text
        What to cut; the pieces joined give it back.
    *patterns
        Where to cut, coarsest first; a finer one is used only inside a piece that is still too
        long. Within the last one, the text is cut anywhere between two characters.
    """
    if _size(text) <= DOCUMENT_LIMIT:
        return [text] if text else []
    if not patterns:
        # One endless line. A character takes at most four bytes.
        step = DOCUMENT_LIMIT if text.isascii() else DOCUMENT_LIMIT // 4
        return [text[start : start + step] for start in range(0, len(text), step)]
    finished: list[str] = []
    current = ""
    for piece in patterns[0].split(text):
        if _size(current) + _size(piece) > DOCUMENT_LIMIT:
            if current:
                finished.append(current)
            current = ""
        if _size(piece) > DOCUMENT_LIMIT:
            finished += cut(piece, *patterns[1:])
        else:
            current += piece
    if current:
        finished.append(current)
    return join_tiny(finished)


def join_tiny(pieces: Iterable[str]) -> list[str]:
    """Join every piece below `TINY` bytes to a neighbour, where the sum stays within the limit."""
    joined: list[str] = []
    for piece in pieces:
        if joined:
            small = min(_size(joined[-1]), _size(piece)) < TINY
            if small and _size(joined[-1]) + _size(piece) <= DOCUMENT_LIMIT + TINY:
                joined[-1] += piece
                continue
        joined.append(piece)
    return joined


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line of the owner, cleaned docstring) of a module and all in it, in file order.

    A source that this Python cannot parse yields nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and _is_encodable(text):
                found.append((getattr(node, "lineno", 1), text))
    yield from sorted(found, key=lambda pair: pair[0])


def _python_reference() -> Iterator[TextAndOrigin]:
    from pydoc_data.topics import topics

    return topic_documents(topics)


def _python_docstrings() -> Iterator[TextAndOrigin]:
    for path, source in _library_sources():
        for line, text in docstrings(source):
            if len(text) >= DOCSTRING_MINIMUM:
                yield text, f"{path}:{line}"


def _python_source() -> Iterator[TextAndOrigin]:
    return _source_documents(_library_sources())


def _site_packages() -> Iterator[TextAndOrigin]:
    paths = sysconfig.get_paths()
    for folder in dict.fromkeys((paths["purelib"], paths["platlib"])):
        yield from python_documents(Path(folder))


def python_documents(folder: Path) -> Iterator[TextAndOrigin]:
    """Yield the documents that the Python files below a folder are cut into, and where each begins."""
    return _source_documents(_sources(folder, skip={"__pycache__"}))


_BUILTIN: dict[str, Callable[[], Iterator[TextAndOrigin]]] = {
    "python-reference": _python_reference,
    "python-docstrings": _python_docstrings,
    "python-source": _python_source,
    "site-packages": _site_packages,
}
BUILTIN_NAMES = tuple(_BUILTIN)


def _library_sources() -> Iterator[TextAndOrigin]:
    for path, text in _sources(Path(sysconfig.get_paths()["stdlib"]), skip=_NOT_LIBRARY):
        if path != _REFERENCE_FILE:
            yield path, text


def _sources(root: Path, *, skip: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (path below `root`, text) of its Python files in path order; not UTF-8: left out."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skip]
        below = Path(folder).relative_to(root)
        found += [(below / name).as_posix() for name in names if name.endswith(".py")]
    for path in sorted(found):
        try:
            yield path, (root / path).read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue


def _source_documents(sources: Iterable[tuple[str, str]]) -> Iterator[TextAndOrigin]:
    for path, source in sources:
        line = 1
        for piece in cut(source, *_CUTS):
            if text := piece.strip("\r\n"):
                yield text, f"{path}:{line}"
            line += piece.count("\n")


def _sections(text: str) -> Iterator[list[str]]:
    """Yield the paragraphs of each section, its title (if any) first."""
    section: list[str] = []
    for paragraph in _BLANK_LINE.split(text.strip("\n")):
        paragraph = paragraph.strip("\n")
        if not paragraph.strip():
            continue
        if _TITLE.fullmatch(paragraph) and section:
            yield section
            section = []
        section.append(paragraph)
    if section:
        yield section


def _novel(section: list[str], seen: set[str]) -> str:
    """Return the text of a section without what was seen before; "" if only a title remains."""
    # Wrapping and the numbers of footnotes differ between copies of one paragraph.
    keys = [" ".join(_FOOTNOTE.sub("", paragraph).split()) for paragraph in section]
    kept: list[str] = []
    run: list[int] = []

    def close_run() -> None:
        if sum(len(keys[i]) for i in run) < REPEATED_MINIMUM:
            kept.extend(section[i] for i in run)
        run.clear()

    has_title = bool(_TITLE.fullmatch(section[0]))
    for i in range(int(has_title), len(section)):
        if keys[i] in seen:
            run.append(i)
            continue
        close_run()
        kept.append(section[i])
        seen.add(keys[i])
    close_run()
    if not kept:
        return ""
    return "\n\n".join([section[0], *kept] if has_title else kept) + "\n\n"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _is_encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8: escapes in a docstring may make lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
