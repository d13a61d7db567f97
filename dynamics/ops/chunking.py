"""How many rows of logits exist at a time."""

from __future__ import annotations

import torch

from dynamics.ops import placement

# CPU: below this size glibc hands the same pages out again, chunk after chunk; above it every chunk is mapped, and
# faulted in page by page, anew (measured: the first product then runs at less than half its speed).
_CPU_BYTES = 30 << 20
_CPU_MOST_ROWS = 192  # more rows hardly speed the products up, and oneDNN keeps a copy of the chunk
_CPU_FEWEST_ROWS = 64  # the weight's gradient is read and written once a chunk: too few rows and that dominates

# Accelerators: products want at least 2,048 rows to fill the device. Not tuned: no such device was at hand.
_DEVICE_BYTES = 512 << 20
_DEVICE_FEWEST_ROWS = 2048


def rows_per_chunk(n_vocab: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return the number of rows of logits to hold at a time.

    Parameters
    ----------
    n_vocab : int
        Columns.
    dtype : torch.dtype
        Of the logits.
    device : torch.device

    Returns
    -------
    int
        A multiple of 16.
    """
    row_bytes = n_vocab * dtype.itemsize
    if placement.host_computes(device):
        rows = min(_CPU_MOST_ROWS, max(_CPU_FEWEST_ROWS, _CPU_BYTES // row_bytes))
    else:
        rows = max(_DEVICE_FEWEST_ROWS, _DEVICE_BYTES // row_bytes)
    return rows // 16 * 16


def spans(n: int, size: int) -> list[tuple[int, int]]:
    """Cut [0, n) into consecutive [start, stop) of at most `size`."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]
