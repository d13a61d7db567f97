"""What the analysis reads of records: a protocol, so that views of some of their tokens can be read too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dynamics.records.summaries.reading import SplitSums

Floats = NDArray[np.float64]


class TokenRecords(Protocol):
    """What the analysis reads of a split's records: arrays of shape (sequence, position)."""

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
