"""What the device can do at most: bytes by a large copy, operations by large products.

Every other time is held against these. Random data: products of zeros are faster than any that training has.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from benchmarks import timing
from benchmarks.gpu.protocol import Found, Where, holds


def run(where: Where) -> Found:
    """Measure bandwidth, and products in bfloat16 with either type of output."""
    side, elements, rounds = (64, 1 << 12, 3) if where.tiny else (8192, 1 << 30, 10)
    source = torch.randn(elements, device=where.device).bfloat16()
    destination = torch.empty_like(source)
    a, b = torch.randn(2, side, side, device=where.device).bfloat16()
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: destination.copy_(source),
        "product, bfloat16 output": lambda: torch.mm(a, b),
    }
    if where.device == "cuda":  # torch has it on CUDA alone
        calls["product, float32 output"] = lambda: torch.mm(a, b, out_dtype=torch.float32)
    seconds = timing.interleaved(calls, rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    measured = {
        "copy, TB/s read and written": 2 * source.nbytes / median.pop("copy") / 1e12,
        **{f"{name}, TFLOP/s": 2 * side**3 / taken / 1e12 for name, taken in median.items()},
        "side of the products": side,
        "bytes copied": source.nbytes,
    }
    return Found(measured, [holds("the copy is what was copied", torch.equal(source, destination))])
