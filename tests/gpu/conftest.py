"""The device that these tests are about: a CUDA device where there is one, else the CPU, on which they run small.

With DYNAMICS_GPU=required the absence of CUDA fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if torch.cuda.is_available():
    # Read before the first product: without it they may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="session")
def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("DYNAMICS_GPU") == "required":
        pytest.fail("DYNAMICS_GPU=required, and torch sees no CUDA device")
    return torch.device("cpu")


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The same where it is a CUDA device; for what a CPU has nothing of."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Two trainings that do the same are the same to the last bit, on CUDA too.

    An operator that has no deterministic form says so, and goes on: then the bits tell.
    """
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    yield
    torch.set_deterministic_debug_mode(before)
