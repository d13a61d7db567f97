from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynamics.analysis.intervals.bootstrap import bootstrap_curve
from dynamics.analysis.intervals.seeds_and_documents import hierarchical_curve, hierarchical_difference, seed_weights
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError

Array = np.ndarray[Any, Any]


def one_bucket(means: Floats, counts: Floats) -> DocumentSums:
    """Sums of (E, D) means of documents."""
    return DocumentSums(
        (means * counts)[:, :, None], counts[:, None], np.arange(len(means)), ("all",), np.arange(len(counts))
    )


def test_seed_weights_draw_one_less() -> None:
    weights = seed_weights(4, 20_000, seed=0)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(np.unique(weights), [0, 1 / 3, 2 / 3, 1])
    # So that the variance of a weighted mean of (1, 0, 0, 0) is that of a mean: s^2 / 4, s^2 = 1/4.
    assert weights[:, 0].var() == pytest.approx(0.25 / 4, rel=0.03)
    with pytest.raises(InputError, match="1 seed says nothing"):
        seed_weights(1, 10, seed=0)


def test_without_differences_between_seeds_documents_are_all_that_is_left() -> None:
    rng = np.random.default_rng(0)
    ds = one_bucket(rng.normal(3.0, 1.0, (4, 80)), rng.integers(5, 40, 80).astype(float))
    both = hierarchical_curve([ds, ds, ds], seed=5)
    alone = bootstrap_curve(ds, seed=5)
    np.testing.assert_allclose(both.low, alone.low)
    np.testing.assert_allclose(both.high, alone.high)
    np.testing.assert_allclose(both.estimate, alone.estimate)


def test_hierarchical_intervals_cover_over_seeds_and_documents() -> None:
    """300 studies of 5 seeds and 100 documents; half of the variance of the mean is the seeds'."""
    rng = np.random.default_rng(1)
    counts = rng.integers(5, 41, 100).astype(float)
    hits, held_fixed, n_studies = 0, 0, 300
    for i in range(n_studies):
        document = rng.normal(0.0, 1.0, 100)
        parts = [one_bucket((s + document + rng.normal(0, 0.3, 100))[None], counts) for s in rng.normal(0, 0.25, 5)]
        interval = hierarchical_curve(parts, n_resamples=300, seed=i)
        hits += bool(interval.low.item() <= 0 <= interval.high.item())
        fixed = bootstrap_curve(
            one_bucket(np.mean([p.sums[:, :, 0] for p in parts], axis=0) / counts, counts), n_resamples=300
        )
        held_fixed += bool(fixed.low.item() <= 0 <= fixed.high.item())
    # Percentiles of five seeds know nothing of Student's t: a little below 95 %, and far above leaving seeds out.
    assert 0.88 <= hits / n_studies <= 0.98, hits / n_studies
    assert held_fixed / n_studies < 0.86, held_fixed / n_studies


def test_differences_pair_documents_and_seeds() -> None:
    rng = np.random.default_rng(2)
    counts = rng.integers(5, 41, 80).astype(float)
    parts = [one_bucket(rng.normal(3.0, 1.0, 80) + s + np.zeros((2, 80)), counts) for s in (0.0, 0.5, 1.0)]
    better = [one_bucket(part.sums[:, :, 0] / counts - 0.1, counts) for part in parts]
    paired = hierarchical_difference(parts, better, same_seeds=True)
    np.testing.assert_allclose([paired.low, paired.high, paired.estimate], 0.1)
    apart = hierarchical_difference(parts, better, same_seeds=False)
    assert (apart.high - apart.low > 0.3).all()
    with pytest.raises(InputError, match="3 and 2 seeds cannot be resampled in pairs"):
        hierarchical_difference(parts, better[:2], same_seeds=True)
