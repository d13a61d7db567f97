"""What processes tell one another, with nobody else there."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from dynamics.training.environment import processes


def test_values_that_are_infinite_stay_so(monkeypatch):
    monkeypatch.setattr(processes, "_several", lambda: True)
    monkeypatch.setattr(processes, "_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, **options: None)
    array = np.array([[np.nan, np.inf], [-np.inf, 1.5]], dtype=np.float32)
    assert np.array_equal(processes.over_ranks(array.copy(), blank=np.nan), array, equal_nan=True)
