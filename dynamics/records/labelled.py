"""Records as an xarray data set: labelled, and read from disk only where it is indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from dynamics.records.tensors import Array
from dynamics.records.variables import (
    EPOCH_DIMS,
    PASSES_ATTRIBUTES,
    PER_TOKEN,
    TOKEN_DIMS,
    Variable,
    epoch_values,
    passes_of,
    recorded_variables,
    run_attributes,
)

if TYPE_CHECKING:
    from dynamics.records.values import Records


class EpochArray(BackendArray):
    """One variable of all epochs, (E, R, B), of which the epochs that an index asks for are read.

    Parameters
    ----------
    records : Records
    variable : Variable
    """

    def __init__(self, records: Records, variable: Variable) -> None:
        self.records = records
        self.variable = variable
        # As they were when the run was opened: an epoch that completes meanwhile does not move the others.
        self.epochs = list(records.run.epochs)
        self.shape = (len(self.epochs), *records.token_id.shape)
        self.dtype = np.dtype(variable.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return what an index of xarray's asks for; it breaks down those that `_read` does not know."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Array:
        """Return what a whole number, a slice or a (n,) array for each of the three dimensions picks, independently."""
        which, rows, positions = key
        chosen = np.arange(len(self.epochs))[which]
        if chosen.ndim == 0:
            # A copy, so that one sequence does not keep all sequences of the epoch in memory.
            return self._read_epoch(int(chosen), rows, positions).copy()
        shape = np.empty(self.shape[1:], dtype=bool)[rows][..., positions].shape
        picked = np.empty((len(chosen), *shape), dtype=self.dtype)
        for i, at in enumerate(chosen.tolist()):
            picked[i] = self._read_epoch(at, rows, positions)
        return picked

    def _read_epoch(self, at: int, rows: Any, positions: Any) -> Array:
        values: Array = epoch_values(self.records, self.variable, self.epochs[at])[rows][..., positions]
        return values


def labelled(records: Records) -> xarray.Dataset:
    """Return records as a data set; see `Records.to_xarray`."""
    data: dict[str, Any] = {}
    for variable in recorded_variables(records):
        lazy = indexing.LazilyIndexedArray(EpochArray(records, variable))
        data[variable.name] = xarray.Variable(EPOCH_DIMS, lazy, variable.attributes)
    for variable in PER_TOKEN:
        view = getattr(records, variable.name).view()
        view.flags.writeable = False  # The records themselves: a data set that is changed must not change them.
        data[variable.name] = xarray.Variable(TOKEN_DIMS, view, variable.attributes)
    coordinates: dict[str, Any] = {
        "epoch": np.asarray(records.run.epochs, dtype=np.int64),
        "passes": ("epoch", passes_of(records.run), PASSES_ATTRIBUTES),
        "sequence": records.sequence_id.astype(np.int64),
        "position": np.arange(records.token_id.shape[1]),
    }
    return xarray.Dataset(data, coordinates, run_attributes(records))
