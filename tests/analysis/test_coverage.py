"""How often intervals cover the truth: 1,000 simulated studies of 200 documents, tokens correlated within documents."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from dynamics.analysis.intervals.bootstrap import (
    Interval,
    bootstrap_curve,
    bootstrap_statistic,
    document_weights,
    percentiles,
    resampled_curves,
)
from dynamics.analysis.intervals.cross_fitting import cross_fitted_rebound_interval
from dynamics.analysis.sums.curves import mean_curve, rebound
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats

N_STUDIES = 1_000
N_DOCUMENTS = 200
N_RESAMPLES = 300

#: What validation loss does: a clear minimum at epoch 2 and then a rebound of 0.5; or nothing at all.
REBOUNDING = np.array([4.0, 3.3, 3.0, 3.1, 3.3, 3.5])
FLAT = np.full(12, 3.0)
#: By how much the second arm is better, everywhere.
BETTER = 0.05


@dataclass
class Hits:
    """How often intervals held the truth."""

    hits: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, name: str, interval: Interval, truth: Floats | float) -> None:
        inside = (interval.low <= truth) & (truth <= interval.high)
        self.hits.setdefault(name, []).extend(np.ravel(inside).tolist())

    def share(self, name: str) -> float:
        return float(np.mean(self.hits[name]))


class Simulation:
    """Studies of one design: documents of 5 to 40 tokens in two buckets, lengths and buckets the same in all.

    A token's loss is the curve, plus a level of its document (standard deviation 1), plus what the document adds in
    each epoch (0.5), plus its own noise (1): tokens of one document resemble each other. Both arms share the levels.
    """

    def __init__(self, curve: Floats, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.curve = curve
        lengths = self.rng.integers(5, 41, N_DOCUMENTS)
        self.document = np.repeat(np.arange(N_DOCUMENTS), lengths)
        bucket = self.rng.integers(0, 2, len(self.document))
        # In the order of (document, bucket); every document has some of both here.
        order = np.lexsort((bucket, self.document))
        self.bucket = bucket[order]
        cell = 2 * self.document + self.bucket
        self.start = np.flatnonzero(np.diff(cell, prepend=-1))
        self.cell = cell[self.start]
        self.counts = np.bincount(cell, minlength=2 * N_DOCUMENTS).reshape(N_DOCUMENTS, 2).astype(float)

    def tokens(self) -> tuple[Floats, Floats]:
        """Return the losses of both arms, (E, N) each. The second bucket lies 1 above the first."""
        shape = (len(self.curve), N_DOCUMENTS)
        level = self.rng.standard_normal(N_DOCUMENTS)
        arms = []
        for shift in (0.0, BETTER):
            by_document = self.curve[:, None] + level + 0.5 * self.rng.standard_normal(shape) - shift
            own = self.rng.standard_normal((shape[0], len(self.document)), dtype=np.float32)
            arms.append(by_document[:, self.document] + self.bucket + own)
        return arms[0], arms[1]

    def sums(self, tokens: Floats) -> DocumentSums:
        sums = np.zeros((len(self.curve), 2 * N_DOCUMENTS))
        sums[:, self.cell] = np.add.reduceat(tokens, self.start, axis=1)
        return document_sums(sums.reshape(-1, N_DOCUMENTS, 2), self.counts)


def document_sums(sums: Floats, counts: Floats) -> DocumentSums:
    n_epochs, n_documents, n_buckets = sums.shape
    labels = tuple(str(k) for k in range(n_buckets))
    return DocumentSums(sums, counts, np.arange(n_epochs), labels, np.arange(n_documents))


@pytest.fixture(scope="module")
def rebounding() -> Hits:
    simulation = Simulation(REBOUNDING, seed=0)
    weights = document_weights(N_DOCUMENTS, N_RESAMPLES, seed=1)
    n_tokens = len(simulation.document)
    naive_weights = document_weights(n_tokens, N_RESAMPLES, seed=2)
    means = REBOUNDING[:, None] + np.array([0.0, 1.0])
    hits = Hits()
    for i in range(N_STUDIES):
        first, second = simulation.tokens()
        a, b = simulation.sums(first), simulation.sums(second)
        hits.add("bucket means", bootstrap_curve(a, weights=weights), means)
        low, high = percentiles(resampled_curves(a, weights) - resampled_curves(b, weights), 0.95)
        hits.add("paired differences", Interval(low, high, mean_curve(a) - mean_curve(b)), BETTER)
        fitted = cross_fitted_rebound_interval(a, n_resamples=N_RESAMPLES, n_splits=5, seed=i)
        hits.add("cross-fitted rebound", fitted, 0.5)
        # The naive way: every token a document of its own. One epoch is enough to see it.
        alone = document_sums(first[-1:, :, None], np.ones((n_tokens, 1)))
        mean = REBOUNDING[-1] + simulation.bucket.mean()
        hits.add("naive mean", bootstrap_curve(alone, weights=naive_weights), mean)
    return hits


@pytest.mark.parametrize("what", ["bucket means", "paired differences", "cross-fitted rebound"])
def test_intervals_over_documents_cover(rebounding: Hits, what: str) -> None:
    assert 0.93 <= rebounding.share(what) <= 0.97, rebounding.share(what)


def test_a_naive_bootstrap_over_tokens_does_not(rebounding: Hits) -> None:
    assert rebounding.share("naive mean") < 0.65, rebounding.share("naive mean")


def test_a_flat_curve_rebounds_by_nothing_when_cross_fitted_and_by_noise_when_not() -> None:
    simulation = Simulation(FLAT, seed=3)
    weights = document_weights(N_DOCUMENTS, N_RESAMPLES, seed=4)
    hits = Hits()
    for i in range(N_STUDIES):
        ds = simulation.sums(simulation.tokens()[0])
        fitted = cross_fitted_rebound_interval(ds, n_resamples=N_RESAMPLES, n_splits=5, seed=i)
        hits.add("cross-fitted", fitted, 0.0)
        hits.add("plain", bootstrap_statistic(ds, lambda curves: rebound(curves, axis=-2), weights=weights), 0.0)
    assert 0.93 <= hits.share("cross-fitted") <= 0.97, hits.share("cross-fitted")
    assert hits.share("plain") < 0.70, hits.share("plain")
