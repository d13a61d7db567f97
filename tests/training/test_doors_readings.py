"""Every reading of EntroDrop at every door: masks by their definition, and records of a model that was left as found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.doors.checks import assert_exact, assert_the_same, assert_whole
from support.doors.setting import Training, setting_in
from support.doors.table import DOORS
from support.doors.through import train

from dynamics import EntroDrop
from dynamics.ops.keyed_random import STREAM_DROP, keyed_uniform

READINGS = {
    "lowest": {"choice": "lowest"},
    "graded, at": {"choice": "graded", "distribution": "at_token", "rescale": "token"},
    "unattended": {"replacement": "unattended", "ranks": "sequence"},
    "deleted": {"replacement": "deleted", "target": "both"},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return setting_in(tmp_path_factory.mktemp("setting"))


def expected(records, epoch, reading):
    """With sorted lists, from the recorded values of the starting model."""
    entropy, predicted = np.array(records.reference_entropy), np.array(records.predicted)
    if "distribution" in reading:
        after = np.full(entropy.shape, np.nan)
        after[:, :-1] = np.where(predicted[:, 1:], entropy[:, 1:], np.nan)
        entropy = after
    groups = [np.argwhere(predicted)]
    if "ranks" in reading:
        groups = [np.argwhere(predicted & (np.arange(len(predicted))[:, None] == row)) for row in range(len(predicted))]
    chance = np.zeros(entropy.shape)
    for group in groups:
        order = sorted(map(tuple, group), key=lambda at: (np.isnan(entropy[at]), entropy[at], at))
        pool = round(0.5 * len(order))
        for rank, at in enumerate(order):
            if reading.get("choice") == "lowest":
                chance[at] = rank < np.floor(0.2 * len(order) + 0.5)
            elif rank < pool:
                chance[at] = 0.8 * (1 - (rank + 0.5) / pool) if "choice" in reading else 0.4
    rows = torch.arange(len(predicted))[:, None]
    columns = torch.arange(predicted.shape[1])
    draw = keyed_uniform(seed=0, stream=STREAM_DROP, epoch=epoch, sequence_id=rows, position=columns).numpy()
    return predicted & (draw < chance)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("reading", READINGS)
def test_masks_are_those_of_the_reading(reading, door, setting, tmp_path):
    settings = READINGS[reading]
    methods = lambda: [EntroDrop(ratio=0.2, schedule="constant", **settings)]  # noqa: E731
    trained = train(door, setting, tmp_path, Training(methods=methods, batch=2, accumulation=2))
    assert_whole(trained)
    assert_exact(trained)
    records = trained.run.records("train")
    for epoch in trained.run.epochs[1:]:
        assert np.array_equal(records.dropped(epoch), expected(records, epoch, settings))
    assert records.dropped(1).any()


def methods():
    schedule = {"name": "cosine", "decreasing": True, "stairs": 3}
    return [EntroDrop(ratio=0.3, schedule=schedule, choice="graded", replacement="deleted", target="both")]


@pytest.mark.parametrize("door", DOORS)
def test_a_resumed_training_is_as_if_never_interrupted(door, setting, tmp_path):
    training = Training(epochs=3, methods=methods, save_at=4)
    whole = train(door, setting, tmp_path / "whole", training)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path / "broken", replace(training, stop_at=5))
    resumed = train(door, setting, tmp_path / "broken", replace(training, resume=True))
    assert_the_same(whole, resumed)
    # One strength an epoch, and less in each: 0.3 times (1 + cos(pi (k + 1/2) / 3)) / 2.
    by_epoch = np.array([row["ratio"] for row in whole.run.metrics()]).reshape(3, -1)
    assert (by_epoch == by_epoch[:, :1]).all()
    np.testing.assert_allclose(by_epoch[:, 0], 0.15 * (1 + np.cos(np.pi * np.array([1, 3, 5]) / 6)))
