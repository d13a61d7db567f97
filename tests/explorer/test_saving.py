"""Where a page may be written: a new file, or over another page."""

from __future__ import annotations

import os

import pytest

from dynamics.errors import InputError
from dynamics.explorer.build import build_page
from dynamics.explorer.saving import check_place


@pytest.fixture(scope="module")
def page(two_runs):
    return build_page(two_runs[0], budget=100_000)


# How pages began before they named their generator.
OLD_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-x='; script-src 'sha256-y='">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Token explorer</title>
"""


def test_a_page_replaces_a_page(page, tmp_path):
    path = tmp_path / "page.html"
    page.save(path)
    page.save(str(path))
    assert path.read_text() == page.html
    path.write_text(OLD_HEAD + "<style></style>")
    assert page.save(path) == path and path.read_text() == page.html
    assert os.listdir(tmp_path) == ["page.html"]


GENERATOR = '<meta name="generator" content="dynamics token explorer">'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "name: quickstart\n",
        "<!doctype html><title>Token explorer</title>",
        f"<!doctype html>\n<html lang='en'><head><title>notes</title></head><body><pre>{GENERATOR}</pre>",
        f"<!-- a page that quotes one -->\n{OLD_HEAD}",
        "\x00\x01\x02",
    ],
    ids=["empty", "recipe", "same title", "quotes the mark", "quotes a page", "bytes"],
)
def test_nothing_else_is_replaced(page, tmp_path, content):
    path = tmp_path / "kept.html"
    path.write_text(content)
    with pytest.raises(InputError, match=r"kept\.html is there and is not an explorer page.*name another file"):
        page.save(path)
    with pytest.raises(InputError, match="not an explorer page"):
        check_place(path)
    assert path.read_text() == content
    assert os.listdir(tmp_path) == ["kept.html"]


def test_a_page_inside_a_file_is_no_page(page, tmp_path):
    """A notebook exported as HTML holds a whole page, escaped, and is not one."""
    path = tmp_path / "notebook.html"
    path.write_text("<!doctype html><html><body>" + page._repr_html_() + "\n" + page.html)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not an explorer page"):
        page.save(path)
    assert path.read_bytes() == before


def test_a_folder_is_named(page, tmp_path):
    with pytest.raises(InputError, match=r"is a folder; name a file, such as .*page\.html"):
        page.save(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        page.save(tmp_path / "link")


def test_a_link_is_followed_and_stays(page, tmp_path):
    target, link = tmp_path / "there" / "page.html", tmp_path / "link.html"
    link.symlink_to(target)
    assert page.save(link) == link  # to a file that is not there yet
    page.save(link)  # and over it
    assert link.is_symlink() and target.read_text() == page.html
    target.write_text("notes")
    with pytest.raises(InputError, match=r"link\.html is there and is not"):
        page.save(link)
    assert target.read_text() == "notes" and link.is_symlink()


def test_links_that_lead_nowhere_pipes_and_bad_names(page, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="loop cannot be written"):
        page.save(loop)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not an explorer page"):
        page.save(tmp_path / "pipe")  # not read, or this would wait for ever
    with pytest.raises(InputError, match="is no file name"):
        page.save("page\0.html")
    assert sorted(os.listdir(tmp_path)) == ["loop", "pipe"]


def test_what_cannot_be_read_is_not_replaced(page, tmp_path, monkeypatch):
    path = page.save(tmp_path / "page.html")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        check_place(path)
