"""Numbers arrive from the device in the order in which they were sent, and as they were then."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynamics.training.loop.landing import Landing

VALUES = {
    torch.int64: [1, -(2**62), 7],
    torch.float32: [0.1, float("inf"), -3.0],
    torch.float64: [1 / 3, float("nan"), 1e300],
}


@pytest.mark.parametrize("dtype", VALUES)
def test_what_arrives_is_what_was_sent(device, dtype):
    landing: Landing[str] = Landing()
    sent = torch.tensor(VALUES[dtype], dtype=dtype, device=device)
    landing.send("whole", sent)
    landing.send("part", sent[1])
    assert landing.all()[0][1].dtype == sent.cpu().numpy().dtype
    landing.send("again", sent.reshape(3, 1))
    ((tag, values),) = landing.all()
    assert tag == "again" and np.array_equal(values, sent.cpu().numpy()[:, None], equal_nan=dtype != torch.int64)
    assert landing.all() == [] and landing.arrived() == []


def test_what_is_sent_is_kept_though_its_place_is_written_again(device):
    """Behind work that takes the device a while; each is what it was when it was sent, and the oldest comes first."""
    landing: Landing[int] = Landing()
    square = torch.eye(2048 if device.type == "cuda" else 64, device=device)
    place, seen = torch.zeros(4, dtype=torch.int64, device=device), []
    for step in range(40):
        for _ in range(4):
            square = square @ square
        place += 1
        landing.send(step, place * square.diagonal()[:4].long())
        seen += landing.arrived()
    seen += landing.all()
    assert [tag for tag, _ in seen] == list(range(40))
    assert [values.tolist() for _, values in seen] == [[step + 1] * 4 for step in range(40)]


def test_the_memory_that_numbers_land_in_is_pinned_and_nobody_waits(cuda):
    landing: Landing[int] = Landing()
    square = torch.randn(8192, 8192, device=cuda)
    landing.send(0, torch.zeros(3, device=cuda))
    landing.all()
    for _ in range(20):
        square @ square  # tens of milliseconds
    landing.send(1, square[0, :3])
    assert landing.arrived() == []  # still under way
    ((tag, values),) = landing.all()
    assert tag == 1 and np.array_equal(values, square[0, :3].cpu().numpy())
