"""Going on with a study from its summary: small real runs, on what are two machines."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.tiny import quiet, tiny_recipe

from dynamics import open_study, open_summary
from dynamics.recipe.loading import as_study, dump_yaml, load_recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.reporting import Reporter
from recipes.study.go_on import go_on, main, missing_runs

ALL = [("plain", 0), ("dropped", 0), ("plain", 1), ("dropped", 1)]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = yaml.safe_load(dump_yaml(tiny_recipe(training={"num_train_epochs": 1, "per_device_train_batch_size": 32})))
    del fields["seed"]
    fields |= {
        "name": "small",
        "tuning": {"fraction": 0.2},
        "arms": {"plain": {}, "dropped": {"regularizers": [{"name": "entrodrop", "ratio": 0.2}]}},
        "seeds": [0, 1],
        "tune": {"seed": 9, "arms": {arm: {"training.weight_decay": [0.1]} for arm in ("plain", "dropped")}},
    }
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


def ticking(*seconds: float) -> Iterator[float]:
    """Seconds that a clock says, one after the other, and the last for ever."""
    yield from seconds
    while True:
        yield seconds[-1]


def test_a_study_goes_on_where_its_summary_stops(recipe_file: Path, tmp_path: Path) -> None:
    recipe = as_study(load_recipe(recipe_file), "small")
    assert isinstance(recipe, StudyRecipe)
    summaries, first = tmp_path / "studies/small", tmp_path / "first"
    clock = ticking(0.0, 1.0, 61.0)
    missing = go_on(
        recipe, first, summaries, groups=["words=the"], minutes=1, reporter=quiet(), clock=lambda: next(clock)
    )
    # All arms of a seed before the next seed; no further run after a minute.
    assert missing == ALL[1:] == missing_runs(recipe, summaries)
    assert open_summary(summaries).held == ALL[:1]
    trained = sorted(path.parent.relative_to(first).as_posix() for path in first.glob("tuning/*/*/manifest.json"))
    assert trained == ["tuning/dropped/trial-0", "tuning/plain/trial-0"]

    # Another machine, with nothing but the summary: no trial and no run of it again.
    second, said = tmp_path / "second", io.StringIO()
    assert go_on(recipe, second, summaries, reporter=Reporter(Console(file=said, width=200))) == []
    assert not list(second.glob("tuning/*/*/manifest.json"))
    assert list(open_study(second).runs) == [("plain", 1), ("dropped", 0), ("dropped", 1)]
    lines = [line for line in said.getvalue().splitlines() if line.endswith(" added")]
    assert lines == [f"{summaries}: {arm} seed {seed} added" for arm, seed in ALL[1:]]
    summary = open_summary(summaries)
    assert sorted(summary.held) == sorted(ALL)
    assert (summaries / "tuning.json").read_bytes() == (first / "tuning.json").read_bytes()
    assert summary.run("plain", 1).manifest["tuned"]["settings"] == {"training.weight_decay": 0.1}
    assert list(summary.content["groups"]) == ["words"]

    # And the whole again: nothing to do, and nothing written.
    assert go_on(recipe, tmp_path / "third", summaries, reporter=quiet()) == []
    assert not (tmp_path / "third").exists()


def test_bad_input_is_one_message(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--summaries", str(tmp_path / "s"), "--output", str(tmp_path / "o")]
    assert main([str(tmp_path / "none.yaml"), *places]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main([str(recipe_file), *places, "--jobs", "0"]) == 2
    assert "--jobs: 0 runs at a time" in capsys.readouterr().err
    assert main([str(recipe_file), *places, "--group", "nothing"]) == 2
    assert "--group: 'nothing' is no task" in capsys.readouterr().err
    assert not (tmp_path / "s").exists() and not (tmp_path / "o").exists()
