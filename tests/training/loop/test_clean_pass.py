"""The clean pass, on a device that runs ahead of the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import N_VOCAB, build
from support.simulated_cuda import simulated_cuda

from dynamics.training.loop.clean_pass import evaluate_tokens

IDS = torch.randint(3, N_VOCAB, (6, 9), generator=torch.Generator().manual_seed(0)).numpy()
LABELS = IDS.copy()
LABELS[:, 0] = LABELS[2, 4:] = -100


def test_batches_follow_one_another_without_a_wait():
    """However many there are, the host waits for the check of the head, and once for what is under way at the end."""
    expected = evaluate_tokens(build(), IDS, LABELS, batch_size=2)
    n_waits = []
    with simulated_cuda() as device:
        model = build().to("cuda")
        for n in (2, 6):
            before = len(device.waits)
            found = evaluate_tokens(model, IDS[:n], LABELS[:n], batch_size=2)
            named = [wait.what for wait in device.waits[before:] if wait.ours]
            n_waits.append(len([what for what in named if what != "Event.synchronize"]))
            assert named.count("Event.synchronize") <= n // 2
    assert n_waits[0] == n_waits[1]
    for name in ("loss", "entropy"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-5, atol=2e-5)
    assert np.array_equal(found.correct, expected.correct) and np.isnan(found.loss[LABELS == -100]).all()


def test_autocast_around_a_measurement_costs_no_gradient():
    """Weights that were cast without gradients must not be taken by the training pass that follows (torch below 2.11)."""
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluate_tokens(model, IDS, LABELS, batch_size=6, dtype=torch.bfloat16)
        loss = model(input_ids=torch.from_numpy(IDS)).logits.float().logsumexp(-1).mean()
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_a_label_at_the_first_position_is_no_prediction():
    with pytest.raises(AssertionError, match="position 0"):
        evaluate_tokens(build(), IDS, IDS, batch_size=6)
