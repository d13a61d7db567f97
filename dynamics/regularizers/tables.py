"""Tables over the training set, where a batch is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class DeviceTable:
    """A value for each token of the training set, copied once to every device that asks for it.

    Looked up on the host, a table would make every micro-batch wait for its device twice. A table does not change:
    what is ranked anew is a new table, and the copies of the old one go with it.

    Parameters
    ----------
    values : ndarray, shape (n_sequences, n_positions)
    """

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self._values = values
        self._on: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """Return the table on `device`."""
        if device not in self._on:
            import torch

            # torch wants what may be written to, which an array that is mapped from a run's files may not be.
            self._on[device] = torch.from_numpy(np.require(self._values, requirements="W")).to(device)
        return self._on[device]
