"""Runs of a study beside one another: each on a device to itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from support.tiny import quiet

from dynamics import study
from dynamics.training.environment.hardware import visible_devices


class Child:
    """A run that ends once another one has begun."""

    busy: list[str | None]
    used: list[str | None]
    both = threading.Barrier(2)
    returncode = 0

    def __init__(self, command, *, env, **options):
        self._device = env.get("CUDA_VISIBLE_DEVICES")
        Child.used.append(self._device)
        Child.busy.append(self._device)

    def communicate(self):
        self.both.wait(timeout=60)
        assert self._device is None or Child.busy.count(self._device) == 1
        self.both.wait(timeout=60)
        Child.busy.remove(self._device)
        return "", ""


@pytest.mark.parametrize(
    ("named", "n_devices", "wanted"), [(None, 3, {"0", "1"}), ("GPU-a,GPU-b", 2, {"GPU-a", "GPU-b"}), (None, 0, {None})]
)
def test_each_job_has_a_device_to_itself(monkeypatch, named, n_devices, wanted):
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)
    monkeypatch.setattr(study.subprocess, "Popen", Child)
    Child.busy, Child.used = [], []
    study._run_apart([Path(f"run-{number}") for number in range(6)], 2, quiet())
    assert len(Child.used) == 6 and set(Child.used) == wanted


def test_devices_that_are_hidden_are_not_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_devices() == []
