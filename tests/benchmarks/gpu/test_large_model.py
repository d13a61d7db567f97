"""As many layers as fit, and batches that grow until memory runs out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.steps import TINY, by_what

from benchmarks.gpu.steps import large_model
from benchmarks.gpu.steps.large_model import OURS, PLAIN

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_layers_are_what_is_left():
    """A layer of Qwen3-8B has 192.9 million weights, its two tables 1,244.7 million; 8 bytes each."""
    gib = 1 << 30
    fixed = (4 << 30) + 1024 * 151_936 * 14 + 8 * 1_244_659_712
    layer = 8 * (2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 12_288)
    assert layer == 8 * 192_937_984
    for n in (1, 5, 36):
        assert large_model.layers_that_fit(large_model._FULL, fixed + n * layer) == n
    assert large_model.layers_that_fit(large_model._FULL, fixed + 2 * layer - 1) == 1
    assert large_model.layers_that_fit(large_model._FULL, 140 * gib) == 36  # no more than there are


def test_what_runs_out_of_memory_first_is_told(monkeypatch):
    """A plain Trainer at 4 sequences, ours at 16; and a model of which no step fits."""
    most = {PLAIN: 1, OURS: 4}

    def one_training(kind, scale, layers, batch, where):
        return {"step, s": 1.0, "loss, nats": 2.0} if batch <= most[kind] else None

    monkeypatch.setattr(large_model, "one_training", one_training)
    monkeypatch.setattr(large_model, "_TINY", dataclasses.replace(large_model._TINY, first=1, last=64))
    found = large_model.run(TINY)
    assert found.measured["by sequences a step"]["4"] == {PLAIN: None, OURS: {"step, s": 1.0, "loss, nats": 2.0}}
    assert found.measured["by sequences a step"].keys() == {"1", "4", "16"}
    assert [found.measured[f"{kind}: most sequences a step"] for kind in (PLAIN, OURS)] == [1, 4]
    assert found.measured["step over plain, 1 sequences"] == 1.0
    most[PLAIN] = 0
    assert not by_what(large_model.run(TINY).checks)[f"large model: {PLAIN}: a step fits"].met


def training(monkeypatch, error):
    def full(self, *args, **kwargs):
        raise error

    monkeypatch.setattr("transformers.Trainer.training_step", full)
    return large_model.one_training(PLAIN, large_model._TINY, 1, 2, TINY)


def test_memory_that_runs_out_ends_a_training_and_no_more(monkeypatch):
    assert training(monkeypatch, torch.OutOfMemoryError("2 GiB")) is None
    with pytest.raises(RuntimeError, match="misaligned"):
        training(monkeypatch, RuntimeError("CUDA error: misaligned address"))


@pytest.mark.parametrize(
    "words", ["CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "Triton Error [CUDA]: out of memory"]
)
def test_others_say_in_words_that_memory_ran_out(words):
    assert large_model.ran_out(RuntimeError(words))
