"""Training on a CUDA device, by every door: on a simulated one, which refuses and notes what a real one would."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from support.canonical import CANONICAL, method_of
from support.models import Padder, build, examples
from support.simulated_cuda import CUDA, simulated_cuda
from support.tiny import quiet, run_tiny, tiny_recipe
from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback, TrainingArguments

from dynamics import DynamicsTrainer, EntroDrop, LoopRecorder, RandomTokenDropout, TokenRecorder, attach, open_run
from dynamics.errors import InputError
from dynamics.ops import head_pass, placement
from dynamics.training import recipe_run
from dynamics.training.driving.trainer_callback import LoopCallback
from dynamics.training.preparation import prepare, reference_pass
from dynamics.training.pretraining import prepare_recipe

N_STEPS = 3  # of an epoch


@pytest.fixture
def cuda():
    with simulated_cuda() as device:
        yield device


REFUSED = {
    "two places": (lambda x: x + torch.ones(3), "expected all tensors to be on the device, but .3,. are on the host"),
    "joined": (lambda x: torch.stack([x.sum(), torch.zeros(())]), "expected all tensors to be on the device"),
    "numpy": (lambda x: x.numpy(), "can't convert cuda:0 device type tensor to numpy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_simulated_device_refuses_what_a_real_one_does(cuda, name):
    act, message = REFUSED[name]
    with pytest.raises((RuntimeError, TypeError), match=message):
        act(torch.zeros(3, device="cuda"))


WAITS = {
    "a number": (lambda x: x.sum().item(), ["_local_scalar_dense"]),
    "a choice by a mask": (lambda x: x[x > 0], ["index by a mask"]),
    "places of the host": (lambda x: x[torch.tensor([1, 2])], ["index by places that the host has"]),
    "to the host": (lambda x: x.cpu(), ["a copy to the host"]),
    "from the host": (lambda x: torch.ones(3).to(x), ["a copy to the device"]),
    "in place": (lambda x: x.copy_(torch.ones(3)), ["copy_"]),
    "a list": (lambda x: x.tolist(), ["tolist"]),
    "nothing": (lambda x: torch.where(x > 0, x, 0.0)[None].expand(2, 3).sum(dim=1).clamp_min(1).float() / 2, []),
    "from pinned memory": (lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True), []),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_simulated_device_notes_what_waits(cuda, name):
    act, wanted = WAITS[name]
    act(torch.zeros(3, device="cuda"))
    assert [wait.what for wait in cuda.waits] == wanted


def test_the_simulated_device_multiplies_into_a_wider_type(cuda):
    a = torch.randn(4, 8, device="cuda").bfloat16()
    wide = torch.mm(a, a.t(), out_dtype=torch.float32)
    assert wide.device == CUDA and torch.equal(wide.cpu(), (a.float() @ a.t().float()).cpu())
    out = torch.empty(4, 4, device="cuda")
    assert torch.equal(torch.addmm(wide, a, a.t(), out_dtype=torch.float32, out=out).cpu(), (2 * wide).cpu())


class Steps(TrainerCallback):
    """How much had been waited for when a step was done."""

    def __init__(self, device):
        self._device = device
        self.waits = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.waits[state.global_step] = len(self._device.waits)

    def ours(self):
        """What waited in this project from the first step's end to that of the epoch's last."""
        between = self._device.waits[self.waits[1] : self.waits[N_STEPS]]
        return [wait for wait in between if wait.ours]


def arguments(tmp_path, **changes):
    fields = {
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "bf16": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**fields, **changes})


def trained(tmp_path, name, **changes):
    """A trainer of one method that has recorded all that it can."""
    own = {key: changes.pop(key) for key in ("callbacks", "fused", "data_collator") if key in changes}
    trainer = DynamicsTrainer(
        build("llama", num_hidden_layers=1),
        arguments(tmp_path, **changes),
        train_dataset=examples(2 * N_STEPS * changes.get("gradient_accumulation_steps", 1)),
        eval_dataset=examples(3, seed=1),
        regularizers=method_of(CANONICAL[name]),
        recorder=TokenRecorder(tmp_path / "run", training_pass=True),
        **{"data_collator": Padder(), **own},
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", CANONICAL)
def test_every_method_trains_and_records_and_no_step_waits(cuda, tmp_path, name):
    steps = Steps(cuda)
    trainer = trained(tmp_path, name, callbacks=[steps])
    assert next(trainer.model.parameters()).device == CUDA and steps.ours() == []
    run = open_run(tmp_path / "run")
    assert run.complete and run.manifest["hardware"]["device"] == "a simulated device"
    assert run.manifest["precision"] == "bfloat16"
    for split in run.splits:
        records = run.records(split)
        assert np.isfinite([records.loss(epoch)[records.predicted] for epoch in run.epochs]).all()


CHECKPOINTING = next(  # the field's name before and after transformers 5.20 or so
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
SITUATIONS = {
    "float16": {"bf16": False, "fp16": True},
    "float32": {"bf16": False},
    "whole logits": {"fused": False},
    "packed": {"data_collator": DataCollatorWithFlattening()},
    "padded on the left": {"data_collator": Padder("left")},
    "accumulation": {"gradient_accumulation_steps": 2},
    "activation checkpointing": {CHECKPOINTING: True},
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_trains_and_records_and_no_step_waits(cuda, tmp_path, situation):
    steps = Steps(cuda)
    trained(tmp_path, "entrodrop-both-kept", callbacks=[steps], **SITUATIONS[situation])
    records = open_run(tmp_path / "run").records("train")
    assert steps.ours() == [] and np.isfinite(records.loss(2)[records.predicted]).all() and records.dropped(2).any()


SAME = ["entrodrop-both-kept", "entrodrop-current-document", "hidden_dropout", "loss_truncation"]


@pytest.mark.parametrize("name", SAME)
def test_the_numbers_are_those_of_the_host_on_the_same_route(tmp_path, monkeypatch, name):
    """Nothing is read before it has arrived, and nothing is taken from elsewhere: the CPU computes both."""
    with simulated_cuda():
        trained(tmp_path / "device", name)
    monkeypatch.setattr(placement, "host_computes", lambda device: False)
    monkeypatch.setattr(head_pass, "_has_triton", lambda: False)
    trained(tmp_path / "host", name, use_cpu=True)
    runs = [open_run(tmp_path / where / "run") for where in ("device", "host")]
    assert [run.manifest["hardware"]["device"] for run in runs] == ["a simulated device", "cpu"]
    for one, other in zip(*(run.metrics() for run in runs), strict=True):
        assert {**one, "tokens_per_second": 0} == {**other, "tokens_per_second": 0}
    for split in runs[0].splits:
        one, other = (run.records(split) for run in runs)
        for epoch in runs[0].epochs:
            for values in ("loss", "entropy", "correct"):
                assert np.array_equal(getattr(one, values)(epoch), getattr(other, values)(epoch), equal_nan=True)
    train = [run.records("train") for run in runs]
    assert np.array_equal(*(records.training_loss(2) for records in train), equal_nan=True)
    assert name not in ("entrodrop-both-kept",) or np.array_equal(*(records.dropped(2) for records in train))


@pytest.mark.parametrize("target", ["input", "both"])
def test_an_attached_training(cuda, tmp_path, target):
    steps = Steps(cuda)
    model = build("llama", num_hidden_layers=1)
    args = arguments(tmp_path)
    trainer = Trainer(model, args, Padder(), train_dataset=examples(2 * N_STEPS), callbacks=[steps])
    attach(trainer, TokenRecorder(tmp_path / "run"), RandomTokenDropout(ratio=0.4, target=target))
    trainer.train()
    records = open_run(tmp_path / "run").records("train")
    assert steps.ours() == [] and np.isfinite(records.loss(2)[records.predicted]).all() and records.dropped(2).any()


def own_loop(tmp_path, batches, *, moved=True):
    """A loop of one's own on the device, under autocast, whose batches are moved there before they are read."""
    model = build("llama", num_hidden_layers=1).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = EntroDrop(ratio=0.4, schedule="constant", source="current", ranks="sequence")
    with LoopRecorder(TokenRecorder(tmp_path / "run"), method) as recorder:
        recorder.begin(model, train=batches, total_steps=2 * len(batches), dtype=torch.bfloat16)
        for _ in range(2):
            for batch in batches:
                on_device = {key: value.to("cuda", non_blocking=True) for key, value in batch.items()}
                with (
                    torch.autocast("cuda", dtype=torch.bfloat16),
                    recorder.batch(on_device if moved else batch) as left,
                ):
                    loss = model(**{key: value.to("cuda") for key, value in left.items()}).loss
                loss.backward()
                assert all(weight.grad is not None for weight in model.parameters())
                optimizer.step()
                optimizer.zero_grad()
                recorder.step()
            recorder.epoch()
        recorder.finish()
    return open_run(tmp_path / "run")


