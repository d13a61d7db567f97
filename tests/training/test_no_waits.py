"""The host waits for the device nowhere in a step: each operation that would wait is intercepted on a CPU, and counted."""

from __future__ import annotations

import pytest
import torch
from support.canonical import CANONICAL, method_of
from support.models import Padder, build, examples
from support.waits import waits_of
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from benchmarks.waits import counting_waits
from dynamics import DynamicsTrainer, EntroDrop, MaskedInputRegularization, RandomTokenDropout, TokenRecorder, attach
from dynamics.ops import placement
from dynamics.training.loop.clean_pass import evaluate_tokens


def arguments(tmp_path, **changes):
    fields = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        # transformers' own look at each loss is no business of ours.
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**fields, **changes})


@pytest.mark.parametrize("name", list(CANONICAL))
def test_a_step_of_every_method_waits_for_nothing(tmp_path, name):
    trainer = DynamicsTrainer(
        build(),
        arguments(tmp_path),
        Padder(),
        train_dataset=examples(24),
        regularizers=method_of(CANONICAL[name]),
        recorder=TokenRecorder(tmp_path / "run", training_pass=True),
    )
    assert waits_of(trainer) == []


SITUATIONS = {
    "no method": {},
    "packed": {"collator": DataCollatorWithFlattening()},
    "padded on the left": {"collator": Padder("left")},
    "whole logits": {"fused": False},
    "bfloat16": {"bf16": True},
    "label smoothing": {"label_smoothing_factor": 0.1},
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_step_in_every_situation_waits_for_nothing(tmp_path, situation):
    changes = dict(SITUATIONS[situation])
    fused, collator = changes.pop("fused", True), changes.pop("collator", Padder())
    trainer = DynamicsTrainer(
        build(), arguments(tmp_path, **changes), collator, train_dataset=examples(24), fused=fused
    )
    assert waits_of(trainer) == []


ATTACHED = {
    **{target: RandomTokenDropout(ratio=0.4, target=target) for target in ("input", "loss", "both")},
    "a second pass": MaskedInputRegularization(),
}


@pytest.mark.parametrize("what", ATTACHED)
def test_an_attached_step_waits_for_nothing(tmp_path, what):
    trainer = Trainer(build(), arguments(tmp_path), Padder(), train_dataset=examples(24))
    attach(trainer, TokenRecorder(tmp_path / "run"), ATTACHED[what])
    assert waits_of(trainer) == []


def test_a_recording_goes_from_batch_to_batch_without_waiting(monkeypatch):
    """Its values are read when they have arrived; the check of the head, before them, looks at the device."""
    monkeypatch.setattr(placement, "host_computes", lambda device: False)
    token_id = torch.randint(3, 64, (6, 12), generator=torch.Generator().manual_seed(0)).numpy()
    labels = token_id.copy()
    labels[:, 0] = -100
    model = build()
    with counting_waits() as found:
        values = evaluate_tokens(model, token_id, labels, batch_size=2)
    assert [wait for wait in found if wait.ours and "evaluate_tokens" in wait.stack[0]] == []
    whole = evaluate_tokens(model, token_id, labels, batch_size=6)
    for name in ("loss", "entropy", "correct"):
        torch.testing.assert_close(
            *map(torch.from_numpy, (getattr(values, name), getattr(whole, name))), equal_nan=True
        )


def test_what_waits_is_seen(tmp_path, monkeypatch):
    """The counter finds one look at the device, wherever in the step it is."""
    method = EntroDrop(ratio=0.3, schedule="constant")
    weight = type(method).dropped

    def looking(self, batch):
        found = weight(self, batch)
        monkeypatch.setattr(torch, "_looked", bool(found.any()), raising=False)
        return found

    trainer = DynamicsTrainer(build(), arguments(tmp_path), Padder(), train_dataset=examples(24), regularizers=[method])
    monkeypatch.setattr("dynamics.training.loop.methods.Methods.dropped", lambda self, batch: looking(method, batch))
    # As `waits_of`, whoever waited: the test's own look at the device is in no file of the project.
    monkeypatch.setattr("benchmarks.waits._OURS", "/")
    waits = waits_of(trainer)
    assert len(waits) >= 2 and {wait.op.partition(".")[0] for wait in waits} >= {"_local_scalar_dense"}
