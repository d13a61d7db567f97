"""How many sequences go together: into a row group of Parquet, into a chunk of zarr."""

from __future__ import annotations

from collections.abc import Iterator

from dynamics.records.values import Records

#: Tokens in a row group or a chunk, at most. Readers work on whole ones: as many as make the work worth its start.
GROUP_TOKENS = 2**20


def sequences_per_group(records: Records) -> int:
    """Return how many sequences go together, at least one."""
    block_size: int = records.token_id.shape[1]
    return max(1, GROUP_TOKENS // block_size)


def blocks_of(records: Records) -> Iterator[slice]:
    """Cut the sequences into runs of rows that make one row group each."""
    step = sequences_per_group(records)
    for start in range(0, len(records.token_id), step):
        yield slice(start, start + step)