@pytest.fixture
def batches():
    rows = examples(4)
    return [Padder()(rows[:2]), Padder()(rows[2:])]


def test_a_loop_of_ones_own(cuda, tmp_path, batches):
    run = own_loop(tmp_path, batches)
    records = run.records("train")
    assert run.manifest["hardware"]["device"] == "a simulated device" and run.manifest["precision"] == "bfloat16"
    assert np.isfinite(records.loss(2)[records.predicted]).all() and records.dropped(2).any()


def test_a_batch_that_is_moved_after_it_was_read_is_refused_in_one_line(cuda, tmp_path, batches):
    with pytest.raises(InputError, match="LoopRecorder: the batch is on cpu and the model on cuda:0; move the batch"):
        own_loop(tmp_path, batches, moved=False)


def test_of_several_devices_a_process_uses_one_and_says_so(tmp_path, caplog):
    """transformers would have them share a batch that is as many times as large."""
    with simulated_cuda(n_devices=4):
        args = arguments(tmp_path)
        assert args.n_gpu == 4 and args.train_batch_size == 8
        data = examples(2 * N_STEPS)
        trainer = DynamicsTrainer(build("llama", num_hidden_layers=1), args, Padder(), train_dataset=data)
        assert trainer.args.n_gpu == 1 and trainer.steps_per_epoch == N_STEPS == len(trainer.get_train_dataloader())
        assert "one process uses one device, but 4 are visible" in caplog.text
        with pytest.raises(InputError, match="attach: this trainer splits each batch over the 4 GPUs of one process"):
            attach(Trainer(build(), arguments(tmp_path), train_dataset=data), RandomTokenDropout(ratio=0.4))


