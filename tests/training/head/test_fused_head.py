"""The patched forward: every family answers, what it says is what whole logits say, and wrappers see a plain call."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import FAMILIES, N_VOCAB, Padder, build, examples
from torch import nn
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM, TrainingArguments

from dynamics import DynamicsTrainer, EntroDrop, TokenRecorder, attach, open_run
from dynamics.errors import InputError
from dynamics.ops.token_statistics import shift, token_statistics, weighted_loss
from dynamics.records.check import check_run
from dynamics.training.head.fused_head import HeadRequest, fused_head

IDS = torch.randint(3, N_VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
LABELS = IDS.clone()
LABELS[:, 0] = LABELS[1, 6:] = -100
WEIGHT = torch.rand(3, 12, generator=torch.Generator().manual_seed(1))


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def compared(model, *, smoothing=0.1):
    """Both ways, in training mode, with weights and label smoothing."""
    model.train()
    logits, targets = shift(model(input_ids=IDS).logits, LABELS)
    total = weighted_loss(logits, targets, token_weight=WEIGHT[:, 1:].flatten(), label_smoothing=smoothing)
    total.backward()
    expected = gradients(model)
    values = token_statistics(logits.detach(), targets)
    with fused_head(model) as fused:
        assert fused
        request = HeadRequest(labels=LABELS, token_weight=WEIGHT, label_smoothing=smoothing)
        found = model(input_ids=IDS, head_request=request)
        found.total_loss.backward()
    assert found.total_loss.item() == pytest.approx(total.item(), rel=1e-5)
    for mine, plain in ((found.token_loss, values.loss), (found.token_entropy, values.entropy)):
        assert mine.shape == (3, 12) and mine[:, 0].isnan().all() and not mine.requires_grad
        torch.testing.assert_close(mine[:, 1:].flatten(), plain, rtol=2e-5, atol=2e-5, equal_nan=True)
    assert torch.equal(found.token_correct[:, 1:].flatten(), values.correct)
    got = gradients(model)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(got[name], gradient, rtol=0, atol=3e-5 * scale, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_its_logits_do(family):
    compared(build(family))


def test_untied_heads_and_scaled_logits():
    compared(build(tie_word_embeddings=False))
    shape = dict(FAMILIES["llama"].to_dict())
    common = {key: shape[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "use_cache": False}
    torch.manual_seed(0)
    compared(CohereForCausalLM(CohereConfig(**common, **heads, logit_scale=0.25, bos_token_id=1, eos_token_id=2)))
    compared(GraniteForCausalLM(GraniteConfig(**common, **heads, logits_scaling=4.0, bos_token_id=1, eos_token_id=2)))


def test_the_forward_is_as_before_afterwards():
    model = build().eval()
    plain = model(input_ids=IDS).logits
    state = torch.random.get_rng_state()
    with fused_head(model):
        assert torch.equal(model(input_ids=IDS).logits, plain)
        with fused_head(model) as nested:
            assert nested
        assert model(input_ids=IDS, head_request=HeadRequest(labels=LABELS)).total_loss is not None
    assert "forward" not in model.__dict__ and torch.equal(model(input_ids=IDS).logits, plain)
    assert torch.equal(torch.random.get_rng_state(), state)
    model.forward = wrapped = model.forward  # as accelerate leaves one there
    with fused_head(model), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    assert model.forward is wrapped and not model.training


class Louder(type(build())):
    """A model whose logits are more than a product."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits - 2.0 * (torch.arange(out.logits.shape[-1]) == 3)
        if kwargs.get("labels") is not None:
            out.loss = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), kwargs["labels"][:, 1:].flatten())
        return out


class TwoLayers(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda model: setattr(model, "__class__", Louder),
            "its logits are not its head's output with a scale and a soft cap",
        ),
        (
            lambda model: setattr(model, "lm_head", TwoLayers(32, N_VOCAB)),
            "its head is tests's TwoLayers, not a plain Linear",
        ),
        (lambda model: model.lm_head.register_forward_hook(lambda *_: None), "its head has hooks"),
    ],
)
def test_other_heads_fall_back_with_one_line(caplog, tmp_path, change, reason):
    model = build(tie_word_embeddings=False)
    change(model)
    with caplog.at_level(logging.WARNING, logger="dynamics"):
        for _ in range(2):
            with fused_head(model) as fused:
                assert not fused
        args = arguments(tmp_path, remove_unused_columns=False)
        trainer = DynamicsTrainer(
            model, args, Padder(), train_dataset=examples(), recorder=TokenRecorder(tmp_path / "run", dtype="float32")
        )
        trainer.train()
    assert [reason in record.getMessage() for record in caplog.records] == [True]
    model.eval()
    records = open_run(tmp_path / "run").records("train")
    ids = torch.tensor(examples()[0]["input_ids"])
    with torch.no_grad():
        log_p = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    expected = -log_p[torch.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(records.loss(1)[0, 1 : len(ids)], expected, rtol=2e-5, atol=2e-5)


def arguments(tmp_path, **changes):
    fields = {
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**fields, **changes})


def note(asked, model, args, kwargs):
    """Note whether a training forward pass asks the head."""
    if model.training and torch.is_grad_enabled():
        asked.append(kwargs.get("head_request") is not None)


