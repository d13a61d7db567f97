"""Simulated studies whose truth is known: seeds crossed with documents, a thousand studies at a time.

A study takes the place of a bucket: sums are (S, E, D, K) and tokens (1, D, K) with K studies, so that the library's
own functions compute all of them at once.

Shape suffixes: S seeds, E epochs, D documents, K studies.
"""

from __future__ import annotations

import zlib
from dataclasses import astuple, dataclass

import numpy as np

from dynamics.analysis.tokens.token_records import Floats

#: How values of documents are distributed, each with mean 0 and variance 1.
VALUES = ("normal", "t3", "exponential", "lognormal")
#: How many tokens documents have: 100 each, or lognormal with sigma 1 (one in twenty has five times the median).
LENGTHS = ("equal", "unequal")
#: The variance of the mean that seeds make over what documents make; "unit": a seed varies as a document does;
#: "alike": seeds make nothing at all, not even together with documents, where otherwise that is as much as a document.
SEED_VARIANCES = ("alike", "0", "1/4", "1", "4", "unit")


@dataclass(frozen=True, slots=True)
class Crossed:
    """A kind of study: the difference of two arms, measured with some seeds on some documents."""

    seeds: int
    documents: int
    seed_variance: str
    values: str
    lengths: str
    paired: bool


@dataclass(frozen=True, slots=True)
class Documents:
    """A kind of study of trained models that are held fixed."""

    documents: int
    values: str
    lengths: str


def generator(cell: Crossed | Documents | str, again: int = 0) -> np.random.Generator:
    """Return the random numbers of one kind of study: its own, whichever others are simulated."""
    name = cell if isinstance(cell, str) else repr(astuple(cell))
    return np.random.default_rng([zlib.crc32(name.encode()), again])


def draw(values: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return independent values with mean 0 and variance 1."""
    if values == "normal":
        return rng.standard_normal(shape)
    if values == "t3":
        drawn: Floats = rng.standard_t(3, shape) / np.sqrt(3.0)
        return drawn
    if values == "exponential":
        return rng.exponential(size=shape) - 1.0
    assert values == "lognormal", values
    standard: Floats = (rng.lognormal(0.0, 1.0, shape) - np.exp(0.5)) / np.sqrt((np.e - 1.0) * np.e)
    return standard


def tokens(lengths: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return the numbers of tokens of documents."""
    if lengths == "equal":
        return np.full(shape, 100.0)
    assert lengths == "unequal", lengths
    return np.ceil(rng.lognormal(4.0, 1.0, shape))


def crossed_arm(cell: Crossed, rng: np.random.Generator, counts: Floats, share: float = 1.0) -> tuple[Floats, Floats]:
    """Return the sums of an arm whose true mean is 0, and the variance of its mean.

    Parameters
    ----------
    cell : Crossed
    rng : Generator
    counts : ndarray, shape (D, K)
    share : float
        Of all variances.

    Returns
    -------
    sums : ndarray, shape (S, D, K)
    variance : ndarray, shape (K,)
    """
    n_seeds, (n_documents, n_studies) = cell.seeds, counts.shape
    squares = ((counts / counts.sum(axis=0)) ** 2).sum(axis=0)
    of_seed = seed_variance(cell, squares) * share
    seeds = np.sqrt(of_seed) * rng.standard_normal((n_seeds, 1, n_studies))
    documents = np.sqrt(share) * draw(cell.values, rng, (n_documents, n_studies))
    shared = 0.0 if cell.seed_variance == "alike" else 1.0
    together = np.sqrt(shared * share) * rng.standard_normal((n_seeds, n_documents, n_studies))
    variance: Floats = of_seed / n_seeds + squares * share * (1.0 + shared / n_seeds)
    return counts * (seeds + documents + together), variance


def seed_variance(cell: Crossed, squares: Floats) -> Floats:
    """Return the variance between seeds, shape (K,); `squares` are sums of squared shares of tokens."""
    if cell.seed_variance == "unit":
        return np.ones_like(squares)
    ratio = {"alike": 0.0, "0": 0.0, "1/4": 0.25, "1": 1.0, "4": 4.0}[cell.seed_variance]
    return ratio * squares * cell.seeds


def curves(
    rng: np.random.Generator,
    curve: Floats,
    counts: Floats,
    n_seeds: int,
    *,
    jitter: float,
    documents: float = 0.15,
    together: float = 0.1,
) -> Floats:
    """Return the sums of an arm whose loss follows a curve, shape (S, E, D, K).

    Every document has a level (standard deviation 1) and changes from epoch to epoch, alike for all seeds (`documents`)
    and with each seed by itself (`together`); a seed's jitter from epoch to epoch is shared by all its documents. About
    the amounts in the example that ships with the package.
    """
    n_documents, n_studies = counts.shape
    shape = (len(curve), n_documents, n_studies)
    values = (
        curve[:, None, None]
        + rng.standard_normal((n_documents, n_studies))
        + documents * rng.standard_normal(shape)
        + jitter * rng.standard_normal((n_seeds, len(curve), 1, n_studies))
        + together * rng.standard_normal((n_seeds, *shape))
    )
    return counts * values
