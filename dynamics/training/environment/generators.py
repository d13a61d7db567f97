"""Keeps recording and evaluation from changing the training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restore the state of every global generator (Python, numpy, torch, each CUDA device) on exit.

    Recording must not change the weights. Recording itself draws no random numbers, but a model's own code may, and a
    data loader advances torch's generator when it starts.
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
    """Put a model in evaluation mode. On exit, its mode and all global generators are restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with isolated_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training
        # Remove weights that autocast has cast without gradients: before torch 2.11, a training pass in the same
        # autocast context would use them, and no gradient would reach the parameters.
        torch.clear_autocast_cache()
