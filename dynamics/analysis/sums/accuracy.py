"""Sums of correct tokens: the most probable ones given what precedes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.buckets import Bucketing


def accuracy_sums(arm: Arm, split: str, *, buckets: Bucketing | None = None) -> list[DocumentSums]:
    """Return the sums of an arm's correct tokens per document and bucket, one part a seed.

    NaN where a loss is: a model that says NaN has no most probable token, whatever was recorded.

    Parameters
    ----------
    arm, split, buckets
        As for `Arm.seed_sums`.
    """
    arm.load(split, ["correct", "loss"], buckets=buckets)
    return [
        replace(part, sums=np.where(np.isnan(loss.sums), np.nan, part.sums))
        for part, loss in zip(
            arm.seed_sums(split, buckets=buckets, value="correct"),
            arm.seed_sums(split, buckets=buckets),
            strict=True,
        )
    ]
