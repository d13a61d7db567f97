"""What a study, a run and records show: numbers of `arm_summary`, and one line for what is wrong. They never raise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics import open_run, open_study, open_summary, summarize_study
from dynamics.analysis.cards import run_card, study_table
from dynamics.analysis.estimands.summary import arm_summary
from dynamics.display.numbers import interval
from dynamics.records import schema

Array = Any


def ending(value: float) -> Any:
    """Return a loss of 3 nats with noise that is `value` after the last epoch."""

    def loss(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, value if epoch == 2 else 3.0) + rng.normal(0, 0.1, entropy.shape)

    return loss


@pytest.fixture
def study(tmp_path: Path) -> Path:
    fns = {"nan": ending(np.nan), "inf": ending(np.inf)}
    arms: dict[str, dict[str, Any]] = {"baseline": {}, "nan": {}, "inf": {}, "later": {}}
    skip = [("later", seed) for seed in (0, 1, 2)]
    return make_study(tmp_path / "study", arms=arms, loss_fns=fns, skip=skip, n_documents=40, epochs=2, seeds=(0, 1, 2))


def rows_of(text: str) -> dict[str, str]:
    return {line.split()[0]: line for line in text.splitlines() if line.strip()}


def test_a_study_shows_what_arm_summary_finds(study: Path) -> None:
    text = repr(open_study(study))
    assert text.splitlines()[0] == "Study('study': 4 arms, 3 seeds)"
    assert "later, seeds 0, 1, 2: not begun" in text.splitlines()
    assert "intervals generalise over: seeds and documents" in text
    (baseline, *_) = arm_summary(open_study(study))
    row = rows_of(text)["baseline"]
    assert interval((baseline.final, baseline.final_low, baseline.final_high)) in row
    ends = (baseline.rebound_cross_fitted, baseline.rebound_cross_fitted_low, baseline.rebound_cross_fitted_high)
    assert interval(ends) in row
    for gone in ("nan", "inf"):
        assert rows_of(text)[gone].split()[2:] == ["diverged", "–", "diverged", "diverged", "0.0"]


def test_a_study_with_damage_says_which_and_shows_the_rest(study: Path) -> None:
    manifest = study / "runs" / "nan" / "seed-1" / schema.MANIFEST_FILE
    manifest.write_bytes(manifest.read_bytes()[:40])
    for file in (study / "runs" / "inf" / "seed-0" / "epochs").rglob("validation*"):
        file.write_bytes(b"x")
    text = repr(open_study(study))
    assert "nan, seed 1: cannot be opened" in text and "is damaged" in text
    assert "(" in rows_of(text)["baseline"] and "inf:" in rows_of(text)
    shutil.rmtree(study / "runs")
    assert [line.split() for line in repr(open_study(study)).splitlines()[-4:]] == [
        [arm, "0"] for arm in ("baseline", "nan", "inf", "later")
    ]


def test_names_of_arms_are_no_markup(tmp_path: Path) -> None:
    path = make_study(tmp_path / "s", arms={"<b>&": {}}, seeds=(0,), n_documents=4, epochs=1)
    page = open_study(path)._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page


def test_a_run_has_a_card_with_its_curve(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", n_documents=4, epochs=2, regularizers=[{"name": "entrodrop", "ratio": 0.4}])
    run = open_run(path)
    facts = rows_of(repr(run))
    assert facts["status"].split() == ["status", "complete"]
    assert facts["method"].split(maxsplit=1)[1] == "entrodrop (ratio 0.4)"
    assert facts["epochs"].split(maxsplit=1)[1] == "0 to 2 of 2"
    curve = [float(np.nanmean(run.records("validation").loss(epoch))) for epoch in (0, 1, 2)]
    assert f"first {curve[0]:.3f} at epoch 0" in facts["validation"]
    assert f"final {curve[2]:.3f} at epoch 2" in facts["validation"]
    assert "<svg" in run._repr_html_() and "█" in repr(run)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_run_that_diverged_says_so(tmp_path: Path, value: float) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=2, loss_fn=ending(value)))
    assert "final diverged at epoch 2" in repr(run) and repr(run).endswith("×")


def test_a_run_without_epochs_a_damaged_and_a_lost_one(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", n_documents=4, epochs=1)
    lost = open_run(path)
    shutil.rmtree(path / "epochs")
    assert "none recorded" in repr(open_run(path)) and "not recorded" in repr(open_run(path))
    assert "validation loss  cannot be read: " in repr(lost)
    shutil.rmtree(path)
    assert "cannot be read: " in repr(open_run_kept(lost)) and "<table" in lost._repr_html_()


def open_run_kept(run: Any) -> Any:
    """Return a run as if it had not been shown yet."""
    vars(run).pop("_kept_picture")
    return run


def test_large_records_are_not_read_in_full(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_card, "MOST_VALUES", 10)
    monkeypatch.setattr(study_table, "MOST_VALUES", 10)
    run = repr(open_study(study).run("baseline", 0))
    assert "of 3 epochs this card reads 2, as the records are large" in run
    assert "too large to be summed up here" in repr(open_study(study))


def test_a_summary_shows_the_same_numbers(study: Path, tmp_path: Path) -> None:
    summarize_study(open_study(study), tmp_path / "summary")
    summary = open_summary(tmp_path / "summary")
    assert repr(summary).startswith("Summary(")
    for arm in ("baseline", "nan"):
        assert rows_of(repr(summary))[arm] == rows_of(repr(open_study(study)))[arm]
    assert "sums of loss, entropy and correct; no tokens" in repr(summary.run("baseline", 0).records("validation"))
    assert "final diverged" in repr(summary.run("nan", 0))


def test_records_say_what_they_hold(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=1))
    records = run.records("train")
    text = repr(records)
    assert (
        text.splitlines()[0]
        == f"Records(train: {len(records.token_id)} sequences of {records.token_id.shape[1]} tokens)"
    )
    facts = rows_of(text)
    assert facts["predicted"].split()[-1] == f"{int(records.predicted.sum()):,}"
    assert facts["epochs"].split(maxsplit=1)[1] == "0, 1" and "loss" in facts["recorded"]
    assert "<table" in records._repr_html_()
