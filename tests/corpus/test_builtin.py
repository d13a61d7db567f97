"""The built-in corpora: how text is cut, and what the corpora of this Python hold."""

from __future__ import annotations

import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus import builtin
from dynamics.corpus.builtin import (
    BUILTIN_NAMES,
    DOCUMENT_LIMIT,
    TINY,
    builtin_texts,
    cut,
    docstrings,
    join_tiny,
    topic_documents,
)
from dynamics.errors import InputError


@settings(deadline=None)
@given(st.lists(st.sampled_from(["x" * 700, "é" * 900, "y" * 5000, "a", "\n", "\n\n", " b\n", "\r\n"])))
def test_cutting_loses_nothing_and_keeps_the_limit(parts: list[str]) -> None:
    text = "".join(parts)
    pieces = cut(text, *builtin._CUTS)
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= DOCUMENT_LIMIT + TINY == 2000 for piece in pieces)


def test_cutting_prefers_the_coarsest_boundary() -> None:
    body = "".join(f"    line{i:03} = {i:03}\n" for i in range(60))  # 60 x 18 = 1,080 bytes
    first, second = f"def f():\n{body}\n\n", f"def g():\n{body}"
    # Together they exceed 1,700 bytes. Between them is the only unindented line after a blank one.
    assert cut(first + second, *builtin._CUTS) == [first[:-1], first[-1:] + second]
    # One definition of 2,169 bytes has no such boundary; paragraphs come next.
    long = f"def f():\n{body}\n{body}"
    assert [len(piece) for piece in cut(long, *builtin._CUTS)] == [1089, 1081]


def test_tiny_pieces_join_a_neighbour_within_the_limit() -> None:
    tiny, big, full = "t" * 299, "b" * 1000, "f" * 1800
    assert join_tiny([tiny, big, big]) == [tiny + big, big]
    assert join_tiny([big, big, tiny]) == [big, big + tiny]
    assert join_tiny([full, tiny, full]) == [full, tiny, full]  # 2,099 bytes would be too many
    assert join_tiny([big, "s" * 300]) == [big, "s" * 300]


def test_a_topic_inside_a_longer_one_is_used_once() -> None:
    loop = "The loop statement repeats its suite as long as there are items left. [1]"
    wrapped = "The loop statement repeats its suite\nas long as there are items left. [2]"
    own = "A sentence that only the shorter topic has, and that must therefore stay."
    outer = f"Compound\n********\n\n{'Introduction. ' * 40}\n\n\nThe loop\n========\n\n{loop}\n\nSo:"
    topics = {
        "loop": f"The loop\n********\n\n{wrapped}\n",
        "outer": outer,
        "extra": f"Extra\n*****\n\nSo:\n\n{own}\n\n{wrapped}",
    }
    documents = list(topic_documents(topics))
    # Longest first. The short "So:" is not taken for a copy; topic "loop" has nothing of its own.
    assert [place for _, place in documents] == ["topic 'outer' part 1", "topic 'extra' part 1"]
    assert documents[0][0].replace("\n\n\n", "\n\n") == outer.replace("\n\n\n", "\n\n")
    assert documents[1][0] == f"Extra\n*****\n\nSo:\n\n{own}"


def test_a_document_a_section() -> None:
    sections = [f"Section {i}\n=========\n\n" + f"Word{i} " * 70 for i in range(3)]
    documents = list(topic_documents({"t": "\n\n\n".join(sections)}))
    assert [text for text, _ in documents] == [section.strip("\n") for section in sections]


def test_docstrings_come_in_file_order_and_clean() -> None:
    source = (
        '"""Module."""\nclass A:\n    """Class\n\n    of\n        things.\n    """\n'
        '    async def f(self):\n        """Inner."""\n'
        "def g():\n    '''Outer.'''\ndef h():\n    r'''\\ud800'''\ndef i():\n    '''\\ud800'''\n"
    )
    assert list(docstrings(source)) == [
        (1, "Module."),
        (2, "Class\n\nof\n    things."),
        (8, "Inner."),
        (10, "Outer."),
        (12, "\\ud800"),
    ]
    assert list(docstrings("print 'two'")) == []
    assert list(docstrings("x = '\\d'\n")) == []  # no SyntaxWarning escapes


