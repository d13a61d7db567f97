"""Keeping what is beside training from changing training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restore every global generator (Python, numpy, torch, each CUDA device) on leaving.

    Recording must not change the weights. It draws nothing itself, but a model's own code may, and a data
    loader advances torch's generator when it starts.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, to measure it; on leaving its mode and all global generators are as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with isolated_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training
        # Weights that autocast has cast without gradients: before torch 2.11 a training pass within the same autocast
        # would take them, and its gradients would end there.
        torch.clear_autocast_cache()
