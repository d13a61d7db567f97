"""Copies for which nobody waits: what has not arrived is not given out, and what arrived is what was sent."""

from __future__ import annotations

import numpy as np
import torch
from support.simulated_cuda import CUDA, simulated_cuda

from dynamics.training.loop.landing import Landing, sent


def test_numbers_arrive_later_as_they_were_when_they_were_sent():
    with simulated_cuda() as device:
        landing = Landing()
        values = torch.arange(3.0, device="cuda")
        landing.send("first", values)
        values.mul_(10.0)  # what the device does next must not show
        landing.send("second", values)
        asked = [landing.arrived() for _ in range(6)]
        assert device.waits == []
    tags = [tag for found in asked for tag, _ in found]
    assert asked[0] == [] and tags == ["first", "second"]
    arrays = [array.tolist() for found in asked for _, array in found]
    assert arrays == [[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]]


def test_all_waits_for_what_is_under_way_and_keeps_the_order():
    with simulated_cuda() as device:
        landing = Landing()
        for number in range(3):
            landing.send(number, torch.full((2,), number, dtype=torch.int64, device="cuda"))
        found = landing.all()
        assert [wait.what for wait in device.waits] == ["Event.synchronize"] * 3 and landing.all() == []
    assert [(tag, array.tolist(), array.dtype) for tag, array in found] == [(n, [n, n], np.int64) for n in range(3)]


def test_an_array_is_sent_from_pinned_memory():
    with simulated_cuda() as device:
        array = np.arange(6).reshape(2, 3)
        there = sent(array, CUDA)
        assert there.device == CUDA and device.waits == [] and np.array_equal(there.cpu().numpy(), array)


def test_on_the_host_numbers_are_there_at_once_and_are_copies():
    landing, values = Landing(), torch.ones(2, dtype=torch.float64)
    landing.send(None, values)
    values.zero_()
    [(_, found)] = landing.arrived()
    assert found.tolist() == [1.0, 1.0] and sent(np.ones(2), torch.device("cpu")).device.type == "cpu"
