"""Writing a run's records for other tools: Parquet for polars and duckdb, zarr for labelled arrays.

Values are read and written one epoch at a time, so that memory stays flat as runs get longer; of a split, its tokens
alone are kept. An export is written beside its place under another name, and renamed when it is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamics.errors import InputError, nearest
from dynamics.records import schema
from dynamics.records.reader import Run
from dynamics.records.values import Records
from dynamics.records.variables import (
    EPOCH_DIMS,
    PER_TOKEN,
    TOKEN_DIMS,
    epoch_values,
    recorded_variables,
    run_attributes,
)

FORMATS = ("parquet", "zarr")

#: Tokens in a row group or a chunk, at most. Readers work on whole ones: as many as make the work worth its start.
GROUP_TOKENS = 2**20


def export_run(
    run: Run,
    output: str | os.PathLike[str],
    *,
    format: str,
    on_epoch: Callable[[], object] | None = None,
) -> Path:
    """Write all complete epochs of a run to one file (Parquet) or one directory (zarr).

    Parquet: one row a token and epoch, all splits in one file, padding left out. What was measured is null where
    nothing is predicted, and where it cannot be (``dropped`` outside of training); a value that is NaN though the token
    is predicted, which a run that diverged has, stays NaN. Row groups never hold two epochs or splits.

    zarr (format 3): a group a split, in it the arrays and coordinates of `Records.to_xarray`, NaN as there; a chunk
    holds one epoch of some sequences.

    Parameters
    ----------
    run : Run
    output : path
        Must not be there yet.
    format : {"parquet", "zarr"}
    on_epoch : callable, optional
        Called after every epoch of every split.

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    InputError
        For an unknown format, an output that is there, a run without a complete epoch, or a missing package.
    DamagedRecordError
        If records are damaged. Nothing is left of the export.
    """
    check_export(run, output, format=format)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write = {"parquet": _write_parquet, "zarr": _write_zarr}[format]
    with _whole(output) as temporary:
        write(run, temporary, on_epoch or (lambda: None))
    return output


def check_export(run: Run, output: str | os.PathLike[str], *, format: str) -> None:
    """Raise the InputError of `export_run`, if there is one, before any work is done."""
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}{nearest(format, FORMATS)}; there are {', '.join(FORMATS)}")
    if os.path.lexists(output):
        raise InputError(f"{output} is there already, and nothing is overwritten; name another output, or remove it")
    if not run.epochs:
        raise InputError(f"{run.path} has no complete epoch, so there is nothing to export; train first")
    try:
        if format == "parquet":
            import pyarrow.parquet  # noqa: F401
        else:
            import zarr  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"{format} is written with {error.name}, which is not installed: pip install 'learning-dynamics[export]'"
        ) from error


# -------------------------------------------------------------------------------------- Parquet


def _write_parquet(run: Run, path: Path, on_epoch: Callable[[], object]) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {"int32": pyarrow.int32(), "float32": pyarrow.float32(), "bool": pyarrow.bool_(), "str": pyarrow.string()}
    splits = [run.records(split) for split in run.splits]
    columns = _parquet_columns(splits)
    described = {"run": run.name, "units": "nats", "config_hash": run.manifest["config_hash"]}
    layout = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()], metadata=described)
    with parquet.ParquetWriter(path, layout, compression="zstd") as file:
        for records in splits:
            blocks = list(_blocks(records))
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
        **dict.fromkeys(("epoch", "sequence", "position", "document", "token_id"), "int32"),
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


# ----------------------------------------------------------------------------------------- zarr


def _write_zarr(run: Run, path: Path, on_epoch: Callable[[], object]) -> None:
    import zarr

    root = zarr.open_group(path, mode="w-", zarr_format=3, attributes={"run": run.name, "units": "nats"})
    for split in run.splits:
        records = run.records(split)
        shape = records.token_id.shape
        group = root.create_group(split, attributes=dict(run_attributes(records)))
        coordinates = {
            "epoch": np.asarray(run.epochs, dtype=np.int64),
            "sequence": records.sequence_id.astype(np.int64),
            "position": np.arange(shape[1], dtype=np.int64),
        }
        for name, values in coordinates.items():
            group.create_array(name, data=values, chunks=values.shape, dimension_names=(name,))
        chunk = (max(1, min(_sequences_per_group(records), shape[0])), shape[1])
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


# --------------------------------------------------------------------------------------- common


def _sequences_per_group(records: Records) -> int:
    block_size: int = records.token_id.shape[1]
    return max(1, GROUP_TOKENS // block_size)


def _blocks(records: Records) -> Iterator[slice]:
    """Cut the sequences into runs of rows that make one row group each."""
    step = _sequences_per_group(records)
    for start in range(0, len(records.token_id), step):
        yield slice(start, start + step)


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """Give the path to write to, and make it `output` once all of it is on disk; nothing is left after an error."""
    # One fixed name: what a killed process left is replaced by the next attempt.
    temporary = output.with_name(output.name + schema.PARTIAL_SUFFIX)
    _remove(temporary)
    try:
        yield temporary
        files = [path for path in temporary.rglob("*") if path.is_file()] if temporary.is_dir() else [temporary]
        for path in files:
            with open(path, "r+b") as file:  # Windows flushes nothing that it may not write.
                os.fsync(file.fileno())
        os.rename(temporary, output)
    finally:
        _remove(temporary)
    schema.fsync_folder(output.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
