"""The number of rows of logits that exist at a time."""

from __future__ import annotations

import functools

import torch

from dynamics.ops import placement

# CPU: up to this size glibc reuses the same pages for each chunk. Above it, each chunk is mapped and page-faulted again
# (measured: the first product then runs at less than half its speed).
_CPU_BYTES = 30 << 20
_CPU_MOST_ROWS = 192  # more rows hardly speed up the products, and oneDNN keeps a copy of the chunk
_CPU_FEWEST_ROWS = 64  # with fewer rows, reading and writing the weight's gradient once per chunk dominates

# Accelerators: computed for an H100 (3 TB/s, 700 T operations per second in half precision), not tuned by measurement.
# The weight's float32 gradient is read and written once per chunk, 8 V H bytes. The products of a chunk of n rows take
# 6 n V H operations. So the ratio of the two times is 8 / 3e12 over 6 n / 7e14, or 311 / n for any V and H: 15 % at
# 2,048 rows, 5.5 % at 5,632, 4 % at 8,192, and more rows gain little. Small devices need memory for other things too,
# so they use fewer rows, which is slow but works.
_DEVICE_FEWEST_ROWS = 1024
_DEVICE_MOST_ROWS = 8192
# The share of a device's total memory for a chunk: about 5 of 79 GiB, which is 5,632 rows at V = 151,936 (float32
# logits and a half-precision gradient, 6 V bytes per row). It must not depend on free memory: the chunk size affects
# rounding, and a repeated or resumed run must give the same results.
_DEVICE_SHARE = 16
_DEVICE_BYTES = 1 << 30  # for a device whose memory is unknown
_DEVICE_STEP = 512  # whole tiles of the products; also hides small differences in memory between drivers


def rows_per_chunk(n_vocab: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return the number of rows of logits to hold at a time. It depends only on the arguments.

    Parameters
    ----------
    n_vocab : int
        Number of columns.
    dtype : torch.dtype
        The dtype of the factors.
    device : torch.device

    Returns
    -------
    int
        A multiple of 16.
    """
    if placement.host_computes(device):
        rows = min(_CPU_MOST_ROWS, max(_CPU_FEWEST_ROWS, _CPU_BYTES // (n_vocab * dtype.itemsize)))
        return rows // 16 * 16
    # Logits are at least float32. A half-precision gradient has separate memory.
    row_bytes = n_vocab * (dtype.itemsize if dtype.itemsize >= 4 else 4 + dtype.itemsize)
    rows = min(_DEVICE_MOST_ROWS, max(_DEVICE_FEWEST_ROWS, _device_bytes(device) // row_bytes))
    return rows // _DEVICE_STEP * _DEVICE_STEP


@functools.cache
def _device_bytes(device: torch.device) -> int:
    """Return how much of an accelerator's memory a chunk may take."""
    if device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(device).total_memory) // _DEVICE_SHARE
    return _DEVICE_BYTES


def spans(n: int, size: int) -> list[tuple[int, int]]:
    """Split [0, n) into consecutive [start, stop) of length at most `size`."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]
