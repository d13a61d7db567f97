"""The example's comparisons, computed again from its per-token records: numpy and the definitions, nothing of ours.

Slow and plain on purpose: what is left out is left out and all is computed again, equations are solved by bisection, and
nothing of dynamics.analysis is imported but the two functions whose answers are tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from dynamics import load_example
from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts

ARMS = tuple(load_example().arms)
CLOSE = {"rtol": 0.0, "atol": 1e-10}


@dataclass
class Estimate:
    """An estimate, and what seeds, documents and both together make of it; again with every choice made anew."""

    value: float
    seeds: np.ndarray  # (S,)
    documents: np.ndarray  # (D,)
    rest: np.ndarray  # (S, D)
    documents_anew: np.ndarray
    seeds_anew: np.ndarray
    degrees: float

    def __sub__(self, other):
        return Estimate(
            *(getattr(self, name) - getattr(other, name) for name in list(self.__dataclass_fields__)[:-1]),
            min(self.degrees, other.degrees),
        )


@cache
def tokens(arm, bucket):
    """Return sums (S, E, D) of the losses of validation tokens in a bucket ("all", "low", "high"), and counts (D,)."""
    study = load_example()
    train = study.run("baseline", 0).records("train")
    median = np.quantile(train.reference_entropy[train.predicted].astype(float), 0.5)
    sums = []
    for seed in study.seeds:
        run = study.run(arm, seed)
        records = run.records("validation")
        chosen = records.predicted.copy()
        if bucket != "all":
            high = records.reference_entropy >= median
            chosen &= high if bucket == "high" else ~high
        ids = np.unique(records.document_id[records.predicted])
        row = np.searchsorted(ids, records.document_id[chosen])
        losses = [records.loss(epoch)[chosen].astype(float) for epoch in run.epochs]
        sums.append([np.bincount(row, loss, minlength=len(ids)) for loss in losses])
        counts = np.bincount(row, minlength=len(ids)).astype(float)
    return np.array(sums), counts


def degrees_of_freedom(n):
    """Bell and McCaffrey (2002): tr(M)^2 / tr(M^2) with the matrix written out."""
    w = n / n.sum()
    g = np.diag(w / (1 - w)) @ (np.eye(len(n)) - np.outer(np.ones(len(n)), w))
    m = g @ g.T
    return np.trace(m) ** 2 / np.trace(m @ m)


def linear(y, n):
    """Return the estimate sum y / (S sum n) of sums (S, D), every document and seed left out in turn."""
    n_seeds, n_documents = y.shape
    mean = y.sum() / (n_seeds * n.sum())
    seeds = y.sum(axis=1) / n.sum() - mean
    documents = np.array([mean - np.delete(y, d, 1).sum() / (n_seeds * (n.sum() - n[d])) for d in range(n_documents)])
    off = y - mean * n
    rest = off - np.outer(off.sum(axis=1), n / n.sum()) - off.mean(axis=0)
    rest *= math.sqrt(n_documents / (n_documents - 1)) / n.sum()
    return Estimate(mean, seeds, documents, rest, documents, seeds, degrees_of_freedom(n))


@cache
def halves(n_documents):
    rng = np.random.default_rng(0)
    n = min(2000, max(50, 150_000 // n_documents))
    chosen = np.zeros((n, n_documents), dtype=bool)
    for row in chosen:
        row[rng.permutation(n_documents)[: n_documents // 2]] = True
    return np.concatenate([chosen, ~chosen])


def at_best(y, chosen):
    """Return each seed's sums at the epoch that is best for the other seeds on the other documents, (S, D).

    `chosen` are the documents of each half, (H, D), which may be fewer than all. Each document is measured in the
    halves where nothing is chosen on it.
    """
    n_seeds, n_epochs, n_documents = y.shape
    values = np.zeros((n_seeds, n_documents))
    for s in range(n_seeds):
        others = np.delete(y, s, axis=0).sum(axis=0)
        best = np.argmin(chosen.astype(float) @ others.T, axis=1)
        for e in range(n_epochs):
            values[s] += y[s, e] * (~chosen[best == e]).sum(axis=0)
    return values / (len(chosen) / 2)


def best(y, n):
    n_seeds, _, n_documents = y.shape
    chosen = halves(n_documents)
    found = linear(at_best(y, chosen), n)
    for d in range(n_documents):
        without = at_best(np.delete(y, d, 2), np.delete(chosen, d, 1)).sum() / (n_seeds * (n.sum() - n[d]))
        found.documents_anew = found.documents_anew.copy()
        found.documents_anew[d] = found.value - without
    again = [at_best(np.delete(y, s, 0), chosen).sum() / ((n_seeds - 1) * n.sum()) for s in range(n_seeds)]
    found.seeds_anew = (n_seeds - 1) * (found.value - np.array(again))
    return found


@cache
def estimate(arm, quantity, bucket="all"):
    y, n = tokens(arm, bucket)
    if quantity == "final":
        return linear(y[:, -1], n)
    if quantity == "area":
        return linear(np.trapezoid(y, axis=1) / (y.shape[1] - 1), n)
    if quantity == "best":
        return best(y, n)
    return estimate(arm, "final", bucket) - estimate(arm, "best", bucket)


class Inference:
    """Interval and p-values of an estimate over seeds and documents, as docs/analysis.md defines them."""

    def __init__(self, one):
        n_seeds, n_documents = one.rest.shape
        pairs = n_seeds * (n_seeds - 1)
        together = (one.rest**2).sum() / pairs
        anew = one.seeds_anew - one.seeds_anew.mean()
        seeds = max((one.seeds**2).sum(), (anew**2).sum()) / pairs
        documents = max((one.documents**2).sum(), (one.documents_anew**2).sum())
        self.value = one.value
        self.variances = [max(part, together) - together / 2 for part in (seeds, documents)]
        self.degrees = [n_seeds - 1, one.degrees]
        self.error = math.sqrt(sum(self.variances))
        skewness = (one.documents**3).sum() / (one.documents**2).sum() ** 1.5
        skewness *= math.sqrt(n_documents * (n_documents - 1)) / (n_documents - 2) * n_documents / (n_documents - 2)
        self.skewness = skewness * (self.variances[1] / sum(self.variances)) ** 1.5

    def critical(self, tail):
        parts = zip(self.variances, self.degrees, strict=True)
        return sum(variance * student.isf(tail, degrees) for variance, degrees in parts) / sum(self.variances)

    def turned(self, x):
        g = self.skewness
        return x + g * x**2 / 3 + g**2 * x**3 / 27 + g / 6

    def interval(self, level):
        far = self.critical((1 - level) / 2)
        solved = [brentq(lambda x, end=end: self.turned(x) - end, -1e3, 1e3, xtol=1e-14) for end in (far, -far)]
        return self.value - self.error * max(far, solved[0]), self.value - self.error * min(-far, solved[1])

    def tail(self, statistic):
        """Return the one-sided p-value of a statistic: Cochran's critical value turned round."""
        if statistic < 0:
            return 1 - self.tail(-statistic)
        return math.exp(brentq(lambda log: self.critical(math.exp(log)) - statistic, -600, math.log(0.5), xtol=1e-13))

    def above(self, bound):
        x = (self.value - bound) / self.error
        return max(self.tail(x), self.tail(self.turned(x)))

    def below(self, bound):
        x = (self.value - bound) / self.error
        return max(self.tail(-x), self.tail(-self.turned(x)))

    @property
    def p_value(self):
        return min(1.0, 2 * min(self.above(0), self.below(0)))


