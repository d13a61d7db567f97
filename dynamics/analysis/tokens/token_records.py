"""What the analysis reads of records: a protocol, so that views of some of their tokens can be read too."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
