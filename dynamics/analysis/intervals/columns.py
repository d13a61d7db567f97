"""Columns that the tables of several kinds of results share, and how they read an interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.layouts import Column, text_column
from dynamics.display.numbers import DIVERGED, UNKNOWN, decimals, whole

OVER_IN_WORDS = {
    "documents": "documents, with the trained models held fixed",
    "seeds_and_documents": "seeds and documents",
}

ARM = text_column("arm", "arm")
SEEDS = Column("seeds", "n_seeds", whole, once=True)
SPLIT = text_column("split", "split", once=True)
BUCKET = text_column("bucket", lambda result, k: result.labels[k], once=True)
OVER = text_column("intervals generalise over", lambda result, _: OVER_IN_WORDS[result.over], once=True)

#: The axes of arrays of shape (E, K) in a data frame, and the passes that its epochs stand for.
EPOCHS_AND_BUCKETS = {"epoch": "epochs", "bucket": "labels"}
PASSES = {"passes": ("at", "epoch")}


def ends(estimate: float, low: float, high: float, *, diverged: bool) -> Any:
    """Return an (estimate, low, high) for a cell, or what stands there where it is not known."""
    if not np.isfinite(estimate):
        return DIVERGED if diverged else UNKNOWN
    return estimate, low, high


def last_of(curve: Interval, k: int) -> Any:
    """Return the interval after the last epoch in a bucket of an (E, K) curve, or why there is none."""
    along = curve.estimate[:, k]
    return ends(along[-1], curve.low[-1, k], curve.high[-1, k], diverged=diverged(along))


def diverged(curve: Floats) -> bool:
    """Whether a curve over epochs, which was finite once, is NaN or infinite at its end."""
    return bool(np.isfinite(curve).any() and not np.isfinite(curve[-1]))


def value_or_diverged(value: float, gone: bool) -> str:
    """Return a number with three decimals, or that its arm diverged."""
    return DIVERGED if gone and not np.isfinite(value) else decimals(value)
