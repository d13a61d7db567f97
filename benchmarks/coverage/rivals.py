"""Other intervals, beside which the library's stand: those that it had before, and what else is in use.

Each takes sums (S, D, K) and tokens (D, K) of K studies and returns the ends of an interval of a difference, two arrays
of shape (K,).

Shape suffixes: R resamples, S seeds, D documents, K studies.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student

from dynamics.analysis.tokens.token_records import Floats

N_RESAMPLES = 1000

Ends = tuple[Floats, Floats]


def resampled_documents(sums: Floats, counts: Floats, rng: np.random.Generator) -> Floats:
    """Return the means of resampled documents, (R, K), of the seeds' average: the library's before, over documents."""
    weights = _draws(len(counts), rng)
    means: Floats = (weights @ sums.mean(axis=0)) / (weights @ counts)
    return means


def pigeonhole(sums: Floats, counts: Floats, rng: np.random.Generator) -> Floats:
    """Return the means of resampled seeds and documents, (R, K): the library's before, over seeds and documents.

    Owen (2007), The pigeonhole bootstrap; of S seeds, S - 1 are drawn.
    """
    n_seeds = len(sums)
    weights = _draws(len(counts), rng)
    seeds = rng.multinomial(n_seeds - 1, np.full(n_seeds, 1.0 / n_seeds), size=N_RESAMPLES) / (n_seeds - 1)
    total = np.zeros((N_RESAMPLES, counts.shape[1]))
    for s, one in enumerate(sums):
        total += seeds[:, s, None] * (weights @ one)
    means: Floats = total / (weights @ counts)
    return means


def percentiles(resampled: Floats, level: float) -> Ends:
    """Return the percentile interval of resampled means (R, K)."""
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(resampled, [tail, 100.0 - tail], axis=0)
    return low, high


def satterthwaite(sums: Floats, counts: Floats, level: float) -> Ends:
    """Return the t interval from crossed variance components with Satterthwaite's (1946) degrees of freedom."""
    n_seeds, n_documents = sums.shape[:2]
    total = counts.sum(axis=0)
    mean = sums.sum(axis=(0, 1)) / (n_seeds * total)
    off = (sums - mean * counts) / (total / n_documents)
    seeds = off.mean(axis=1)
    documents = off.mean(axis=0)
    rest = off - seeds[:, None] * counts / (total / n_documents) - documents
    documents = documents / (1.0 - counts / total)
    between = n_documents * (seeds**2).sum(axis=0) / (n_seeds - 1)
    of_documents = n_seeds * (documents**2).sum(axis=0) / n_documents
    error = (rest**2).sum(axis=(0, 1)) / ((n_seeds - 1) * (n_documents - 1))
    a, b = np.maximum(between, error), np.maximum(of_documents, error)
    effective = np.maximum(1.0, total**2 / (counts**2).sum(axis=0) - 1.0)
    degrees = (a + b - error) ** 2 / (a**2 / (n_seeds - 1) + b**2 / effective + error**2 / ((n_seeds - 1) * effective))
    half = student.isf((1.0 - level) / 2.0, np.maximum(1.0, degrees)) * np.sqrt(
        (a + b - error) / (n_seeds * n_documents)
    )
    return mean - half, mean + half


def over_seeds(sums: Floats, counts: Floats, level: float) -> Ends:
    """Return the t interval over seeds, as if documents were the only ones there are."""
    means = sums.sum(axis=1) / counts.sum(axis=0)
    half = student.isf((1.0 - level) / 2.0, len(means) - 1) * means.std(axis=0, ddof=1) / np.sqrt(len(means))
    return means.mean(axis=0) - half, means.mean(axis=0) + half


def over_documents(sums: Floats, counts: Floats, level: float) -> Ends:
    """Return the t interval over documents with D - 1 degrees of freedom, from the linearised variance of a ratio."""
    total, n = counts.sum(axis=0), len(counts)
    average = sums.mean(axis=0)
    mean = average.sum(axis=0) / total
    off = (average - mean * counts) / total
    half = student.isf((1.0 - level) / 2.0, n - 1) * np.sqrt((off**2).sum(axis=0) * n / (n - 1))
    return mean - half, mean + half


def _draws(n: int, rng: np.random.Generator) -> Floats:
    return rng.multinomial(n, np.full(n, 1.0 / n), size=N_RESAMPLES).astype(np.float64)
