"""A study that tunes, trained for real: what was chosen is what the records say, and is in the manifests."""

from __future__ import annotations

import numpy as np
import pytest
from support.tiny import quiet, tiny_recipe

from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.sums.curves import mean_curve
from dynamics.errors import InputError
from dynamics.recipe.loading import load_recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.records.check import check_path
from dynamics.records.reader import open_run, open_study
from dynamics.study import run_study
from dynamics.training.recipe_run import train
from dynamics.validation import validated


def test_every_run_says_what_was_tried_and_what_it_cost(tmp_path):
    shared = tiny_recipe(
        corpus={"source": "builtin:python-reference", "documents": 10},
        tuning={"fraction": 0.3},
        training={"num_train_epochs": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
    ).model_dump(exclude={"seed", "tuned"})
    tune = {"seed": 9, "arms": {"it": {"training.learning_rate": [1e-5, 3e-3]}}}
    recipe = validated(StudyRecipe, {**shared, "arms": {"it": {}}, "seeds": [0], "tune": tune}, where="study")
    run_study(recipe, tmp_path / "out", reporter=quiet())

    study = open_study(tmp_path / "out")
    trials = [open_run(tmp_path / "out" / trial["run"]) for trial in study.tuning["it"]["trials"]]
    assert [trial.manifest["seeds"]["seed"] for trial in trials] == [9, 9]
    for trial, said in zip(trials, study.tuning["it"]["trials"], strict=True):
        records = trial.records("tuning")
        means = [np.nanmean(records.loss(epoch), dtype=np.float64) for epoch in (1, 2)]
        assert said["loss"] == pytest.approx(min(means), rel=1e-12) and said["epoch"] == 1 + int(np.argmin(means))
        curve = mean_curve(Arm("it", [trial]).sums("tuning"))[:, 0]
        assert said["loss"] == pytest.approx(curve[said["epoch"]], rel=1e-9)
    # With a rate of 1e-5 two epochs change next to nothing: there is no doubt which loss is lower.
    assert study.tuning["it"]["settings"] == {"training.learning_rate": 3e-3}
    run = study.run("it", 0)
    assert run.manifest["tuned"] == study.tuning["it"] == run.config["tuned"]
    assert run.manifest["tuned"]["budget"] == {"trials": 2, "epochs": 4}
    assert run.config["training"]["learning_rate"] == 3e-3 and "tuned" not in trials[0].manifest
    assert all(report.ok and not report.notes for report in check_path(study.path))

    other = load_recipe(run.path / "config.yaml", ["tuned.chosen=0"])
    with pytest.raises(InputError, match=r"holds a run that differs in tuned\.chosen \(1 then, 0 now\)"):
        train(other, run.path, resume=True, reporter=quiet())
