"""The operator's route of accelerators, and memory that is poisoned before it is written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.protocol import Where
from dynamics.ops import placement


@contextmanager
def of_accelerators(where: Where) -> Iterator[None]:
    """Send a CPU down the route of accelerators: ignored rows run along, and the host looks at nothing."""
    before = placement.host_computes
    if where.device == "cpu":
        placement.host_computes = lambda device: False
    try:
        yield
    finally:
        placement.host_computes = before


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill what torch allocates without values with NaN, or True: what is never written shows.

    torch does so where deterministic algorithms are asked for. Where an operator has none, it says so and goes on.
    """
    before = torch.get_deterministic_debug_mode()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_deterministic_debug_mode("warn")
        torch.utils.deterministic.fill_uninitialized_memory = True
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)
            torch.utils.deterministic.fill_uninitialized_memory = fills
