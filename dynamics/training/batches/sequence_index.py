"""From what names a sequence in a batch to its row in the training set."""

from __future__ import annotations

import torch


class SequenceIndex:
    """From the key of a sequence to its row.

    Parameters
    ----------
    keys : Tensor of int64, shape (n_sequences,)
        A `sequence_id` each, or a hash of its tokens; no two are equal.
    """

    def __init__(self, keys: torch.Tensor) -> None:
        known, row = torch.sort(keys)
        # A copy on each device that asks, made once: batches must not wait for one.
        self._tables = {keys.device: (known, row)}

    def rows(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the row of each key, -1 where there is none; int64, in the shape and on the device of `keys`."""
        if keys.device not in self._tables:
            known, row = next(iter(self._tables.values()))
            self._tables[keys.device] = (known.to(keys.device), row.to(keys.device))
        known, row = self._tables[keys.device]
        place = torch.searchsorted(known, keys.contiguous()).clamp_max(len(known) - 1)
        return torch.where(known[place] == keys, row[place], -1)
