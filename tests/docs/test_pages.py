"""README and the handbook: lines fit, links lead somewhere, pictures exist, and every page can be found."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from support.pages import PAGES, ROOT, anchors, links, named

WIDTH = 100
README_LINES = 120


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_fit(page: Path) -> None:
    long = [i for i, line in enumerate(page.read_text().splitlines(), start=1) if len(line) > WIDTH]
    assert not long, f"{named(page)}: lines over {WIDTH} characters: {long}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < README_LINES


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [target for target in links(page) if not leads_somewhere(page, target)]
    assert not broken, f"{named(page)}: {broken}"


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether a link's file is in the repository and has the link's heading; addresses on the web are not opened."""
    if target.startswith(("https://", "http://", "mailto:")):
        return True
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    if not path.exists() or not path.is_relative_to(ROOT):
        return False
    return not anchor or (path.suffix == ".md" and anchor in anchors(path))


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    named_there = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    missing = [
        named(page) for page in PAGES if page.parent == index.parent and page != index and page not in named_there
    ]
    assert not missing


def test_broken_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above can fail: each kind of broken link is planted once."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three\n\n## Again\n\n## Again\n\n[a](page.md#one-two-three) [b](#again-1) ![c](none.png)\n"
        "[d](none.md) [e](#two) [`f`](../outside) [web](https://example.org/x_(y))\n\n[h]: gone.md\n\n```sh\n[g](in-code.md)\n```\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert anchors(page) == {"one-two-three", "again", "again-1"}
    found = links(page)
    assert [target for target in found if not leads_somewhere(page, target)] == [
        "none.png",
        "none.md",
        "#two",
        "../outside",
        "gone.md",
    ]
    assert "in-code.md" not in found and "https://example.org/x_(y)" in found


def test_the_messages_of_the_index_are_those_of_the_library() -> None:
    """A message that the handbook explains is one that the library writes."""
    table = (ROOT / "docs" / "index.md").read_text().partition("| message |")[2].partition("\n\n")[0]
    said = [part.strip() for row in re.findall(r"^\| (\.\.\. .*?) \|", table, re.M) for part in row.split("...")]
    said = [re.sub(r" N$", "", part) for part in said if part]
    sources = "\n".join(path.read_text() for path in (ROOT / "dynamics").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    assert len(said) >= 7 and [part for part in said if part not in joined] == []


def test_the_reference_has_every_public_face() -> None:
    """Sphinx takes the public names from each face; so a face that is named here is in the reference whole."""
    import dynamics

    faces = {"dynamics"} | {
        f"dynamics.{name}" for name in dynamics.__all__ if isinstance(getattr(dynamics, name), ModuleType)
    }
    pages = [path.read_text() for path in (ROOT / "docs" / "api").glob("*.rst")]
    found = re.findall(r"^\.\. automodule:: (\S+)\n +:members:$", "\n".join(pages), re.M)
    assert sorted(found) == sorted(faces) and len(faces) >= 4


def test_the_index_names_every_command() -> None:
    from typer.main import get_command

    from dynamics.cli import app

    text = (ROOT / "docs" / "index.md").read_text()
    assert [name for name in get_command(app).commands if f"| `dynamics {name} " not in text] == []  # type: ignore[attr-defined]
