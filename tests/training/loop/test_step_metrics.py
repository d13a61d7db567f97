"""A row of metrics for each optimiser step, of what its micro-batches add up to."""

from __future__ import annotations

import math

import pytest
import torch

from dynamics.records.metrics import read_metrics
from dynamics.training.loop.step_metrics import StepMetrics

PREDICTED = torch.tensor([[False, True, True, True]])


def add(metrics, loss, auxiliary=None):
    given = None if auxiliary is None else torch.tensor(auxiliary)
    metrics.add_batch(
        loss_sum=torch.tensor(loss), dropped=PREDICTED & torch.tensor([True, True, False, False]), predicted=PREDICTED,
        auxiliary=given,
    )  # fmt: skip


def test_micro_batches_add_up(tmp_path):
    metrics = StepMetrics(tmp_path / "metrics.jsonl")
    for step, parts in enumerate(([(1.0, 0.25), (0.5, 0.125)], [(2.0, 1.0)]), start=1):
        for loss, auxiliary in parts:
            add(metrics, loss, auxiliary)
        metrics.end_step({"step": step})
    # The epoch's training loss is that of the first passes.
    assert metrics.end_epoch() == (1.5 + 2.0) / 2
    rows = read_metrics(tmp_path / "metrics.jsonl", running=False)
    assert [(row["training_loss"], row["auxiliary_loss"]) for row in rows] == [(1.5, 0.375), (2.0, 1.0)]
    assert [row["dropped_share"] for row in rows] == pytest.approx([1 / 3, 1 / 3])


def test_without_second_passes_nothing_is_said_of_them(tmp_path):
    metrics = StepMetrics(tmp_path / "metrics.jsonl")
    add(metrics, 1.0)
    assert metrics.loss_of_step().item() == 1.0
    metrics.end_step({"step": 1})
    metrics.flush()
    [row] = read_metrics(tmp_path / "metrics.jsonl", running=False)
    assert "auxiliary_loss" not in row and row["training_loss"] == 1.0


@pytest.mark.parametrize(("loss", "auxiliary"), [(math.nan, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_loss_that_is_not_finite_in_either_pass_is_seen(loss, auxiliary):
    metrics = StepMetrics(None)
    add(metrics, 1.0, 1.0)
    add(metrics, loss, auxiliary)
    assert not torch.isfinite(metrics.loss_of_step())
