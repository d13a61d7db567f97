from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from support.synthetic import make_study

from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.sums.summarising import summarize_study
from dynamics.errors import InputError
from dynamics.notebook import find_study
from dynamics.records.reader import open_study


def test_the_example_is_found_and_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = find_study()
    assert study.arms == ["baseline", "entrodrop", "random"]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "The example that ships with the package: 3 arms (baseline, entrodrop, random), 3 seeds."
    assert "Only 12 documents of 'tuning' are recorded: intervals may be too narrow." in said


def test_limits_are_said_once_and_then_silent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = make_study(tmp_path / "mine", arms={"plain": {}, "other": {}}, seeds=(7,), n_documents=24, epochs=3)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        study = find_study(path)
        assert study_comparisons(study)
        assert not raised
        said = capsys.readouterr().out
        assert "mine: 2 arms (plain, other), 1 seed." in said
        assert "Only 12 documents of 'validation' are recorded" in said
        assert "Only 1 seed: intervals are over documents" in said
        warnings.resetwarnings()
        warnings.simplefilter("always")
        assert study_comparisons(study) and raised  # what is silenced is a warning elsewhere


def test_an_unfinished_run_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = make_study(tmp_path / "mine", arms={"plain": {}}, seeds=(0, 1), n_documents=60, epochs=2)
    (path / "runs" / "plain" / "seed-1" / "manifest.json").unlink()
    find_study(path)
    assert "Not complete: plain, seed 1." in capsys.readouterr().out


def test_a_folder_of_studies_gives_the_newest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        path = make_study(tmp_path / name, arms={"plain": {}}, seeds=(0,), n_documents=60, epochs=1)
        os.utime(path / "study.yaml", (1e9 - age, 1e9 - age))
    assert find_study(tmp_path).path == tmp_path / "new"
    assert "the newest of 2 studies" in capsys.readouterr().out


def test_a_summary_and_a_folder_called_example(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_study(tmp_path / "example", arms={"plain": {}}, seeds=(0,), n_documents=60, epochs=1)
    summarize_study(open_study(path), tmp_path / "summary")
    assert find_study(tmp_path / "summary").arms == ["plain"]
    assert "a summary without text" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert find_study("example").arms == ["plain"]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no study and holds none"):
        find_study(tmp_path / "nothing")
    path = make_study(tmp_path / "mine", arms={"plain": {}}, seeds=(0,), n_documents=60, epochs=1)
    with pytest.raises(InputError, match=r"is a run, not a study; open it with dynamics\.open_run"):
        find_study(path / "runs" / "plain" / "seed-0")
