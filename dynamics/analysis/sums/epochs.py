"""Where epochs lie: at the passes over the data that they stand for, which is not their number where one was cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.results import Shown


class OverEpochs(Shown):
    """What has values at epochs; the base of dataclasses with these two fields.

    Attributes
    ----------
    epochs : ndarray of int64, shape (E,)
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    """

    __slots__ = ()

    epochs: NDArray[np.int64]
    passes: Floats | None

    @property
    def at(self) -> Floats:
        """Where the epochs lie on an axis: their passes over the data."""
        return epochs_at(self.epochs, self.passes)

    @property
    def cut(self) -> bool:
        """Whether one of the epochs was cut, and lies elsewhere than at its number."""
        return bool((self.at != self.epochs).any())


def epochs_at(epochs: NDArray[np.int64], passes: Floats | None) -> Floats:
    """Return where epochs lie on an axis, (E,): their passes over the data if given, else their own numbers."""
    at: Floats = np.asarray(epochs if passes is None else passes, dtype=np.float64)
    assert at.shape == np.shape(epochs), (at.shape, np.shape(epochs))
    return at
