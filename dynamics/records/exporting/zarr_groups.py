"""A run as labelled zarr arrays: a group a split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.records.exporting.blocks import sequences_per_group
from dynamics.records.reader import Run
from dynamics.records.variables import (
    EPOCH_DIMS,
    PASSES_ATTRIBUTES,
    PER_TOKEN,
    TOKEN_DIMS,
    epoch_values,
    passes_of,
    recorded_variables,
    run_attributes,
)


def write_zarr(run: Run, path: Path, on_epoch: Callable[[], object]) -> None:
    import zarr

    root = zarr.open_group(path, mode="w-", zarr_format=3, attributes={"run": run.name, "units": "nats"})
    for split in run.splits:
        records = run.records(split)
        shape = records.token_id.shape
        group = root.create_group(split, attributes={**run_attributes(records), "coordinates": "passes"})
        coordinates = {
            "epoch": np.asarray(run.epochs, dtype=np.int64),
            "sequence": records.sequence_id.astype(np.int64),
            "position": np.arange(shape[1], dtype=np.int64),
        }
        for name, values in coordinates.items():
            group.create_array(name, data=values, chunks=values.shape, dimension_names=(name,))
        passes = passes_of(run)
        group.create_array(
            "passes", data=passes, chunks=passes.shape, dimension_names=("epoch",), attributes=dict(PASSES_ATTRIBUTES)
        )
        chunk = (max(1, min(sequences_per_group(records), shape[0])), shape[1])
        for variable in PER_TOKEN:
            group.create_array(
                variable.name,
                data=getattr(records, variable.name),
                chunks=chunk,
                dimension_names=TOKEN_DIMS,
                attributes=dict(variable.attributes),
            )
        variables = recorded_variables(records)
        for variable in variables:
            group.create_array(
                variable.name,
                shape=(len(run.epochs), *shape),
                dtype=variable.dtype,
                chunks=(1, *chunk),
                fill_value=np.nan if variable.dtype == "float32" else False,
                dimension_names=EPOCH_DIMS,
                attributes=dict(variable.attributes),
            )
        for at, epoch in enumerate(run.epochs):
            for variable in variables:
                array: Any = group[variable.name]
                array[at] = epoch_values(records, variable, epoch)
            on_epoch()