# Recipes. ----------------------------------------------------------------------------------------

SMALL = {
    "corpus": {"source": "builtin:python-reference", "documents": 5},
    "recording": {"train_sequences": 4, "validation_sequences": 2},
    "regularizers": [{"name": "entrodrop", "ratio": 0.3}],
}
EPOCH = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
# That there is no CUDA device after all.
no_pinning = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "_last", None)
    return tmp_path / "cache"


@pytest.fixture
def as_before():
    """What transformers sets for a deterministic training is the process's, and stays."""
    with mock.patch.dict(os.environ):
        yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def keys(cache, kind):
    return [json.loads(file.read_text()) for file in (cache / kind).glob("*/key.json")]


@no_pinning
def test_a_recipe_trains_in_bf16_and_measures_its_starting_model_in_it(cuda, tmp_path, cache):
    run = run_tiny(tmp_path / "run", **SMALL, training=EPOCH)
    assert run.manifest["precision"] == "bfloat16" and run.manifest["hardware"]["device"] == "a simulated device"
    assert run.manifest["reference"] == {"device": "a simulated device", "precision": "bfloat16"}
    [key] = keys(cache, "references")
    assert (key["device"], key["dtype"], key["float32_products"]) == ("cuda", "torch.bfloat16", "ieee")
    # The model is measured before training as its reference was.
    records = run.records("train")
    wanted = np.array(records.reference_entropy, dtype=np.float16)[records.predicted]
    assert np.array_equal(records.entropy(0)[records.predicted].astype(np.float16), wanted)


