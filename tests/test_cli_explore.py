"""`dynamics explore`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import sys

import pytest
from support.synthetic import make_run

from dynamics import cli


@pytest.fixture
def explore(tmp_path, monkeypatch, capsys):
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dynamics", "explore", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        # Lines are folded at the terminal's width.
        return int(caught.value.code or 0), " ".join(said.out.split()), " ".join(said.err.split())

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / name, name=name, seed=seed) for seed, name in enumerate(("one", "two"))]


@pytest.mark.parametrize("n", [1, 2])
def test_it_writes_a_page_and_says_what_is_in_it(explore, runs, tmp_path, n):
    code, out, err = explore(*runs[:n], "--output", "new/page.html")
    assert (code, err) == (0, "")
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    what = "recorded validation tokens" if n == 1 else "validation tokens that both runs recorded"
    assert f"{what} are in this page." in out and "8 bits" in out
    assert out.endswith("new/page.html: 0.1 MB")


def test_a_budget_is_kept(explore, runs, tmp_path):
    code, out, _ = explore(runs[0], "--output", "page.html", "--budget", "0.1", "--buckets", "3")
    assert code == 0 and (tmp_path / "page.html").stat().st_size <= 100_000
    assert explore(runs[0], "--output", "page.html", "--budget", "0.01")[0] == 2


def test_what_it_refuses(explore, runs, tmp_path):
    assert explore(*runs, runs[0], "--output", "page.html")[::2] == (
        2,
        "Error: a page shows one run or two; got 3",
    )
    code, _, err = explore(runs[0], "--output", tmp_path)
    assert code == 2 and "is a folder; name a file" in err
    code, _, err = explore(tmp_path / "nowhere", "--output", "page.html")
    assert code == 2 and "nowhere" in err
    assert not (tmp_path / "page.html").exists()
