"""Trainings that are interrupted: what is left behind, and what a resumed one becomes, at every door."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.doors.checks import assert_exact, assert_the_same, assert_whole, expected_masks, hooks_on
from support.doors.setting import DOORS, TRAINERS, Stream, Training, setting_in
from support.doors.table import cells
from support.doors.through import Stops, arguments, bare, make_trainer, recipe_run, train
from support.models import Padder
from transformers import Trainer

from dynamics import EntroDrop, open_run
from dynamics.errors import InputError
from dynamics.regularizers.hidden_dropout import HiddenDropout


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return setting_in(tmp_path_factory.mktemp("setting"))


def methods():
    """What depends on all that a checkpoint must keep: values of the last epoch, and the global generators."""
    return [EntroDrop(ratio=0.4, schedule="constant", source="previous_epoch"), HiddenDropout(rate=0.1)]


def files(folder):
    """Every byte of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Where the training is saved, and in which step it is interrupted: three steps are a pass.
WHERE = {"resume at the end of an epoch": (3, 5), "resume within an epoch": (4, 5)}


@pytest.mark.parametrize(("situation", "door"), cells(*WHERE))
def test_a_resumed_training_is_as_if_never_interrupted(situation, door, setting, tmp_path):
    save_at, stop_at = WHERE[situation]
    training = Training(epochs=3, methods=methods, training_pass=door in ("recipe", "DynamicsTrainer"), save_at=save_at)
    torch.manual_seed(0)
    whole = train(door, setting, tmp_path / "whole", training)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path / "broken", replace(training, stop_at=stop_at))
    assert not open_run(tmp_path / "broken" / "run").complete
    torch.manual_seed(1)
    resumed = train(door, setting, tmp_path / "broken", replace(training, resume=True))
    assert_the_same(whole, resumed)
    assert whole.run.records("train").dropped(3).any()
    assert_whole(resumed)
    assert_exact(resumed)
    assert "resumed" not in resumed.run.manifest  # nothing was changed: it is the run that it would have been


@pytest.mark.parametrize("save_at", [2, 3, 4, 6])
@pytest.mark.parametrize("door", TRAINERS)
def test_a_stream_goes_on_where_the_trainer_can(door, save_at, setting, tmp_path):
    training = Training(steps=9, rows=Stream, save_at=save_at)
    whole = train(door, setting, tmp_path / "whole", training)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path / "broken", replace(training, stop_at=8))
    if save_at == 4:
        # The Trainer skips batches of a first pass alone.
        before = files(tmp_path / "broken" / "run")
        with pytest.raises(InputError, match="is within pass 2 of a data set without a length"):
            train(door, setting, tmp_path / "broken", replace(training, resume=True))
        assert files(tmp_path / "broken" / "run") == before
        return
    resumed = train(door, setting, tmp_path / "broken", replace(training, resume=True))
    assert whole.run.epochs == [0, 1, 2, 3] and whole.run.partial_epochs == {}
    assert_the_same(whole, resumed)
    assert_exact(resumed)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("door", DOORS)
def test_an_interrupted_training_leaves_the_model_alone(door, error, setting, tmp_path, monkeypatch):
    models = []
    training = Training(methods=methods, stop_at=2, wrap=lambda model: models.append(model) or model)
    if door == "plain loop":
        monkeypatch.setattr("support.doors.own_loop.KeyboardInterrupt", error, raising=False)
    monkeypatch.setattr("support.doors.through.Stops", lambda step: Stops(step, error))
    own = recipe_run.trainer_of

    def trainer_of(*parts):
        trainer = own(*parts)
        models.append(trainer.model)
        return trainer

    monkeypatch.setattr(recipe_run, "trainer_of", trainer_of)
    with pytest.raises(error):
        train(door, setting, tmp_path, training)
    (model,) = models
    assert hooks_on(model) == []
    fresh = setting.fresh()
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    model.zero_grad()
    for at, one in enumerate((model, fresh)):
        args = arguments(tmp_path / str(at), Training(epochs=1, arguments={"save_strategy": "no"}))
        Trainer(one, args, Padder(), train_dataset=setting.train).train()
    for (name, weight), same in zip(model.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(weight, same), name


@pytest.mark.parametrize("door", TRAINERS)
def test_an_interrupted_trainer_trains_again(door, setting, tmp_path):
    training = Training(stop_at=2, epochs=1)
    trainer = make_trainer(door, setting, tmp_path, training)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.callback_handler.pop_callback(Stops)
    for again in ("run-2", "run-3"):
        trainer.train()
        run = open_run(tmp_path / again)
        assert run.complete and run.epochs == [0, 1] and hooks_on(bare(trainer)) == []
        assert np.array_equal(run.records("train").dropped(1), expected_masks(run.records("train").predicted, 1))


HARMLESS = {
    "dataloader_num_workers": 1,
    "per_device_eval_batch_size": 2,
    "eval_strategy": "epoch",
    "run_name": "another",
}


@pytest.mark.parametrize("door", TRAINERS)
def test_harmless_changes_and_another_place(door, setting, tmp_path):
    training = Training(save_at=4)
    whole = train(door, setting, tmp_path / "whole", training)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path / "first", replace(training, stop_at=6))
    shutil.move(tmp_path / "first", tmp_path / "second")
    resumed = train(door, setting, tmp_path / "second", replace(training, resume=True, arguments=HARMLESS))
    for split in whole.run.splits:
        mine, theirs = whole.run.records(split), resumed.run.records(split)
        for epoch in (1, 2):
            np.testing.assert_allclose(mine.loss(epoch), theirs.loss(epoch), atol=1e-5)
    assert np.array_equal(whole.run.records("train").dropped(2), resumed.run.records("train").dropped(2))
    (entry,) = resumed.run.manifest["resumed"]
    assert entry["step"] == 4
    assert entry["changed"]["training.per_device_eval_batch_size"] == [4, 2]
    assert set(entry["changed"]) <= {f"training.{key}" for key in [*HARMLESS, "eval_steps", "do_eval"]}
    assert_exact(resumed)


