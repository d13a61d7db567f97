"""Maps the key of a sequence in a batch to its row in the training set."""

from __future__ import annotations

import torch


class SequenceIndex:
    """Maps the key of a sequence to its row.

    Parameters
    ----------
    keys : Tensor of int64, shape (S,)
        A `sequence_id` or a hash of the tokens for each sequence. All keys are different.
    """

    def __init__(self, keys: torch.Tensor) -> None:
        known, row = torch.sort(keys)
        # A copy per device, made once, so that batches do not wait for a transfer.
        self._tables = {keys.device: (known, row)}

    def rows(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the row of each key, or -1 if there is none; int64, with the shape and device of `keys`."""
        if keys.device not in self._tables:
            known, row = next(iter(self._tables.values()))
            self._tables[keys.device] = (known.to(keys.device), row.to(keys.device))
        known, row = self._tables[keys.device]
        place = torch.searchsorted(known, keys.contiguous()).clamp_max(len(known) - 1)
        return torch.where(known[place] == keys, row[place], -1)