@pytest.mark.parametrize("target", ["input", "loss"])
def test_training_is_the_same_with_and_without(tmp_path, target):
    found = []
    for fused in (True, False):
        model = build()
        method = EntroDrop(ratio=0.4, schedule="constant", target=target)
        recorder = TokenRecorder(tmp_path / str(fused), dtype="float32", training_pass=True)
        trainer = DynamicsTrainer(
            model,
            arguments(tmp_path, optim="sgd"),
            Padder(),
            train_dataset=examples(),
            regularizers=[method],
            recorder=recorder,
            fused=fused,
        )
        asked = []
        model.register_forward_pre_hook(partial(note, asked), with_kwargs=True)
        trainer.train()
        assert asked == [fused] * 2 and not hasattr(model.forward, "answers_requests")
        found.append((dict(model.named_parameters()), open_run(tmp_path / str(fused)).records("train")))
    for name, weight in found[0][0].items():
        torch.testing.assert_close(weight, found[1][0][name], rtol=1e-4, atol=1e-5)
    for name in ("training_loss", "training_entropy"):
        one, other = (getattr(records, name)(1) for _, records in found)
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_training_in_bf16_is_fused(tmp_path, caplog, weights):
    recorder = TokenRecorder(tmp_path / "run", dtype="float32")
    args = arguments(tmp_path, bf16=True)
    model = build("gemma2").to(weights)
    trainer = DynamicsTrainer(model, args, Padder(), train_dataset=examples(), recorder=recorder)
    asked = []
    model.register_forward_pre_hook(partial(note, asked), with_kwargs=True)
    with caplog.at_level(logging.WARNING, logger="dynamics"):
        trainer.train()
    assert asked == [True, True] and not caplog.records


# What the optimiser saw.


def test_the_training_pass_is_recorded_apart(tmp_path):
    method = EntroDrop(ratio=0.4, schedule="constant")
    recorder = TokenRecorder(tmp_path / "run", dtype="float32", training_pass=True)
    # A rate of 0: the weights are those of the clean values, and only what was dropped can differ.
    args = arguments(tmp_path, learning_rate=0.0, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    data = examples(prompt=2)
    trainer = DynamicsTrainer(
        build(), args, Padder("left"), train_dataset=data, regularizers=[method], recorder=recorder
    )
    trainer.train()
    run = open_run(tmp_path / "run")
    records = run.records("train")
    seen, entropy, clean, dropped = (
        getattr(records, name)(1) for name in ("training_loss", "training_entropy", "loss", "dropped")
    )
    assert np.array_equal(np.isnan(seen), ~records.predicted) and np.array_equal(np.isnan(entropy), ~records.predicted)
    # Up to the first dropped token, and that one itself, nothing in the context has changed.
    before = (np.cumsum(dropped, axis=1) - dropped == 0) & records.predicted
    after = ~before & records.predicted
    np.testing.assert_allclose(seen[before], clean[before], rtol=1e-4, atol=1e-4)
    assert after.any() and np.abs(seen[after] - clean[after]).min() > 0
    # The steps' own losses are means of these.
    weights = records.predicted.sum()
    steps = [row["training_loss"] for row in run.metrics()]
    assert len(steps) == 2
    assert np.nansum(seen) / weights == pytest.approx(np.mean(steps), rel=0.2)
    assert check_run(run.path).ok
    with pytest.raises(InputError, match="Epoch 0 is before training"):
        records.training_loss(0)


def test_the_training_pass_is_not_there_unless_asked_for(tmp_path):
    trainer = DynamicsTrainer(
        build(), arguments(tmp_path), Padder(), train_dataset=examples(), recorder=TokenRecorder(tmp_path / "run")
    )
    trainer.train()
    records = open_run(tmp_path / "run").records("train")
    with pytest.raises(InputError, match="set recording.training_pass: true"):
        records.training_entropy(1)
    with pytest.raises(InputError, match="training_pass=True records what the optimiser saw.* use DynamicsTrainer"):
        attach(trainer, TokenRecorder(tmp_path / "other", training_pass=True))


# Wrappers.

SCRIPT = """
import copy, sys
sys.path.insert(0, sys.argv[2])
import torch, torch.distributed as dist
from support.models import build, N_VOCAB
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from dynamics.training.head.fused_head import HeadRequest, fused_head
from dynamics.training.environment.processes import leave_process_group
dist.init_process_group("gloo")

def check(rank, kind):
    plain = build("llama")
    ids = torch.randint(3, N_VOCAB, (2, 2, 12), generator=torch.Generator().manual_seed(0))
    expected = None
    for part in ids:
        labels = part.clone()
        labels[:, 0] = -100
        loss = plain(input_ids=part, labels=labels).loss * labels[:, 1:].numel() / 2
        loss.backward()
    expected = {name: p.grad for name, p in plain.named_parameters()}
    model = build("llama")
    if kind == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    labels = ids[rank].clone()
    labels[:, 0] = -100
    with fused_head(wrapped) as fused:
        assert fused
        wrapped(input_ids=ids[rank], head_request=HeadRequest(labels=labels)).total_loss.backward()
    for name, p in model.named_parameters():
        grad = p.grad if kind == "ddp" else p.grad.full_tensor()
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))

check(dist.get_rank(), sys.argv[1])
leave_process_group()
assert not dist.is_initialized()
print("ok")
"""


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_gradients_are_synchronised_over_two_processes(tmp_path, kind):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT, kind, str(Path(__file__).parents[2])]
    started = [
        subprocess.Popen(
            command,
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        assert out.decode().strip().endswith("ok")


@pytest.mark.parametrize("where", ["the check", "a request"])
def test_a_full_device_is_no_reason_for_whole_logits(monkeypatch, where):
    """They would want more room still, and the error would be theirs."""
    model = build()

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        if where == "the check":
            monkeypatch.setattr("dynamics.training.head.head_answer.linear_token_statistics", full)
        with fused_head(model) as fused:
            assert fused
            monkeypatch.setattr("dynamics.training.head.head_answer.linear_token_statistics", full)
            model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