@pytest.mark.parametrize("door", DOORS)
def test_more_epochs(door, setting, tmp_path):
    constant = {} if door == "plain loop" else {"lr_scheduler_type": "constant"}
    training = Training(save_at=6, epochs=2, arguments=constant)
    whole = train(door, setting, tmp_path / "whole", replace(training, epochs=3))
    if door == "recipe":
        # When it is finished, its optimiser's state is gone; interrupted, it may go on for longer.
        with pytest.raises(KeyboardInterrupt):
            train(door, setting, tmp_path / "longer", replace(training, stop_at=5))
    else:
        train(door, setting, tmp_path / "longer", training)
    longer = train(door, setting, tmp_path / "longer", replace(training, epochs=3, resume=True))
    assert longer.run.epochs == [0, 1, 2, 3]
    assert_the_same(whole, longer)
    assert_whole(longer)
    assert_exact(longer)


CHANGED = [
    ({"rate": 2e-2}, r"training\.learning_rate \(0\.01 then, 0\.02 now\)"),
    ({"batch": 2}, r"training\.(per_device_train_)?batch_size \(4 then, 2 now\)"),
]


@pytest.mark.parametrize("door", DOORS)
def test_changes_that_change_the_training_are_refused(door, setting, tmp_path):
    training = Training(save_at=3)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path, replace(training, stop_at=5))
    before = files(tmp_path / "run")
    for change, line in CHANGED:
        with pytest.raises(InputError, match=line) as caught:
            train(door, setting, tmp_path, replace(training, **change, resume=True))
        assert "\n" not in str(caught.value)
        assert files(tmp_path / "run") == before


# What fetches other batches than the training that was interrupted would have, with the same tokens in each pass.
OTHER_BATCHES = [
    ({"ignore_data_skip": True}, r"args\.ignore_data_skip is True, but the checkpoint of step 4 is within pass 2"),
    (
        {"accelerator_config": {"use_seedable_sampler": False}},
        r"use_seedable_sampler \(True then|and the order of the pass",
    ),
]


@pytest.mark.parametrize(("change", "line"), OTHER_BATCHES)
@pytest.mark.parametrize("door", TRAINERS)
def test_a_pass_that_would_see_sequences_twice_is_refused(door, change, line, setting, tmp_path):
    training = Training(save_at=4)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path, replace(training, stop_at=6))
    before = files(tmp_path / "run")
    with pytest.raises(InputError, match=line):
        train(door, setting, tmp_path, replace(training, arguments=change, resume=True))
    assert files(tmp_path / "run") == before


DRAWN = [(door, {"train_sampling_strategy": "group_by_length"}) for door in TRAINERS] + [
    ("attach", {"accelerator_config": {"use_seedable_sampler": False}})
]


@pytest.mark.parametrize(("door", "drawn"), DRAWN)
def test_a_pass_whose_order_would_be_another_is_refused(door, drawn, setting, tmp_path):
    training = Training(save_at=4, arguments=drawn)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path, replace(training, stop_at=6))
    with pytest.raises(InputError, match="the checkpoint of step 4 is within pass 2, and the order of the pass"):
        train(door, setting, tmp_path, replace(training, resume=True))
    # At the end of a pass nothing is seen twice.
    resumed = train(door, setting, tmp_path, replace(training, save_at=3, resume=True))
    assert resumed.run.epochs == [0, 1, 2] and resumed.run.partial_epochs == {}


def test_a_loss_that_is_not_finite_is_kept_in_a_checkpoint(setting, tmp_path):
    training = Training(save_at=2, stop_at=3, sgd=True, rate=1e30)
    with pytest.raises(KeyboardInterrupt):
        train("DynamicsTrainer", setting, tmp_path, training)
    resumed = train("DynamicsTrainer", setting, tmp_path, replace(training, stop_at=None, resume=True))
    losses = [row["training_loss"] for row in resumed.run.metrics()]
    assert np.isfinite(losses[0]) and np.isnan(losses[1:]).all() and len(losses) == 6
