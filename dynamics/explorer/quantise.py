"""Losses and entropies in 8 bits, finer where they are small; how much that changes them is known, and told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]

#: The code of a token without a value.
UNKNOWN = 255
_STEPS = 254
_SIGNED_STEPS = 127
_SIGNED_ZERO = 128


@dataclass(frozen=True, slots=True)
class Scale:
    """Code c stands for ``top * (c / 254)**2`` nats, so that steps are smallest near 0, where most tokens end.

    Attributes
    ----------
    top : float
        Nats, above 0. Higher values become it.
    """

    top: float

    @property
    def bound(self) -> float:
        """The greatest error of any value up to `top`, in nats: half a step in the root, at the top."""
        return self.top * (_STEPS - 0.25) / _STEPS**2

    def encode(self, values: NDArray[Any]) -> Codes:
        """Return the codes of values in nats; NaN is `UNKNOWN`."""
        share = np.clip(np.asarray(values, dtype=np.float32), 0.0, self.top) / np.float32(self.top)
        codes = np.rint(np.sqrt(share) * _STEPS)
        return np.where(np.isnan(codes), np.float32(UNKNOWN), codes).astype(np.uint8)

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Return what codes stand for, in nats."""
        values = np.float32(self.top) * (codes.astype(np.float32) / _STEPS) ** 2
        return np.where(codes == UNKNOWN, np.float32(np.nan), values)

    def encode_signed(self, values: NDArray[Any]) -> Codes:
        """Return codes of differences: 128 + c stands for ``sign(c) * top * (c / 127)**2``; 0 for NaN."""
        values = np.asarray(values, dtype=np.float32)
        root = np.sqrt(np.minimum(np.abs(values), self.top) / np.float32(self.top))
        codes = _SIGNED_ZERO + np.sign(values) * np.rint(root * _SIGNED_STEPS)
        return np.where(np.isnan(codes), np.float32(0), codes).astype(np.uint8)


def over_epochs(codes: Codes) -> Codes:
    """Return the first epoch, then differences modulo 256: tokens change little, so these compress well.

    Parameters
    ----------
    codes : ndarray of uint8, shape (epoch, token)
    """
    changes = codes.copy()
    changes[1:] -= codes[:-1]
    return changes
