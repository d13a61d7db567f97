"""In a step on the device no wait is ours: CUDA says what waited, and the stack whose it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.models import Padder
from support.on_device import DATA, arguments, batches, model, steps
from support.waits import waits_of
from transformers import Trainer

import dynamics
from benchmarks.waits import counting_waits_on, told_waits
from dynamics import DynamicsTrainer, EntroDrop, LoopRecorder, TokenRecorder, attach
from dynamics.ops import linear_token_statistics

METHODS = {
    "reference": lambda: [EntroDrop(ratio=0.4, schedule="constant")],
    "current": lambda: [EntroDrop(ratio=0.4, schedule="constant", source="current")],
}


@pytest.mark.parametrize("method", METHODS)
def test_a_trainers_step(tmp_path, device, method):
    trainer = DynamicsTrainer(
        model(),
        arguments(tmp_path, device, bf16=True, gradient_accumulation_steps=2, max_steps=4),
        Padder(),
        train_dataset=DATA,
        regularizers=METHODS[method](),
        recorder=TokenRecorder(tmp_path / "run", training_pass=True),
    )
    assert waits_of(trainer) == []


@pytest.mark.parametrize("method", METHODS)
def test_an_attached_trainers_step(tmp_path, device, method):
    args = arguments(tmp_path, device, bf16=True, gradient_accumulation_steps=2, max_steps=4)
    trainer = Trainer(model(), args, Padder(), train_dataset=DATA)
    attach(trainer, TokenRecorder(tmp_path / "run"), *METHODS[method]())
    assert waits_of(trainer) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_a_loop_of_ones_own(tmp_path, device, method):
    trained = model().to(device)
    with LoopRecorder(TokenRecorder(tmp_path / "run"), *METHODS[method]()) as recorder:
        given = batches(device)
        recorder.begin(trained, train=given, total_steps=len(given), dtype=torch.bfloat16)
        taken = steps(trained, given, recorder, torch.bfloat16)
        next(taken)  # brings tables to the device
        with counting_waits_on(device.type) as found:
            next(taken)
            next(taken)
    assert [wait for wait in found if wait.ours] == []


def test_the_operator(device):
    hidden, weight = (torch.randn(n, 16, device=device).bfloat16().requires_grad_() for n in (40, 200))
    targets, known = torch.randint(200, (40,), device=device), torch.rand(40, device=device)
    with counting_waits_on(device.type) as found:
        linear_token_statistics(hidden, weight, targets, token_weight=known, chunk_rows=16).total_loss.backward()
    assert found == []


def test_a_wait_within_a_step_is_seen_and_is_ours(tmp_path, device, monkeypatch):
    """One look at the device, as if it stood in a file of the project."""
    trainer = DynamicsTrainer(
        model(),
        arguments(tmp_path, device, max_steps=4),
        Padder(),
        train_dataset=DATA,
        regularizers=METHODS["reference"](),
    )
    whose = str(Path(dynamics.__file__).parent / "looks.py")
    code = compile("def looks(mask): return bool(mask.any())", whose, "exec")
    exec(code, space := {})
    dropped = dynamics.training.loop.methods.Methods.dropped

    def looking(self, batch):
        found = dropped(self, batch)
        assert space["looks"](found) in (True, False)
        return found

    monkeypatch.setattr(dynamics.training.loop.methods.Methods, "dropped", looking)
    found = waits_of(trainer)
    assert len(found) >= 2 and {wait.stack[0] for wait in found} == {"looks.py:1 looks"}


def test_torchs_own_warnings_have_the_stack_of_their_operation():
    """What CUDA's warnings rely on, shown by one that a CPU gives too."""
    with told_waits(says="was resized") as found:
        torch.add(torch.ones(3), 1, out=torch.ones(2))
        torch.add(torch.ones(3), 1, out=torch.ones(2))
    assert len(found) == 2 and found[0].stack[0].startswith("test_no_waits.py:") and not found[0].ours
