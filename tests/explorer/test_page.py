"""The file around the data: its policy, what may not stand in it, its names, and how it is shown and saved."""

from __future__ import annotations

import base64
import hashlib
import html as entities
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from support.synthetic import make_run

from dynamics.errors import InputError
from dynamics.explorer.build import build_page
from dynamics.explorer.overview import labels_of, looks_of, recipe_text
from dynamics.records.reader import open_run

ALLOWED = {"text/plain", None}


class Outline(HTMLParser):
    """Elements with their attributes and, of scripts and styles, contents."""

    def __init__(self, html):
        super().__init__()
        self.found, self.contents = [], {"script": [], "style": []}
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag in self.contents:
            self.contents[tag].append("")

    def handle_data(self, data):
        if self.lasttag in self.contents and self.contents[self.lasttag]:
            self.contents[self.lasttag][-1] += data


@pytest.fixture(scope="module")
def page(two_runs):
    return build_page(two_runs)


def sha(content):
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


def test_the_policy_allows_this_script_and_this_style_alone(page):
    (policy,) = [
        a["content"]
        for tag, a in Outline(page.html).found
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    (style,) = re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    assert dict(part.strip().split(" ", 1) for part in policy.split(";")) == {
        "default-src": "'none'",
        "style-src": sha(style),
        "script-src": sha(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # Nothing that could fetch or be fetched stands before the policy.
    before = page.html.partition("Content-Security-Policy")[0]
    assert re.findall(r"<(\w+)", before) == ["html", "head", "meta", "meta"]


def test_no_address_and_no_handler_in_the_markup(page):
    for tag, attributes in Outline(page.html).found:
        assert not any(name.startswith("on") or name in ("src", "style", "srcdoc", "action") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        if tag == "script":
            assert attributes.get("type") in ALLOWED
    # The one address in the script names the SVG elements.
    assert set(re.findall(r"\w+://[^\"'\s]+", page.html)) == {"http://www.w3.org/2000/svg"}
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "fetch(",
        "XMLHttpRequest",
        "import(",
    ):
        assert word not in script


def test_nothing_from_outside_stands_in_the_file_as_itself(tmp_path):
    evil = '"><img src=x onerror=alert(1)>'
    run = open_run(
        make_run(
            tmp_path / "runs" / "<b>evil<" / "seed-0", name=evil, regularizers=[{"name": "</script>{{evil}}%META%"}]
        )
    )
    run.config["corpus"]["source"] = "/evil-place/%CHUNKS%<!--"
    html = build_page(run).html
    outline = Outline(html)
    assert [tag for tag, _ in outline.found].count("script") == 3
    for word in ("evil", "onerror", "alert(1)", "{{", str(tmp_path), "données", "returns a module"):
        assert word not in html
    for kind in ("meta", "chunks"):
        (content,) = re.findall(rf'id="{kind}">(.*?)</script>', html, re.DOTALL)
        assert re.fullmatch(r"[A-Za-z0-9+/=\n]+", content)


def test_the_place_on_disk_is_not_told(tmp_path, decode):
    run = open_run(make_run(tmp_path / "secret-folder" / "run"))
    assert "secret-folder" not in str(decode(build_page(run).html).meta)


def test_inline_in_jupyter(two_runs, decode):
    page = two_runs[0].explore(two_runs[1], budget=0.2)
    assert len(page.html) <= 200_000
    frame = page._repr_html_()
    ((tag, attributes),) = Outline(frame).found
    assert tag == "iframe" and attributes["sandbox"] == "allow-scripts" and attributes["title"]
    assert attributes["srcdoc"] == page.html == entities.unescape(re.search('srcdoc="([^"]*)"', frame)[1])


def test_a_place_that_cannot_be_written_is_told(page, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "page.html", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot be written"):
            page.save(place)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_saved_whole(page, tmp_path):
    path = page.save(tmp_path / "page.html")
    assert path.read_bytes() == page.html.encode("utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_names_tell_runs_apart(tmp_path):
    def run(place, name="same"):
        return open_run(make_run(tmp_path / place, name=name, n_documents=2, epochs=1))

    of_study = [run("runs/baseline/seed-0"), run("runs/entrodrop/seed-0")]
    assert labels_of(of_study) == ["baseline/seed-0", "entrodrop/seed-0"]
    assert labels_of([run("x", "one"), run("y", "two")]) == ["one", "two"]
    alike = [run("p"), run("q")]
    assert labels_of(alike) == [alike[0].path.as_posix(), alike[1].path.as_posix()]
    assert labels_of([alike[0], alike[0]]) == [f"{alike[0].path.as_posix()} (A)", f"{alike[0].path.as_posix()} (B)"]


def test_the_recipe_is_told(two_runs, decode):
    meta = decode(build_page(two_runs).html).meta
    assert yaml.safe_load(meta["runs"][1]["recipe"]) == two_runs[1].config
    assert recipe_text(two_runs[0]) == meta["runs"][0]["recipe"]


def test_few_documents_are_told(two_runs, tmp_path):
    few = [note for note in build_page(two_runs).notes if note.startswith("Fewer than")]
    assert few == ["Fewer than 15 documents of validation and train: the intervals of these curves are too narrow."]
    further = make_run(tmp_path / "further", epochs=1, held_out=("validation", "validation-general"))
    (listed,) = [note for note in build_page(open_run(further)).notes if note.startswith("Fewer than")]
    assert "documents of validation, validation-general and train: " in listed
    many = open_run(make_run(tmp_path / "run", n_documents=240, epochs=1))
    assert not [note for note in build_page(many).notes if note.startswith("Fewer than")]


def test_a_page_of_floats_32(tmp_path, decode):
    run = open_run(make_run(tmp_path / "run", dtype="float32", epochs=1))
    decoded = decode(build_page(run).html)
    of = run.records("train")
    first = decoded.of("train")[0]
    at = first.columns["sequence"], first.columns["position"]
    assert np.nanmax(np.abs(first.loss[0][1] - of.loss(1)[at])) < 0.03


def look(name):
    """Return a run's stand-in: where it lies and what it is called are all that its look depends on."""
    return SimpleNamespace(path=Path("runs") / name / "seed-0", name="other")


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (["baseline", "entrodrop"], ["baseline", "entrodrop"]),
        (["no_drop/baseline", "random-0.5"], ["baseline", "random"]),
        (["inverse_entrodrop", "Random_EntroDrop"], ["inverse", "random"]),
        (["entrodrop-ratio-0.3", "entrodrop"], ["other-1", "entrodrop"]),
        (["baseline", "baseline"], ["baseline", "other-1"]),
        (["gamma", "delta"], ["other-1", "other-2"]),
        (["baselines"], ["other-1"]),
    ],
)
def test_runs_have_the_colours_of_their_arms(arms, expected):
    assert looks_of([look(arm) for arm in arms]) == expected


def test_colours_are_those_of_figures(page):
    """The page's style has its own copy, since figures load matplotlib; the copy must agree."""
    from dynamics.plots import arm_styles

    for arms in (["baseline", "entrodrop"], ["random", "inverse"], ["gamma", "delta"]):
        for arm, name in zip(arms, looks_of([look(arm) for arm in arms]), strict=True):
            (colour,) = re.findall(rf"^\.look-{name} {{ --run: (#\w+);", page.html, re.MULTILINE)
            assert colour.upper() == arm_styles(arms)[arm].color


def contrast(one, other):
    """Return the contrast of two colours by WCAG 2.2, from 1 to 21."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_names_and_lines_can_be_seen_in_both_themes(page):
    for theme, start in (("light", ":root {"), ("dark", ":root.dark {")):
        paper, card = re.search(
            rf"^{re.escape(start)}.*?--paper: (#\w+); --card: (#\w+)", page.html, re.MULTILINE | re.DOTALL
        ).groups()
        prefix = r"\.dark " if theme == "dark" else "^"
        looks = re.findall(prefix + r"\.look-[\w-]+ { --run: (#\w+); --name: (#\w+); }", page.html, re.MULTILINE)
        assert len(looks) == 6
        for line, name in looks:
            assert contrast(name, paper) > 4.5 and contrast(name, card) > 4.5, (theme, name)
            assert contrast(line, paper) > 2.2, (theme, line)  # sky blue and pink are the palest of figures
