"""An estimate and its interval."""

from __future__ import annotations

from dataclasses import dataclass

from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its interval: three arrays of one shape.

    Attributes
    ----------
    low, high, estimate : ndarray of float64
        Three arrays of one shape, in the unit of the estimate.
    """

    low: Floats
    high: Floats
    estimate: Floats


def require_share(level: float) -> None:
    """Raise InputError unless a level of confidence is a share."""
    if not 0.0 < level < 1.0:
        raise InputError(f"level {level:g} is not a share; use a value in (0, 1) such as 0.95")
