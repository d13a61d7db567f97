"""How many rows of logits exist at a time."""

from __future__ import annotations

import functools

import torch

from dynamics.ops import placement

# CPU: below this size glibc hands the same pages out again, chunk after chunk; above it every chunk is mapped, and
# faulted in page by page, anew (measured: the first product then runs at less than half its speed).
_CPU_BYTES = 30 << 20
_CPU_MOST_ROWS = 192  # more rows hardly speed the products up, and oneDNN keeps a copy of the chunk
_CPU_FEWEST_ROWS = 64  # the weight's gradient is read and written once a chunk: too few rows and that dominates

# Accelerators: not tuned, no such device was at hand; worked out for an H100 (3 TB/s, 700 T operations a second in
# half precision). The weight's float32 gradient is read and written once a chunk, 8 V H bytes; a chunk's products are
# 6 n V H operations. So the share of the first in the second is 8 / 3e12 over 6 n / 7e14, or 311 / n whatever V and H:
# 15 % at 2,048 rows, 5.5 % at 5,632, 4 % at 8,192, beyond which little is to be gained. Small devices must have room
# for the rest: fewer rows are slow rather than impossible.
_DEVICE_FEWEST_ROWS = 1024
_DEVICE_MOST_ROWS = 8192
# A device's whole memory over this is for a chunk: of 79 GiB some 5, which at V = 151,936 is 5,632 rows (float32 logits
# and a gradient in half precision, 6 V bytes a row). What is free at the time must not matter: the chunk is in the
# results' rounding, and a run that is repeated or gone on with must find the same.
_DEVICE_SHARE = 16
_DEVICE_BYTES = 1 << 30  # for a device that does not tell how much it has
_DEVICE_STEP = 512  # whole tiles of the products, and no difference between drivers that keep some MiB more or less


def rows_per_chunk(n_vocab: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return the number of rows of logits to hold at a time: always the same for the same arguments.

    Parameters
    ----------
    n_vocab : int
        Columns.
    dtype : torch.dtype
        Of the products' factors.
    device : torch.device

    Returns
    -------
    int
        A multiple of 16.
    """
    if placement.host_computes(device):
        rows = min(_CPU_MOST_ROWS, max(_CPU_FEWEST_ROWS, _CPU_BYTES // (n_vocab * dtype.itemsize)))
        return rows // 16 * 16
    # Logits are float32 at least; a gradient in half precision has memory of its own.
    row_bytes = n_vocab * (dtype.itemsize if dtype.itemsize >= 4 else 4 + dtype.itemsize)
    rows = min(_DEVICE_MOST_ROWS, max(_DEVICE_FEWEST_ROWS, _device_bytes(device) // row_bytes))
    return rows // _DEVICE_STEP * _DEVICE_STEP


@functools.cache
def _device_bytes(device: torch.device) -> int:
    """What of an accelerator's memory a chunk may take."""
    if device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(device).total_memory) // _DEVICE_SHARE
    return _DEVICE_BYTES


def spans(n: int, size: int) -> list[tuple[int, int]]:
    """Cut [0, n) into consecutive [start, stop) of at most `size`."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]
