"""The figures and tables of every summary in studies/, made again byte for byte; `make figures` makes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamics import open_summary
from dynamics.plots.saving import save_figures
from dynamics.records.summaries.check import check_summary

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in (ROOT / "studies").glob("*/study.json"))


def test_every_folder_of_studies_holds_a_summary() -> None:
    folders = sorted(path.name for path in (ROOT / "studies").glob("*") if path.is_dir())
    assert folders == STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_a_summary_is_whole(name: str) -> None:
    report = check_summary(ROOT / "studies" / name)
    assert (report.problems, report.notes) == ([], [])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of few seeds or documents, and of mixed hardware: no matter here
@pytest.mark.parametrize("name", STUDIES)
def test_figures_are_made_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    committed = ROOT / "figures" / f"study-{name}"
    summary = open_summary(ROOT / "studies" / name)
    kept = json.loads((ROOT / "studies" / name / "study.json").read_text(encoding="utf-8"))["groups"]
    task = "gsm8k" if "gsm8k" in kept else None
    made = save_figures([summary], output=tmp_path, task=task, on_skip=lambda reason: None)
    assert sorted(path.name for path in made) == sorted(path.name for path in committed.iterdir())
    for path in made:
        assert path.read_bytes() == (committed / path.name).read_bytes(), path.name
