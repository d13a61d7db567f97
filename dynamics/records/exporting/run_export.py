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

from dynamics.errors import InputError, nearest
from dynamics.records import schema
from dynamics.records.exporting.parquet_file import write_parquet
from dynamics.records.exporting.zarr_groups import write_zarr
from dynamics.records.reader import Run

FORMATS = ("parquet", "zarr")


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
    write = {"parquet": write_parquet, "zarr": write_zarr}[format]
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
