"""To the last bit: recording changes no weight, and a training that goes on within a pass is one that was never cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import Padder
from support.on_device import DATA, STEPS_PER_PASS, arguments, batches, model, same, steps, weights
from transformers import Trainer, TrainerCallback

from dynamics import DynamicsTrainer, EntroDrop, LoopRecorder, TokenRecorder, attach, open_run

pytestmark = [pytest.mark.usefixtures("deterministic"), pytest.mark.filterwarnings("ignore:.*deterministic")]


def drawing():
    """A model that draws from the device's global generator in each forward pass."""
    torch.manual_seed(3)
    return model("gpt2", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)


def trained(trainer):
    torch.manual_seed(3)
    trainer.train()
    return weights(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))


def test_recording_changes_no_bit_of_a_trainer(tmp_path, device):
    def run(name, recorder):
        args = arguments(tmp_path / name, device, bf16=True)
        trainer = DynamicsTrainer(
            drawing(),
            args,
            Padder(),
            train_dataset=DATA,
            eval_dataset=DATA[:5],
            regularizers=[EntroDrop(ratio=0.3, schedule="constant")],
            recorder=recorder,
        )
        return trained(trainer)

    off, again = run("off", None), run("again", None)
    assert same(off, again), "the training itself differs from run to run on this device"
    assert same(off, run("on", TokenRecorder(tmp_path / "run", training_pass=True)))
    assert open_run(tmp_path / "run").epochs == [0, 1, 2]
    assert not same(off, weights(drawing()))


def test_recording_changes_no_bit_of_a_trainer_of_ones_own(tmp_path, device):
    def run(name, recorder):
        args = arguments(tmp_path / name, device, bf16=True)
        trainer = Trainer(drawing(), args, Padder(), train_dataset=DATA, eval_dataset=DATA[:5])
        if recorder is not None:
            attach(trainer, recorder)
        return trained(trainer)

    assert same(run("off", None), run("on", TokenRecorder(tmp_path / "run")))
    assert open_run(tmp_path / "run").epochs == [0, 1, 2]


def test_recording_changes_no_bit_of_a_loop_of_ones_own(tmp_path, device):
    def run(recorder):
        made, given = drawing().to(device), batches(device)
        if recorder is not None:
            recorder.begin(made, train=given, total_steps=len(given), dtype=torch.bfloat16)
        torch.manual_seed(3)
        made.train()
        for _ in steps(made, given, recorder, torch.bfloat16):
            pass
        if recorder is not None:
            recorder.epoch()
            recorder.finish()
        return weights(made)

    with LoopRecorder(TokenRecorder(tmp_path / "run")) as recorder:
        assert same(run(None), run(recorder))
    assert open_run(tmp_path / "run").epochs == [0, 1]


class Stops(TrainerCallback):
    """Somebody interrupts a training within a step."""

    def __init__(self, step):
        self._step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self._step - 1:
            raise KeyboardInterrupt


def test_a_training_that_goes_on_within_a_pass(tmp_path, device):
    save_at = STEPS_PER_PASS // 2 + STEPS_PER_PASS

    def trainer(name, *callbacks):
        args = arguments(tmp_path / name, device, bf16=True, save_strategy="steps", save_steps=save_at)
        return DynamicsTrainer(
            drawing(),
            args,
            Padder(),
            train_dataset=DATA,
            regularizers=[EntroDrop(ratio=0.3, schedule="constant", source="previous_epoch")],
            recorder=TokenRecorder(tmp_path / name / "run", dtype="float32", training_pass=True),
            callbacks=list(callbacks),
        )

    whole = trained(trainer("whole"))
    with pytest.raises(KeyboardInterrupt):
        trained(trainer("cut", Stops(save_at + 2)))
    going_on = trainer("cut")
    torch.manual_seed(7)  # what is drawn next comes from the checkpoint
    going_on.train(resume_from_checkpoint=str(tmp_path / "cut" / "out" / f"checkpoint-{save_at}"))
    assert same(whole, weights(going_on.accelerator.unwrap_model(going_on.model, keep_fp32_wrapper=False)))
    one, other = (open_run(tmp_path / name / "run").records("train") for name in ("whole", "cut"))
    for epoch in (0, 1, 2):
        assert np.array_equal(one.loss(epoch), other.loss(epoch), equal_nan=True)
        assert np.array_equal(one.entropy(epoch), other.entropy(epoch), equal_nan=True)
    assert np.array_equal(one.dropped(2), other.dropped(2)) and one.dropped(2).any()
    assert np.array_equal(one.training_loss(2), other.training_loss(2), equal_nan=True)
