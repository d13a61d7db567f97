"""Small records and sums per document, made by hand or with a known truth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats


def sums_of(sums: Floats, counts: Floats) -> DocumentSums:
    n_epochs, n_documents, n_buckets = sums.shape
    return DocumentSums(
        sums,
        counts,
        np.arange(n_epochs),
        tuple(str(k) for k in range(n_buckets)),
        np.arange(n_documents),
    )


def noisy_documents(
    rng: np.random.Generator, curve: Floats, *, n_documents: int = 200, noise: float = 0.5
) -> DocumentSums:
    """Documents of 5 to 40 tokens about a true curve: each has a level, and noise per epoch."""
    counts = rng.integers(5, 41, size=n_documents).astype(float)
    level = rng.normal(0, 1, size=n_documents)
    means = curve[:, None] + level + rng.normal(0, noise, size=(len(curve), n_documents))
    return sums_of((means * counts)[:, :, None], counts[:, None])


def hand_records(split: str = "train") -> Any:
    """One sequence: tokens 5, 5, 6, 5, 9 and one of padding; two documents."""
    return cast(
        Any,
        SimpleNamespace(
            run=SimpleNamespace(epochs=[], splits=["train"]),
            split=split,
            token_id=np.array([[5, 5, 6, 5, 9, 0]]),
            document_id=np.array([[0, 0, 0, 1, 1, -1]]),
            predicted=np.array([[False, True, True, False, True, False]]),
            reference_entropy=np.array([[np.nan, 1.0, 2.0, np.nan, 3.0, np.nan]], dtype=np.float32),
            reference_loss=np.array([[np.nan, 4.0, 0.5, np.nan, 1.0, np.nan]], dtype=np.float32),
        ),
    )
