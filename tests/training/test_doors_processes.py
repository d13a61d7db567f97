"""Two processes (DDP on gloo) through every door: records are those of a float64 recomputation, whole and in order."""

from __future__ import annotations

import numpy as np
import pytest
from support.doors import one_of_two
from support.doors.checks import assert_exact, expected_masks
from support.doors.setting import setting_in
from support.doors.table import cells
from support.doors.through import left_in
from support.launching import launch

from dynamics import open_run
from dynamics.records.check import check_run


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return setting_in(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def both(setting, tmp_path_factory):
    """The folder in which two processes have trained through all doors."""
    folder = tmp_path_factory.mktemp("both")
    one_of_two.write(setting, folder / "setting.json")
    for door in ("recipe", "DynamicsTrainer", "attach", "plain loop"):
        (folder / door).mkdir()
    launch(folder, [one_of_two.__file__, str(folder / "setting.json"), str(folder)])
    return folder


@pytest.mark.parametrize(("situation", "door"), cells("two processes"))
def test_two_processes(situation, door, setting, both):
    trained = left_in(door, setting, both / door, one_of_two.training())
    run = trained.run
    assert run.complete and check_run(run.path).ok and run.epochs == [0, 1, 2] and run.partial_epochs == {}
    assert run.manifest["hardware"]["processes"] == 2 and run.manifest["total_steps"] == 6
    assert (run.path / "epochs" / "epoch-0001" / "train-00001-of-00002.safetensors").is_file()
    assert_exact(trained)
    records = run.records("train")
    for epoch in (1, 2):
        assert np.array_equal(records.dropped(epoch), expected_masks(records.predicted, epoch))
    assert [row["step"] for row in run.metrics()] == list(range(1, 7))
    for epoch in (1, 2):
        # The shares of the steps' predicted tokens, in all processes, add up to those of the epoch.
        shares = [row["dropped_share"] for row in run.metrics()][3 * epoch - 3 : 3 * epoch]
        share = records.dropped(epoch).sum() / records.predicted.sum()
        assert min(shares) - 1e-9 <= share <= max(shares) + 1e-9


def test_losses_that_each_process_averages_itself(setting, tmp_path):
    # Nothing is learned, so that the mean over steps and processes is about that of the tokens before training.
    one_of_two.write(setting, tmp_path / "setting.json")
    (tmp_path / "DynamicsTrainer").mkdir()
    launch(tmp_path, [one_of_two.__file__, str(tmp_path / "setting.json"), str(tmp_path), "own means"])
    run = open_run(tmp_path / "DynamicsTrainer" / "run")
    expected = float(np.nanmean(run.records("train").loss(0)))
    for row in run.metrics():
        # Of nine rows the last is alone in its step: the mean of the other process is that of nothing, 0.
        share = 0.5 if row["step"] % 3 == 0 else 1.0
        assert row["training_loss"] == pytest.approx(share * expected, rel=0.2)
