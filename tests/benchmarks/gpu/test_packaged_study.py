"""The packaged study's baseline, trained again: near another training of itself, and no other seed is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.steps import by_what

from benchmarks.gpu.steps import packaged_study
from dynamics import load_example

WHAT = "packaged study: "


@pytest.fixture(scope="module")
def example():
    return load_example()


def test_another_seed_is_another_training(example):
    """The same tokens in another order: the curves are near, but not token by token."""
    reference, other = example.run("baseline", 0), example.run("baseline", 1)
    measured, checks = packaged_study.held_against(reference, other, packaged_study.LEAST_CORRELATION)
    found = by_what(checks)
    for split in ("validation", "train"):
        assert packaged_study.same_tokens(reference, other, split)
        assert not found[f"{WHAT}{split}, correlation of loss with the CPU's, least of the epochs"].met
        # A pretrained model's seeds are nearer to each other than those of the small one that the step trains.
        assert 0.97 < min(measured[split]["correlation of loss"][1:]) < packaged_study.LEAST_CORRELATION["loss"]


def test_an_arm_that_does_not_overfit_is_told(example):
    given = example.run("baseline", 0), example.run("entrodrop", 0)
    _, checks = packaged_study.held_against(*given, packaged_study.LEAST_CORRELATION)
    assert not by_what(checks)[f"{WHAT}validation means, nats from the CPU's"].met


def test_a_model_that_is_another_before_training_is_told(example):
    reference = example.run("baseline", 0)

    class Off:
        epochs = [0]

        def records(self, split):
            same = reference.records(split)
            return SimpleNamespace(loss=lambda epoch: same.loss(epoch) + 0.03, entropy=same.entropy)

    _, checks = packaged_study.held_against(reference, Off(), packaged_study.LEAST_CORRELATION)
    before = by_what(checks)[f"{WHAT}validation, losses before training, nats apart"]
    assert not before.met and before.value == pytest.approx(0.03, abs=1e-3)
