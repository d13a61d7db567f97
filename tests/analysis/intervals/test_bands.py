from __future__ import annotations

import warnings

import numpy as np
import pytest
from support.hand_made import sums_of

from dynamics.analysis.intervals.bands import curve_interval, gap_interval, generalises_over
from dynamics.analysis.intervals.contributions import contributions_of
from dynamics.analysis.intervals.over_documents import over_documents
from dynamics.analysis.intervals.over_seeds_and_documents import (
    over_seeds_and_documents,
    over_seeds_and_two_sets_of_documents,
)
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.errors import InputError


def parts_of(n_seeds: int, n_documents: int = 20, seed: int = 0) -> list[DocumentSums]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 40, (n_documents, 2)).astype(float)
    return [sums_of(rng.normal(2 + s, 1, (4, n_documents, 2)) * counts, counts) for s in range(n_seeds)]


def test_a_curve_over_seeds_and_documents_and_over_documents() -> None:
    parts = parts_of(3)
    stacked = np.stack([part.sums for part in parts])
    interval = curve_interval(parts, level=0.9)
    by_hand = over_seeds_and_documents(contributions_of(stacked, parts[0].counts[None])).interval(0.9)
    np.testing.assert_allclose((interval.low, interval.high), (by_hand.low, by_hand.high))
    np.testing.assert_allclose(interval.estimate, stacked.sum(axis=(0, 2)) / 3 / parts[0].counts.sum(axis=0))
    fixed = curve_interval(parts, over="documents")
    by_hand = over_documents(contributions_of(stacked.mean(axis=0, keepdims=True), parts[0].counts[None])).interval(
        0.95
    )
    np.testing.assert_allclose((fixed.low, fixed.high), (by_hand.low, by_hand.high))
    # Seeds differ by one nat each here.
    assert (fixed.high - fixed.low < 0.5 * (interval.high - interval.low)).all()


def test_what_is_generalised_over() -> None:
    parts = parts_of(2)
    moving = [DocumentSums(p.sums, np.repeat(p.counts[None], 4, 0), p.epochs, p.labels, p.documents) for p in parts]
    assert generalises_over(parts) == "seeds_and_documents"
    assert generalises_over(parts[:1]) == generalises_over(moving) == "documents"
    assert curve_interval(moving).estimate.shape == (4, 2)
    with pytest.raises(InputError, match="moving buckets"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve_interval(moving, over="seeds_and_documents")
    with pytest.raises(InputError, match="1 seed says nothing"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve_interval(parts[:1], over="seeds_and_documents")


def test_few_seeds_and_few_documents_are_told() -> None:
    with pytest.warns(UserWarning, match="2 seeds hardly know"):
        curve_interval(parts_of(2))
    with pytest.warns(UserWarning, match="over 14 documents"):
        curve_interval(parts_of(3, 14))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve_interval(parts_of(3, 15))
        curve_interval(parts_of(2), over="documents")


def test_a_gap_pairs_seeds() -> None:
    validation, train = parts_of(3, 20), parts_of(3, 40, seed=1)
    interval = gap_interval(validation, train)
    sides = [contributions_of(np.stack([p.sums for p in each]), each[0].counts[None]) for each in (validation, train)]
    by_hand = over_seeds_and_two_sets_of_documents(*sides).interval(0.95)
    np.testing.assert_allclose((interval.low, interval.high), (by_hand.low, by_hand.high))
    assert (gap_interval(validation, train, over="documents").high <= interval.high).all()
    with pytest.raises(InputError, match="same epochs and buckets"):
        gap_interval(validation, [sums_of(p.sums[:2], p.counts) for p in train])


def test_a_nan_is_in_its_place_alone() -> None:
    parts = parts_of(3)
    parts[1].sums[2, 5, 1] = np.nan
    interval = curve_interval(parts)
    assert np.argwhere(np.isnan(interval.low)).tolist() == np.argwhere(np.isnan(interval.estimate)).tolist() == [[2, 1]]
