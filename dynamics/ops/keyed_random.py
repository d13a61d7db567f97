"""Uniform numbers that depend on their keys alone.

A mask drawn from a stateful generator depends on how many numbers were drawn before it, hence on batch size,
number of processes and workers, and on where a run was interrupted. Here each number is a hash of
(seed, stream, epoch, sequence_id, position), so the masks of a training run are a property of the run, not of
the way it was executed.

The hash applies the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014, with Stafford's variant 13 of the constants) once per key, adding the golden-ratio
increment in between. torch integers are signed; their wrap-around products are those of unsigned 64-bit
integers, and a logical shift is an arithmetic one followed by a mask.
"""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)

# What a draw is for. Two uses of the same (seed, epoch, sequence, position) must not share a number.
STREAM_DROP = 1
STREAM_REPLACEMENT = 2
STREAM_ORDER = 3


def keyed_uniform(*, seed: int, stream: int, epoch: int, sequence_id: torch.Tensor, n_positions: int) -> torch.Tensor:
    """Return one uniform number per (sequence, position).

    Parameters
    ----------
    seed : int
        The run's seed, non-negative.
    stream : int
        What the draw is for, one of the constants of this module.
    epoch : int
        The pass over the data, from 1.
    sequence_id : Tensor of int64, shape (B,)
        Stable identifiers of the sequences; the result is on the same device.
    n_positions : int
        Positions per sequence.

    Returns
    -------
    Tensor of float64, shape (B, n_positions)
        In [0, 1), multiples of 2**-53; bit-identical on every device.
    """
    assert sequence_id.dtype == torch.int64 and sequence_id.ndim == 1, sequence_id
    device = sequence_id.device
    state = torch.zeros(1, 1, dtype=torch.int64, device=device)
    for key in (seed, stream, epoch):
        state = _mix(state + _signed((key + 1) * _GOLDEN))
    state = _mix(state + (sequence_id[:, None] + 1) * _signed(_GOLDEN))
    position = torch.arange(n_positions, dtype=torch.int64, device=device)[None, :]
    state = _mix(state + (position + 1) * _signed(_GOLDEN))
    return _shift(state, 11).to(torch.float64) * 2.0**-53


def _mix(state: torch.Tensor) -> torch.Tensor:
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, None), strict=True):
        state = state ^ _shift(state, shift)
        if multiplier is not None:
            state = state * _signed(multiplier)
    return state


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The int64 with the same 64 bits as `x`."""
    x &= 0xFFFFFFFFFFFFFFFF
    return x - (1 << 64) if x >= 1 << 63 else x
