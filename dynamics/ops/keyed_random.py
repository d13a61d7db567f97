"""Uniform random numbers that depend only on their keys.

A mask drawn from a stateful generator depends on how many numbers were drawn before it. So it depends on the batch
size, the number of processes and workers, and on where a run was interrupted. Here each number is a hash of (seed,
stream, epoch, sequence_id, position). So the masks of a training run do not depend on how it was executed.

The hash applies the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, with Stafford's variant 13 of the constants) once per key, and adds the golden-ratio increment in between.
torch integers are signed. Their wrap-around products equal those of unsigned 64-bit integers, and a logical shift is an
arithmetic shift followed by a mask.
"""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)

# The purpose of a draw. Two uses of the same (seed, epoch, sequence, position) must not share a number.
STREAM_DROP = 1
STREAM_REPLACEMENT = 2
STREAM_ORDER = 3
STREAM_CONTEXT = 4
STREAM_SHARE = 5
STREAM_MASKED = 6


def keyed_uniform(
    *, seed: int, stream: int, epoch: int, sequence_id: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Return one uniform number per (sequence, position).

    Parameters
    ----------
    seed : int
        The run's seed, non-negative.
    stream : int
        The purpose of the draw, one of the constants of this module.
    epoch : int
        The pass over the data, counted from 1.
    sequence_id, position : Tensor of int64
        Stable ids of the sequences, and positions in them. Their shapes must broadcast, on one device.

    Returns
    -------
    Tensor of float64, in the broadcast shape
        In [0, 1), multiples of 2**-53. Bit-identical on every device.
    """
    assert sequence_id.dtype == torch.int64 and position.dtype == torch.int64, (sequence_id, position)
    state = mixed(seed, stream, epoch, sequence_id, position)
    return _shift(state, 11).to(torch.float64) * 2.0**-53


def mixed(*keys: int | torch.Tensor) -> torch.Tensor:
    """Return the SplitMix64 chain over keys: 64 well-mixed bits, as int64.

    Parameters
    ----------
    *keys : int or Tensor of int64
        Their shapes must broadcast. At least one must be a tensor.
    """
    device = next(key.device for key in keys if isinstance(key, torch.Tensor))
    state = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        if isinstance(key, torch.Tensor):
            state = _mix(state + (key + 1) * _signed(_GOLDEN))
        else:
            state = _mix(state + _signed((key + 1) * _GOLDEN))
    return state


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
