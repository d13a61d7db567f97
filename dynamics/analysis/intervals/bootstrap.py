"""Resampling documents: for what is no mean, and so has no contributions of documents to it.

Tokens of one document share its subject and style, so their losses are correlated: resampling
tokens as if they were independent gives intervals that are far too narrow. Here all tokens of a
document move together, and every statistic is computed from ratios of sums.

The intervals, percentiles of the resamples (Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13), speak
of the documents that might have been drawn, with the trained models held fixed. They are too narrow for few documents
(docs/coverage.md).

Shapes: R resamples, E epochs, D documents, K buckets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.interval import require_share
from dynamics.analysis.sums.curves import ratio
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.results import Shown
from dynamics.errors import InputError

Resampler = Callable[[NDArray[np.floating]], Floats]

FEW_DOCUMENTS = 50
_BLOCK = 4_000_000  # numbers in one block of float64 weights: 32 MB


@dataclass(frozen=True, slots=True, repr=False)
class Resampling(Shown):
    """How documents are resampled (the bootstrap), for estimates that are no mean.

    Attributes
    ----------
    n : int
        Resamples.
    level : float
        Coverage wanted of the interval, in (0, 1).
    seed : int
        Of the draws. Two curves over the same documents are resampled in pairs where both have the same seed.

    Raises
    ------
    InputError
        For fewer than one resample, or a level that is not a share.
    """

    n: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"{self.n} resamples give no interval; use 1000 or more")
        require_share(self.level)


def resampling_of(
    resampling: Resampling | None, *, n_resamples: int | None, level: float | None, seed: int | None
) -> Resampling:
    """Return how to resample, from a `Resampling` or from the three settings that came before it.

    Raises
    ------
    InputError
        If both are given.

    Warns
    -----
    DeprecationWarning
        For one of the three, in the name of the caller's caller.
    """
    old = {"n_resamples": n_resamples, "level": level, "seed": seed}
    given = {name: value for name, value in old.items() if value is not None}
    if not given:
        return resampling or Resampling()
    if resampling is not None:
        raise InputError(f"{', '.join(given)} and resampling say the same; give resampling=Resampling(...) alone")
    new: dict[str, Any] = {"n" if name == "n_resamples" else name: value for name, value in given.items()}
    written = ", ".join(f"{name}={value!r}" for name, value in new.items())
    warnings.warn(
        f"{', '.join(given)} are deprecated: write resampling=Resampling({written})", DeprecationWarning, stacklevel=3
    )
    return Resampling(**new)


def document_weights(
    n_documents: int,
    resampling: Resampling | int | None = None,
    seed: int | None = None,
    *,
    n_resamples: int | None = None,
) -> NDArray[np.float32]:
    """Return how often each document is drawn in each resample.

    Parameters
    ----------
    n_documents : int
    resampling : Resampling, optional
        Its `level` is not used. An int, `n_resamples` and `seed` are deprecated.

    Returns
    -------
    ndarray of float32, shape (R, D)
        Multinomial counts; every row sums to D.
    """
    if isinstance(resampling, int):
        resampling, n_resamples = None, resampling
    how = resampling_of(resampling, n_resamples=n_resamples, level=None, seed=seed)
    rng = np.random.default_rng(how.seed)
    weights = np.empty((how.n, n_documents), dtype=np.float32)
    for row in weights:
        row[:] = np.bincount(rng.integers(n_documents, size=n_documents), minlength=n_documents)
    return weights


def resampled_curves(ds: DocumentSums, weights: NDArray[np.floating]) -> Floats:
    """Return the curve of every resample, shape (R, E, K): ratios of weighted sums.

    Parameters
    ----------
    ds : DocumentSums
    weights : ndarray, shape (R, D)
        How often each document counts in each resample.
    """
    return resampler(ds)(weights)


def resampler(ds: DocumentSums) -> Resampler:
    """Return the function from weights, shape (R, D), to the curves of the resamples, shape (R, E, K)."""
    n_epochs, n_documents, n_buckets = ds.sums.shape
    sums = np.moveaxis(ds.sums, 1, 0).reshape(n_documents, n_epochs * n_buckets)
    # Counts are (D, K), or (E, D, K) where tokens move between buckets.
    counts = ds.counts if ds.counts.ndim == 2 else np.moveaxis(ds.counts, 1, 0).reshape(n_documents, -1)
    both = np.concatenate([sums, counts], axis=1)

    def curves(weights: NDArray[np.floating]) -> Floats:
        if weights.ndim != 2 or weights.shape[1] != n_documents:
            raise InputError(f"weights of shape {weights.shape} do not fit {n_documents} documents")
        # In blocks, since the product needs the weights as float64.
        n_blocks = -(-weights.size // _BLOCK)
        products = [block @ both for block in np.array_split(weights, max(1, n_blocks))]
        product = np.concatenate(products)
        summed = product[:, : sums.shape[1]].reshape(-1, n_epochs, n_buckets)
        return ratio(summed, product[:, sums.shape[1] :].reshape(len(product), -1, n_buckets))

    return curves


def warn_few(n_documents: int) -> None:
    """Warn of an interval over few documents, in the name of the caller's caller."""
    if n_documents < FEW_DOCUMENTS:
        warnings.warn(
            f"intervals over {n_documents} documents are unreliable, most of all too narrow; "
            f"record {FEW_DOCUMENTS} or more",
            UserWarning,
            stacklevel=3,
        )


def percentiles(values: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the lower and the upper end of the middle share `level` of (R, ...) values, NaN left out."""
    require_share(level)
    tails = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    missing = np.isnan(values)
    if not missing.any():
        low, high = np.quantile(values, tails, axis=0)
        return low, high
    # A resample may miss every document of a small bucket and is then left out. (nanquantile is
    # slow, and would warn of columns that hold nothing but NaN.)
    empty = missing.all(axis=0)
    low, high = np.nanquantile(np.where(empty, 0.0, values), tails, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
