"""A run as one Parquet file: one row a token and epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamics.records import schema
from dynamics.records.exporting.blocks import blocks_of
from dynamics.records.reader import Run
from dynamics.records.values import Records
from dynamics.records.variables import (
    epoch_values,
    recorded_variables,
)


def write_parquet(run: Run, path: Path, on_epoch: Callable[[], object]) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {
        "int32": pyarrow.int32(),
        "float32": pyarrow.float32(),
        "float64": pyarrow.float64(),
        "bool": pyarrow.bool_(),
        "str": pyarrow.string(),
    }
    splits = [run.records(split) for split in run.splits]
    columns = _parquet_columns(splits)
    described = {"run": run.name, "units": "nats", "config_hash": run.manifest["config_hash"]}
    layout = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()], metadata=described)
    with parquet.ParquetWriter(path, layout, compression="zstd") as file:
        for records in splits:
            blocks = list(blocks_of(records))
            # The texts stay the same from epoch to epoch, and cost more than all else to make.
            texts = [_texts(records, block) for block in blocks]
            for epoch in run.epochs:
                measured = {each.name: epoch_values(records, each, epoch) for each in recorded_variables(records)}
                for block, text in zip(blocks, texts, strict=True):
                    table = _parquet_table(records, epoch, block, text, measured, layout)
                    if table.num_rows:
                        file.write_table(table, row_group_size=table.num_rows)
                on_epoch()


def _parquet_columns(splits: list[Records]) -> dict[str, str]:
    """Return the columns and their types; those of what the optimiser saw only where it was recorded."""
    recorded = {variable.name for records in splits for variable in recorded_variables(records)}
    return {
        "split": "str",
        "epoch": "int32",
        "passes": "float64",
        **dict.fromkeys(("sequence", "position", "document", "token_id"), "int32"),
        "token": "str",
        "loss": "float32",
        "entropy": "float32",
        "correct": "bool",
        "dropped": "bool",
        "reference_loss": "float32",
        "reference_entropy": "float32",
        **{name: "float32" for name in schema.TRAINING_VALUES if name in recorded},
    }


def _parquet_table(
    records: Records, epoch: int, block: slice, text: Any, measured: dict[str, npt.NDArray[Any]], layout: Any
) -> Any:
    """Return the rows of one epoch of some sequences as a pyarrow.Table."""
    import pyarrow

    real = records.document_id[block] >= 0
    n_rows = int(real.sum())
    unpredicted = ~records.predicted[block][real]
    row, position = np.nonzero(real)

    def of(name: str) -> Any:
        if name in ("reference_loss", "reference_entropy"):
            return pyarrow.array(getattr(records, name)[block][real], mask=unpredicted)
        # Nothing happens in training before epoch 1, nor ever in another split.
        if name not in measured or (epoch == 0 and name in ("dropped", *schema.TRAINING_VALUES)):
            return pyarrow.nulls(n_rows, layout.field(name).type)
        return pyarrow.array(measured[name][block][real], mask=unpredicted)

    known = {
        "split": pyarrow.repeat(pyarrow.scalar(records.split), n_rows),
        "epoch": np.full(n_rows, epoch, dtype=np.int32),
        "passes": np.full(n_rows, records.run.passes(epoch)),
        "sequence": records.sequence_id[block][row].astype(np.int32),
        "position": position.astype(np.int32),
        "document": records.document_id[block][real],
        "token_id": records.token_id[block][real],
        "token": text,
    }
    return pyarrow.table([known[name] if name in known else of(name) for name in layout.names], schema=layout)


def _texts(records: Records, block: slice) -> Any:
    """Return the texts of the tokens of some sequences, without padding, as a pyarrow.Array."""
    import pyarrow

    real = records.document_id >= 0
    rows = range(*block.indices(len(real)))
    texts = (text for row in rows for text, here in zip(records.token_texts(row), real[row], strict=True) if here)
    return pyarrow.array(texts, pyarrow.string())