def holm(p_values):
    adjusted, most = np.empty(len(p_values)), 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        most = max(most, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(1.0, most)
    return adjusted


def benjamini_hochberg(p_values):
    ordered = sorted(p_values)
    by_rank = {
        p: min(min(1.0, len(ordered) / (r + 1) * ordered[r]) for r in range(ordered.index(p), len(ordered)))
        for p in ordered
    }
    return [by_rank[p] for p in p_values]


@pytest.fixture(scope="module")
def example():
    return load_example()


@pytest.mark.parametrize("quantity", ["final", "best", "rebound", "area"])
def test_every_comparison_with_the_baseline(example, quantity):
    rows = compare_arms(example, baseline="baseline", quantity=quantity, margin=0.02)
    pairs = [((arm, quantity), ("baseline", quantity)) for arm in ARMS[1:]]
    if quantity == "final":
        pairs += [((arm, "final"), ("baseline", "best")) for arm in ARMS[1:]]
        pairs.append((("baseline", "best"), ("baseline", "final")))
    expected = [Inference(estimate(*first) - estimate(*second)) for first, second in pairs]
    names = [tuple(arm + " (early stopping)" * (q != quantity) for arm, q in pair) for pair in pairs]
    assert [(row.arm, row.other) for row in rows] == names
    for row, known in zip(rows, expected, strict=True):
        assert (row.over, row.n_seeds, row.same_seeds) == ("seeds_and_documents", (3, 3), True)
        np.testing.assert_allclose((row.estimate, row.low, row.high), (known.value, *known.interval(0.95)), **CLOSE)
        lower = 1 - known.below(0) if known.value < 0 else known.above(0)
        np.testing.assert_allclose((row.p_value, row.probability), (known.p_value, lower), **CLOSE)
        inside = max(known.below(0.02), known.above(-0.02))
        np.testing.assert_allclose(row.p_equivalent, inside, **CLOSE)
    p_values = [known.p_value for known in expected]
    np.testing.assert_allclose([row.p_holm for row in rows], holm(p_values), **CLOSE)
    np.testing.assert_allclose([row.p_bh for row in rows], benjamini_hochberg(p_values), **CLOSE)


@pytest.mark.parametrize("quantity", ["final", "rebound"])
def test_contrasts_of_halves_and_their_interactions(example, quantity):
    rows = bucket_contrasts(example, quantity=quantity)
    contrasts = {arm: estimate(arm, quantity, "high") - estimate(arm, quantity, "low") for arm in ARMS}
    expected = [("", Inference(contrasts[arm])) for arm in ARMS]
    expected += [("baseline", Inference(contrasts[arm] - contrasts["baseline"])) for arm in ARMS[1:]]
    for row, (other, known) in zip(rows, expected, strict=True):
        assert (row.other, row.high, row.low) == (other, "high", "low")
        found = (row.estimate, row.interval_low, row.interval_high, row.p_value)
        np.testing.assert_allclose(found, (known.value, *known.interval(0.95), known.p_value), **CLOSE)
    adjusted = [
        *holm([known.p_value for _, known in expected[: len(ARMS)]]),
        *holm([known.p_value for _, known in expected[len(ARMS) :]]),
    ]
    np.testing.assert_allclose([row.p_holm for row in rows], adjusted, **CLOSE)


def test_buckets_are_compared_one_by_one(example):
    rows = compare_arms([example], baseline="baseline", buckets=2, early_stopping=False)
    assert [(row.arm, row.bucket) for row in rows[:4]] == [
        (arm, bucket) for arm in ARMS[1:3] for bucket in ("low", "high")
    ]
    for row in rows:
        known = Inference(estimate(row.arm, "final", row.bucket) - estimate("baseline", "final", row.bucket))
        np.testing.assert_allclose((row.estimate, row.low, row.high), (known.value, *known.interval(0.95)), **CLOSE)
