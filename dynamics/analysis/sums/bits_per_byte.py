"""Bits per byte: losses per byte of text instead of per token, which tokenizers can be compared by.

    bits per byte = sum of losses / (ln 2 x sum of the UTF-8 bytes of the predicted tokens)

A mean per token cannot compare tokenizers, since one with longer tokens has fewer of them, each harder (Gao et al.
2020, The Pile, arXiv 2101.00027, section 3.1). As everything here it is a ratio of sums over documents, so what makes
curves and intervals of `DocumentSums` makes them of bits per byte too: only the counts are others.

The loss of a token that stands for no byte (end of text) counts: saying where a document ends is part of it. Tokens
without a prediction (a document's first, the first of a row) are in neither sum, as everywhere.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.sums.document_buckets import group_by_document_bucket
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.sums.kept_sums import kept_bytes
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.token_bytes import token_bytes
from dynamics.analysis.tokens.token_records import Floats, TokenRecords, kept_sums_of
from dynamics.records.reader import Run


def bits_per_byte_sums(arm: Arm, split: str, *, buckets: Bucketing | None = None) -> list[DocumentSums]:
    """Return the sums per document of every run, counted in bits of text: their mean curve is in bits per byte.

    Parameters
    ----------
    arm : Arm
    split : str
    buckets : Bucketing, optional
        Without, one bucket of all tokens. In moving buckets bytes move with their tokens.

    Returns
    -------
    list of DocumentSums
        One a run, as `Arm.seed_sums`: `sums` are losses in nats, `counts` the bytes of the predicted tokens times ln 2.
        Where a bucket has tokens but no byte its ratio is NaN.

    Raises
    ------
    InputError
        If the bytes of the tokens are not known (`dynamics.analysis.tokens.token_bytes.token_bytes`).
    """
    losses = arm.seed_sums(split, buckets=buckets)
    moving = buckets is not None and buckets.moving
    # Runs of an arm have the same tokens, and so the same bytes wherever these do not move.
    runs = arm.runs if moving else arm.runs[:1] * len(arm.runs)
    counted: dict[int, Floats] = {}
    for run in runs:
        if id(run) not in counted:
            counted[id(run)] = math.log(2.0) * byte_counts(run, split, arm.epochs, buckets)
    return [replace(part, counts=counted[id(run)]) for part, run in zip(losses, runs, strict=True)]


def byte_counts(run: Run, split: str, epochs: list[int], buckets: Bucketing | None = None) -> Floats:
    """Return the bytes of the predicted tokens, shape (D, K) as `DocumentSums.counts`; (E, D, K) in moving buckets."""
    records = run.records(split)
    if (kept := kept_sums_of(records)) is not None:
        return kept_bytes(kept, buckets)
    n_bytes = token_bytes(records)
    if buckets is not None and buckets.moving:
        return np.stack([_summed(records, n_bytes, buckets.index(records, epoch), buckets) for epoch in epochs])
    return _summed(records, n_bytes, None if buckets is None else buckets.index(records), buckets)


def _summed(
    records: TokenRecords, n_bytes: Floats, index: NDArray[np.int16] | None, buckets: Bucketing | None
) -> Floats:
    """Sum over each document and bucket, in the rows of `sums_by_value`."""
    chosen = np.asarray(records.predicted, dtype=bool)
    if index is not None:
        chosen = chosen & (index >= 0)
    n_buckets = 1 if buckets is None else len(buckets.labels)
    return group_by_document_bucket(np.asarray(records.document_id), chosen, index, n_buckets).sums_of([n_bytes])[0]
