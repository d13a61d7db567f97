"""`dynamics explore`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command
from support.synthetic import make_run, make_study

from dynamics.cli.places import telling_runs
from dynamics.records.reader import open_study


@pytest.fixture
def explore(tmp_path, monkeypatch, capsys):
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    command = Command(monkeypatch, capsys)

    def run(*arguments):
        done = command("explore", *map(str, arguments))
        run.next_steps = command.next_steps
        return done

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
    assert out.endswith("new/page.html: 0.1 MB\n")
    page = (tmp_path / "new" / "page.html").as_uri()
    assert explore.next_steps == [["python", "-m", "webbrowser", page]]


def test_a_budget_is_kept(explore, runs, tmp_path):
    code, out, _ = explore(runs[0], "--output", "page.html", "--budget", "0.1", "--buckets", "3")
    assert code == 0 and (tmp_path / "page.html").stat().st_size <= 100_000
    assert explore(runs[0], "--output", "page.html", "--budget", "0.01")[0] == 2


def test_what_it_refuses(explore, runs, tmp_path):
    assert explore(*runs, runs[0], "--output", "page.html")[::2] == (
        2,
        "Error: a page shows one run or two; got 3\n",
    )
    code, _, err = explore(runs[0], "--output", tmp_path)
    assert code == 2 and "is a folder; name a file" in err
    code, _, err = explore(tmp_path / "nowhere", "--output", "page.html")
    assert code == 2 and "nowhere" in err
    assert not (tmp_path / "page.html").exists()


def test_without_an_output_the_page_lies_in_the_run(explore, tmp_path):
    run = make_run(tmp_path / "a run")
    code, out, err = explore("a run")
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("a run/explorer.html: ")
    assert (run / "explorer.html").is_file()


DROPPED = [{"name": "entrodrop", "ratio": 0.3}]


@pytest.mark.parametrize(
    ("arms", "skip", "wanted"),
    [
        # The baseline is the first of a pair, and EntroDrop goes before other methods.
        (
            {"other": {}, "dropped": {"regularizers": DROPPED}, "baseline": {}},
            [],
            ["baseline/seed-2", "dropped/seed-2"],
        ),
        # The lowest seed that both have.
        (
            {"baseline": {}, "dropped": {"regularizers": DROPPED}},
            [("baseline", 2)],
            ["baseline/seed-5", "dropped/seed-5"],
        ),
        # Where they have none in common, the next arm.
        (
            {"baseline": {}, "dropped": {"regularizers": DROPPED}, "other": {}},
            [("baseline", 5), ("baseline", 9), ("dropped", 2)],
            ["baseline/seed-2", "other/seed-2"],
        ),
        ({"baseline": {}, "other": {}}, [("other", 2), ("other", 5), ("other", 9)], ["baseline/seed-2"]),
        ({"alone": {}}, [("alone", 2)], ["alone/seed-5"]),
    ],
)
def test_of_a_study_it_shows_the_two_runs_that_tell_most(explore, tmp_path, arms, skip, wanted):
    make_study(tmp_path / "study", arms=arms, seeds=[5, 2, 9], skip=skip)
    chosen = telling_runs(open_study(tmp_path / "study"))
    assert [str(run.path.relative_to(tmp_path / "study" / "runs")) for run in chosen] == wanted


def test_it_says_which_runs_it_chose_and_how_to_name_others(explore, tmp_path):
    make_study(tmp_path / "study", arms={"baseline": {}, "dropped": {"regularizers": DROPPED}}, seeds=[0, 1])
    code, out, err = explore("study", "--output", "page.html")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == (
        "study: this page shows runs/baseline/seed-0 and runs/dropped/seed-0; for others, name one run or two as "
        "study/runs/ARM/seed-SEED (arms: baseline, dropped; seeds: 0, 1)"
    )
    assert Path("page.html").is_file()
    make_study(tmp_path / "empty", arms={"a": {}}, seeds=[0], skip=[("a", 0)])
    code, out, err = explore("empty")
    assert (code, out) == (2, "") and "no run of this study has recorded an epoch yet" in err
    assert not Path("empty/explorer.html").exists()
