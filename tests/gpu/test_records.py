"""What is recorded on the device is what float64 makes of the weights, in every precision that trainings have."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from support.doors.checks import recomputed
from support.models import Padder
from support.on_device import CHECKPOINTING, DATA, STEPS_PER_PASS, arguments, batches, model, same, steps, weights
from transformers import Trainer

from dynamics import DynamicsTrainer, EntroDrop, LoopRecorder, TokenRecorder, attach, open_run
from dynamics.records.check import check_run

# Largest and mean error in nats, where losses are about 4: of float32, and of hidden states in half precision.
FLOAT32, HALF = (1e-4, 1e-5), (0.1, 0.02)


def method():
    return EntroDrop(ratio=0.3, schedule="constant")


def assert_recorded(path, trained, epoch, tolerance):
    """Recorded values of `DATA` are those of a model, within a tolerance."""
    run = open_run(path)
    assert run.complete and check_run(run.path).ok
    records = run.records("train")
    due = recomputed(copy.deepcopy(trained).cpu().double().eval(), DATA, records.token_id.shape[1])
    assert records.predicted.sum() > 100
    for name in ("loss", "entropy"):
        error = np.abs(getattr(records, name)(epoch) - due[name])[records.predicted]
        assert error.max() <= tolerance[0] and error.mean() <= tolerance[1], (name, error.max(), error.mean())
    agreement = (records.correct(epoch) == due["correct"])[records.predicted].mean()
    assert agreement >= (1.0 if tolerance is FLOAT32 else 0.97)


def bare(trainer):
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def own_trainer(tmp_path, made, args, **more):
    """The library's trainer; more than one pass ends at the weights that it leaves."""
    recorder = TokenRecorder(tmp_path / "run", dtype="float32")
    return DynamicsTrainer(made, args, Padder(), train_dataset=DATA, regularizers=[method()], recorder=recorder, **more)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_trainer(tmp_path, device, bf16):
    trainer = own_trainer(tmp_path, model(), arguments(tmp_path, device, bf16=bf16))
    trainer.train()
    trained = bare(trainer)
    assert {p.dtype for p in trained.parameters()} == {torch.float32} and trained.device.type == device.type
    assert_recorded(tmp_path / "run", trained, 2, HALF if bf16 else FLOAT32)
    assert_recorded(tmp_path / "run", model(), 0, HALF if bf16 else FLOAT32)


def test_an_attached_trainer(tmp_path, device):
    trainer = Trainer(model(), arguments(tmp_path, device), Padder(), train_dataset=DATA)
    attach(trainer, TokenRecorder(tmp_path / "run", dtype="float32"), method())
    trainer.train()
    assert_recorded(tmp_path / "run", bare(trainer), 2, FLOAT32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loop_of_ones_own(tmp_path, device, dtype):
    trained, given = model().to(device), batches(device)
    with LoopRecorder(TokenRecorder(tmp_path / "run", dtype="float32"), method()) as recorder:
        recorder.begin(trained, train=given, total_steps=len(given), dtype=dtype)
        for _ in steps(trained, given, recorder, dtype):
            pass
        recorder.epoch()
        recorder.finish()
    assert_recorded(tmp_path / "run", trained, 1, FLOAT32 if dtype == torch.float32 else HALF)


def test_weights_in_bfloat16(tmp_path, device):
    trainer = own_trainer(tmp_path, model().bfloat16(), arguments(tmp_path, device, optim="sgd", learning_rate=0.1))
    before = weights(trainer.model)
    trainer.train()
    trained = bare(trainer)
    assert {p.dtype for p in trained.parameters()} == {torch.bfloat16} and not same(before, weights(trained))
    assert_recorded(tmp_path / "run", trained, 2, HALF)


@pytest.mark.filterwarnings("ignore:Detected call of")  # of the first steps, whose loss scale was too large
def test_float16_with_a_gradient_scaler(tmp_path, cuda):
    trainer = own_trainer(tmp_path, model(), arguments(tmp_path, cuda, fp16=True))
    before = weights(trainer.model)
    trainer.train()
    after = weights(bare(trainer))
    assert not same(before, after) and all(value.isfinite().all() for value in after.values())
    assert_recorded(tmp_path / "run", bare(trainer), 2, HALF)


def test_gradient_checkpointing_changes_nothing(tmp_path, device):
    """A forward pass that is made again drops the same tokens."""
    trained, calls = [], Counter()
    for on in (False, True):
        folder, made = tmp_path / str(on), model()
        args = arguments(
            folder, device, **{CHECKPOINTING: on, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False} if on else None}
        )
        made.model.layers[0].mlp.register_forward_pre_hook(lambda *call, on=on: calls.update([on]))
        trainer = own_trainer(folder, made, args)
        trainer.train()
        trained.append(weights(bare(trainer)))
    assert calls[True] == calls[False] + 2 * STEPS_PER_PASS
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-5, atol=1e-5, msg=name)
    masks = [open_run(tmp_path / str(on) / "run").records("train").dropped(2) for on in (False, True)]
    assert masks[0].any() and np.array_equal(*masks)
