"""An estimate and its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.numbers import interval
from dynamics.display.results import Shown
from dynamics.display.tables import Card, Table
from dynamics.errors import InputError


@dataclass(frozen=True, slots=True, repr=False)
class Interval(Shown):
    """An estimate and the ends of its interval: three arrays of one shape.

    Attributes
    ----------
    low, high, estimate : ndarray of float64
        Three arrays of one shape, in the unit of the estimate.
    """

    low: Floats
    high: Floats
    estimate: Floats

    def _shown(self) -> Table | Card:
        shape = np.shape(self.estimate)
        if np.size(self.estimate) > _MOST_SHOWN:
            return super(Interval, self)._shown()
        flat = zip(*(np.asarray(each).reshape(-1) for each in (self.estimate, self.low, self.high)), strict=True)
        rows = [interval(each) for each in flat]
        if not shape:
            return Card(f"Interval: {rows[0]}", [])
        places = [", ".join(map(str, place)) for place in np.ndindex(*shape)]
        return Card(f"Interval of arrays of shape ({', '.join(map(str, shape))})", list(zip(places, rows, strict=True)))


#: Intervals with more numbers than this show their shape and range alone.
_MOST_SHOWN = 40


def within_shares(values: Interval) -> Interval:
    """Return an interval of shares with its ends in [0, 1]: one over few documents may reach beyond."""
    return Interval(np.clip(values.low, 0.0, 1.0), np.clip(values.high, 0.0, 1.0), values.estimate)


def require_share(level: float) -> None:
    """Raise InputError unless a level of confidence is a share."""
    if not 0.0 < level < 1.0:
        raise InputError(f"level {level:g} is not a share; use a value in (0, 1) such as 0.95")
