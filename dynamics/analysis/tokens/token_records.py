"""What the analysis reads of records: a protocol, so that views of some of their tokens can be read too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dynamics.records.summaries.reading import SplitSums

Floats = NDArray[np.float64]


class TokenRecords(Protocol):
    """What the analysis reads of a split's records: arrays of shape (S, P)."""

    @property
    def run(self) -> Any: ...
    @property
    def token_id(self) -> NDArray[Any]: ...
    @property
    def document_id(self) -> NDArray[Any]: ...
    @property
    def predicted(self) -> NDArray[np.bool_]: ...
    @property
    def reference_loss(self) -> NDArray[Any]: ...
    @property
    def reference_entropy(self) -> NDArray[Any]: ...
    def stored(self, value: str, epoch: int, /) -> NDArray[Any]: ...
    def correct(self, epoch: int, /) -> NDArray[Any]: ...


def kept_sums_of(records: Any) -> SplitSums | None:
    """Return the sums that stand in the place of records whose tokens were not kept; None for records with tokens.

    What is a sum by document is answered from these; all else that is asked of such records raises InputError.
    """
    found: SplitSums | None = getattr(records, "sums_alone", None)
    return found


def known_values(records: TokenRecords, value: str, epoch: int) -> NDArray[Any]:
    """Return a recorded value of every token, shape (S, P), in the type in which it is stored.

    NaN where the value is infinite, as in a run that diverged. Records keep infinity as the largest number of their
    type (`dynamics.records.schema.quantise`), 65,504 for float16: a mean over such numbers would look like a loss.
    """
    stored = np.asarray(records.stored(value, epoch))
    # The next number above the largest, in bits, is infinity. Comparing integers is several times as fast.
    bits = np.dtype(f"uint{8 * stored.dtype.itemsize}")
    largest = np.array(np.finfo(stored.dtype).max).view(bits)
    gone = (stored.view(bits) - largest) <= 1
    return np.where(gone, np.array(np.nan, dtype=stored.dtype), stored) if gone.any() else stored
