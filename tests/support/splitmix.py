"""The hash chain of keyed random numbers in Python's unbounded integers, after Sebastiano Vigna's splitmix64.c."""

from __future__ import annotations

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def splitmix(state: int) -> int:
    """The finaliser of SplitMix64."""
    z = state & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(*keys: int) -> float:
    """The number in [0, 1) of some keys: the increment added, and the finaliser, once a key."""
    state = 0
    for key in keys:
        state = splitmix(state + (key + 1) * _GOLDEN)
    return (state >> 11) / 2**53