@pytest.mark.parametrize("asked", ["use_cpu", "ACCELERATE_USE_CPU"])
def test_a_recipe_for_the_cpu_leaves_the_device_alone(cuda, tmp_path, cache, monkeypatch, asked):
    training = {**EPOCH, "use_cpu": True} if asked == "use_cpu" else EPOCH
    if asked != "use_cpu":
        monkeypatch.setenv(asked, "true")
    corpus = {**SMALL["corpus"], "documents": 9}
    base = {"corpus": corpus, "epochs": 1, "training": {"per_device_train_batch_size": 16}}
    run = run_tiny(tmp_path / "run", **SMALL, training=training, base=base)
    assert cuda.waits == [] and cuda.workspace is None  # nothing went there, and nothing was multiplied there
    assert run.manifest["precision"] == "float32" and run.manifest["hardware"]["device"] == "cpu"
    assert run.manifest["reference"] == {"device": "cpu", "precision": "float32"}
    assert [key["dtype"] for key in keys(cache, "references")] == ["torch.float32"]
    assert [key["cuda"] for key in keys(cache, "base-models")] == [False]


@no_pinning
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_starting_model_is_measured_in_the_precision_that_a_recipe_chooses(cuda, tmp_path, cache, precision):
    recipe = tiny_recipe(**SMALL, training={**EPOCH, precision: precision == "fp16"})
    prepared = prepare_recipe(recipe, quiet())
    wanted = "float16" if precision == "fp16" else "float32"
    assert prepared.reference_made == {"device": "a simulated device", "precision": wanted}


@no_pinning
def test_a_deterministic_recipe_sets_what_cublas_wants_before_the_first_product(cuda, tmp_path, cache, as_before):
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    run_tiny(tmp_path / "run", **SMALL, training={**EPOCH, "full_determinism": True})
    assert cuda.workspace == ":16:8"


@no_pinning
def test_a_run_goes_on_in_its_own_precision_and_by_its_own_reference_values(tmp_path, cache, monkeypatch):
    """The next machine has no CUDA device, an empty cache, and other values of the starting model."""
    # Every token of the pool is dropped: those of the lowest reference entropies.
    method = {"name": "entrodrop", "ratio": 0.5, "pool": 0.5, "schedule": "constant"}
    recipe = {**SMALL, "regularizers": [method], "training": {**EPOCH, "num_train_epochs": 2}}
    own = LoopCallback.on_epoch_begin
    with monkeypatch.context() as patch, simulated_cuda(), pytest.raises(KeyboardInterrupt):
        patch.setattr(LoopCallback, "on_epoch_begin", lambda self, *args, **kwargs: begins(own, self, *args, **kwargs))
        run_tiny(tmp_path / "run", **recipe)

    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "another"))
    measure = reference_pass.evaluate_tokens

    def turned(*args, **kwargs):
        values = measure(*args, **kwargs)
        return replace(values, entropy=-values.entropy)

    monkeypatch.setattr(reference_pass, "evaluate_tokens", turned)
    with pytest.raises(InputError, match="training: .*use_cpu"):
        recipe_run.train(tiny_recipe(**recipe), tmp_path / "run", resume=True, reporter=quiet())
    recipe["training"]["use_cpu"] = True
    recipe_run.train(tiny_recipe(**recipe), tmp_path / "run", resume=True, reporter=quiet())
    run = open_run(tmp_path / "run")
    records = run.records("train")
    dropped, entropy = records.dropped(2), np.array(records.reference_entropy)
    assert run.complete and dropped.any() and entropy[dropped].max() <= entropy[records.predicted & ~dropped].min()
    assert run.manifest["precision"] == "bfloat16" and run.manifest["hardware"]["device"] == "cpu"
    assert run.manifest["reference"] == {"device": "a simulated device", "precision": "bfloat16"}


def begins(own, callback, args, state, control, **kwargs):
    if state.global_step and callback.loop.metrics._path is not None:
        raise KeyboardInterrupt
    return own(callback, args, state, control, **kwargs)