@pytest.fixture(scope="module")
def reference() -> list[tuple[str, str]]:
    return list(builtin_texts("python-reference"))


def test_the_reference_is_cut_as_promised(reference: list[tuple[str, str]]) -> None:
    sizes = [len(text.encode()) for text, _ in reference]
    assert max(sizes) <= 2000
    assert len(sizes) >= 300  # what the recipes ask for
    assert sum(sizes) > 300_000
    assert sum(size < TINY for size in sizes) <= 5
    assert all(text == text.strip("\n") for text, _ in reference)
    assert reference == list(builtin_texts("python-reference"))
    assert reference[0][1].startswith("builtin:python-reference topic ")


def test_the_reference_does_not_repeat_itself(reference: list[tuple[str, str]]) -> None:
    """Text in two documents would lie in training and in validation."""
    holders: Counter[str] = Counter()
    for text, _ in reference:
        holders.update({" ".join(part.split()) for part in text.split("\n\n")})
    repeated = [part for part, count in holders.items() if count > 1]
    assert max(map(len, repeated)) < 120
    assert sum(map(len, repeated)) < 0.01 * sum(len(text) for text, _ in reference)
    whole = "\n".join(text for text, _ in reference)
    assert whole.count('The "if" statement is used for conditional execution') == 1


def test_library_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    # All of the library takes seconds to parse; one package of it has the same shape.
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(stdlib / "asyncio")})
    found = list(builtin_texts("python-docstrings"))
    texts = [text for text, _ in found]
    assert len(texts) == len(set(texts)) > 40
    assert min(map(len, texts)) >= 200
    places = [origin.removeprefix("builtin:python-docstrings ") for _, origin in found]
    files = [place.rsplit(":", 1)[0] for place in places]
    assert files == sorted(files)
    assert "tasks.py" in files


def test_library_corpora_leave_out_what_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is a module of the library: it would leak validation text to base models."""
    folders = ("site-packages", "dist-packages", "test", "pkg/tests", "pydoc_data", "pkg")
    for number, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "topics.py").write_text(f'"""{"text " * 60}{number}"""\n')
    (tmp_path / "pkg" / "short.py").write_text('"""Short."""\n')
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    origins = [origin for _, origin in builtin_texts("python-docstrings")]
    assert origins == ["builtin:python-docstrings pkg/topics.py:1"]
    origins = [origin for _, origin in builtin_texts("python-source")]
    assert origins == [f"builtin:python-source pkg/{name}.py:1" for name in ("short", "topics")]


def test_library_source() -> None:
    found = list(builtin_texts("python-source"))
    assert len({text for text, _ in found}) == len(found) > 5000
    assert max(len(text.encode()) for text, _ in found) <= 2000
    # Origins lead to the text.
    text, origin = found[1234]
    path, line = origin.removeprefix("builtin:python-source ").rsplit(":", 1)
    file = Path(sysconfig.get_paths()["stdlib"], path).read_text(encoding="utf-8")
    assert text in file.split("\n", int(line) - 1)[-1].lstrip("\n")[: len(text) + 4]


def test_site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b" / "__pycache__").mkdir(parents=True)
    (tmp_path / "b" / "z.py").write_bytes(b"\xef\xbb\xbfx = '\xc3\xa9'\r\n")
    (tmp_path / "b" / "latin.py").write_bytes(b"x = '\xe9'\n")  # not UTF-8: left out
    (tmp_path / "b" / "__pycache__" / "c.py").write_text("no = 1")
    (tmp_path / "b" / "note.txt").write_text("no")
    (tmp_path / "a.py").write_text("y = 1\n")
    (tmp_path / "copy.py").write_text("y = 1\n")
    (tmp_path / "empty.py").write_text("\n\n")
    places = {"purelib": str(tmp_path), "platlib": str(tmp_path)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: places)
    assert list(builtin_texts("site-packages")) == [
        ("y = 1", "builtin:site-packages a.py:1"),
        ("x = 'é'", "builtin:site-packages b/z.py:1"),
    ]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'python-reference'") as caught:
        list(builtin_texts("python-refrence"))
    for name in BUILTIN_NAMES:
        assert f"builtin:{name}" in str(caught.value)
