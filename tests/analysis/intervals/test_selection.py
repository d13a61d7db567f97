from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.hand_made import sums_of

import dynamics.analysis.intervals.selection as selection
from dynamics.analysis.intervals.contributions import Contributions
from dynamics.analysis.intervals.selection import about_one_seed, best_contributions, n_splits, random_halves
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError

CURVE = np.array([0.5, 0.02, 0.0, 0.01, 0.3])


@pytest.fixture
def few_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that loops can do it."""
    monkeypatch.setattr(selection, "n_splits", lambda n: 7)
    random_halves.cache_clear()
    yield
    random_halves.cache_clear()


def drawn(rng: np.random.Generator, n_seeds: int, n_documents: int, *, noise: float = 0.3) -> tuple[Floats, Floats]:
    """Return sums (S, E, D) and counts (D,)."""
    n = rng.integers(5, 60, n_documents).astype(float)
    means = CURVE[:, None] + rng.normal(0, noise, (n_seeds, len(CURVE), n_documents))
    return means * n, n


def parts_of(y: Floats, n: Floats) -> list[DocumentSums]:
    return [sums_of(one[:, :, None], n[:, None]) for one in y]


def by_loops(y: Floats, n: Floats, halves: Floats) -> tuple[float, Floats]:
    """Return the value at the best epoch, and each seed's, one half, seed and document at a time."""
    n_seeds, n_epochs, n_documents = y.shape
    total = np.zeros(n_seeds)
    for s in range(n_seeds):
        choosers = [r for r in range(n_seeds) if r != s] or [s]
        for half in halves:
            curve = [sum(y[r, e, d] for r in choosers for d in range(n_documents) if half[d]) for e in range(n_epochs)]
            epoch = curve.index(min(curve))
            total[s] += sum(y[s, epoch, d] for d in range(n_documents) if not half[d]) / (len(halves) / 2)
    return total.sum() / (n_seeds * n.sum()), total / n.sum()


@pytest.mark.parametrize(("n_seeds", "n_documents"), [(3, 9), (2, 8), (1, 11), (4, 5)])
def test_every_number_by_brute_force(few_halves: None, n_seeds: int, n_documents: int) -> None:
    y, n = drawn(np.random.default_rng(n_seeds), n_seeds, n_documents)
    found = best_contributions(parts_of(y, n))
    halves = random_halves(n_documents, 0)
    mean, by_seed = by_loops(y, n, halves)
    assert found.estimate[0] == pytest.approx(mean, rel=1e-12)
    np.testing.assert_allclose(found.seeds[:, 0], by_seed - mean, atol=1e-12)
    assert found.documents_anew is not None
    moved = False
    for d in range(n_documents):
        kept = [i for i in range(n_documents) if i != d]
        without, _ = by_loops(y[:, :, kept], n[kept], halves[:, kept])
        assert found.documents_anew[d, 0] == pytest.approx(mean - without, abs=1e-12)
        moved |= abs(found.documents_anew[d, 0] - found.documents[d, 0]) > 1e-6
    # Leaving a document out does change choices here.
    assert moved
    if n_seeds < 3:
        assert found.seeds_anew is None
        return
    for s in range(n_seeds):
        again, _ = by_loops(np.delete(y, s, 0), n, halves)
        assert found.seeds_anew is not None
        assert found.seeds_anew[s, 0] == pytest.approx((n_seeds - 1) * (mean - again), abs=1e-12)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_one_epoch_for_all_buckets_by_brute_force(few_halves: None, n_seeds: int) -> None:
    """Chosen by the sums of both buckets, measured in each; the second bucket has no tokens in one document."""
    rng = np.random.default_rng(20 + n_seeds)
    n_documents = 8
    first, n = drawn(rng, n_seeds, n_documents)
    second, m = drawn(rng, n_seeds, n_documents)
    second[:, :, 3], m[3] = 0.0, 0.0
    found = best_contributions(
        [sums_of(np.stack([one, two], -1), np.stack([n, m], -1)) for one, two in zip(first, second, strict=True)],
        together=True,
    )
    halves = random_halves(n_documents, 0)

    def mean_at_best(k: int, kept: list[int]) -> float:
        y, tokens = ((first, n), (second, m))[k]
        by = first + second
        total = 0.0
        for s in range(n_seeds):
            choosers = [r for r in range(n_seeds) if r != s] or [s]
            for half in halves:
                chosen = [d for d in kept if half[d]]
                epoch = int(by[choosers][:, :, chosen].sum(axis=(0, 2)).argmin())
                total += y[s, epoch, [d for d in kept if not half[d]]].sum() / (len(halves) / 2)
        return float(total / (n_seeds * tokens[kept].sum()))

    every = list(range(n_documents))
    assert found.documents_anew is not None
    for k in (0, 1):
        mean = mean_at_best(k, every)
        assert found.estimate[k] == pytest.approx(mean, rel=1e-12)
        for d in every:
            without = mean_at_best(k, [i for i in every if i != d])
            assert found.documents_anew[d, k] == pytest.approx(mean - without, abs=1e-12)
    # A document without tokens in a bucket still has a say in which epoch is the best.
    assert found.documents[3, 1] == 0
    apart = best_contributions(
        [sums_of(np.stack([one, two], -1), np.stack([n, m], -1)) for one, two in zip(first, second, strict=True)]
    )
    assert (apart.estimate != found.estimate).all()


def test_one_epoch_for_all_buckets_on_a_part_that_is_kept_for_it() -> None:
    y, n = drawn(np.random.default_rng(31), 3, 10)
    tuning, m = drawn(np.random.default_rng(32), 3, 4)
    both = [sums_of(np.stack([one, 3 * one[::-1]], -1), np.stack([n, n], -1)) for one in y]
    kept = [sums_of(np.stack([one, one[::-1]], -1), np.stack([m, m], -1)) for one in tuning]
    found = best_contributions(both, chosen_on=kept, together=True)
    curve = tuning + tuning[:, ::-1]
    best = [int(np.delete(curve, s, 0).sum(axis=(0, 2)).argmin()) for s in range(3)]
    expected = [np.mean([y[s, e].sum() / n.sum() for s, e in enumerate(best)])]
    expected.append(np.mean([3 * y[s, 4 - e].sum() / n.sum() for s, e in enumerate(best)]))
    np.testing.assert_allclose(found.estimate, expected, rtol=1e-12)


def test_what_is_not_finite_has_no_best_epoch() -> None:
    y, n = drawn(np.random.default_rng(33), 3, 6)
    y[0, 1, 2] = np.inf
    assert np.isnan(best_contributions(parts_of(y, n)).estimate[0])
    two = [sums_of(np.stack([np.zeros_like(one), one], -1), np.stack([n, n], -1)) for one in y]
    assert np.isnan(best_contributions(two).estimate).tolist() == [False, True]
    assert np.isnan(best_contributions(two, together=True).estimate).all()


def test_an_epoch_is_chosen_on_other_seeds_and_other_documents() -> None:
    """A value that only one seed has, or only half of the documents, is not chosen by those who have it."""
    n = np.ones(40)
    y = np.ones((3, 4, 40)) + np.array([0.0, 0.0, 0.0, 1.0])[:, None]
    alone = y.copy()
    alone[1, 2] = 0.0  # seed 1 alone has a low value at epoch 2
    found = best_contributions(parts_of(alone, n))
    # The others choose epoch 2 by seed 1, and have nothing of it; seed 1 is measured where the others are lowest.
    assert found.estimate[0] == pytest.approx(1.0)
    assert best_contributions(parts_of(y, n)).estimate[0] == pytest.approx(1.0)


def test_a_clear_best_epoch_is_the_linear_estimate() -> None:
    y, n = drawn(np.random.default_rng(5), 3, 30, noise=0.001)
    y += np.array([5.0, 5.0, 0.0, 5.0, 5.0])[:, None] * n
    found = best_contributions(parts_of(y, n))
    assert found.estimate[0] == pytest.approx(y[:, 2].sum() / (3 * n.sum()), rel=1e-12)
    assert found.documents_anew is not None and found.seeds_anew is not None
    np.testing.assert_allclose(found.documents_anew, found.documents, atol=1e-12)
    np.testing.assert_allclose(found.seeds_anew, found.seeds, atol=1e-12)


def test_blocks_and_buckets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    y, n = drawn(np.random.default_rng(6), 3, 20)
    whole = best_contributions(parts_of(y, n))
    monkeypatch.setattr(selection, "_BLOCK", 3000)
    blocks = best_contributions(parts_of(y, n))
    np.testing.assert_allclose(blocks.documents_anew, whole.documents_anew, atol=1e-13)
    two = [sums_of(np.stack([one, 2 * one], -1), np.stack([n, n], -1)) for one in y]
    both = best_contributions(two)
    np.testing.assert_allclose(both.estimate, [whole.estimate[0], 2 * whole.estimate[0]])


def test_documents_without_tokens_are_left_out_of_the_halves() -> None:
    y, n = drawn(np.random.default_rng(7), 3, 12)
    more = np.insert(y, 4, 0.0, axis=2), np.insert(n, 4, 0.0)
    found, plain = best_contributions(parts_of(*more)), best_contributions(parts_of(y, n))
    assert found.estimate[0] == plain.estimate[0] and found.degrees[0] == plain.degrees[0]
    np.testing.assert_allclose(np.delete(found.documents_anew, 4, 0), plain.documents_anew, atol=1e-15)  # type: ignore[arg-type]
    assert found.documents[4, 0] == 0 and not found.residuals[:, 4].any()


def test_nan_and_buckets_of_few_documents() -> None:
    y, n = drawn(np.random.default_rng(8), 3, 6)
    sums = np.stack([y, y, y], -1)
    counts = np.stack([n, n, n], -1)
    sums[0, 3, 2, 0] = np.nan
    sums[..., 1:, 1], counts[1:, 1] = 0, 0
    found = best_contributions([sums_of(one, counts) for one in sums])
    assert np.isnan(found.estimate).tolist() == [True, True, False]
    # Two documents: one chooses, one is measured; with one left out there is nothing to choose on.
    two = best_contributions(parts_of(y[:, :, :2], n[:2]))
    assert np.isfinite(two.estimate).all() and np.isnan(two.documents_anew).all()  # type: ignore[arg-type]


def test_chosen_on_a_part_that_is_kept_for_it() -> None:
    y, n = drawn(np.random.default_rng(9), 3, 10)
    tuning, m = drawn(np.random.default_rng(10), 3, 4)
    found = best_contributions(parts_of(y, n), chosen_on=parts_of(tuning, m))
    best = [int(np.delete(tuning, s, 0).sum(axis=(0, 2)).argmin()) for s in range(3)]
    at_best = np.stack([y[s, e] for s, e in enumerate(best)])
    mean = at_best.sum() / (3 * n.sum())
    assert found.estimate[0] == pytest.approx(mean)
    for d in range(10):
        without = np.delete(at_best, d, 1).sum() / (3 * np.delete(n, d).sum())
        assert found.documents_anew[d, 0] == pytest.approx(mean - without, abs=1e-13)  # type: ignore[index]
    with pytest.raises(InputError, match="same seeds, epochs and buckets"):
        best_contributions(parts_of(y, n), chosen_on=parts_of(tuning, m)[:2])
    with pytest.raises(InputError, match="same seeds, epochs and buckets"):
        best_contributions(parts_of(y, n), chosen_on=parts_of(tuning[:, :3], m))


def test_a_bucket_without_tokens_to_choose_on_has_no_best_epoch() -> None:
    # Sums of 0 would make the first epoch the best one.
    y, n = drawn(np.random.default_rng(9), 3, 10)
    tuning, m = drawn(np.random.default_rng(10), 3, 4)
    found = best_contributions(parts_of(y, n), chosen_on=parts_of(0 * tuning, 0 * m))
    assert np.isnan(found.estimate).all()


def test_moving_buckets_are_refused_and_one_seed_is_told() -> None:
    y, n = drawn(np.random.default_rng(11), 2, 5)
    moving: list[Any] = [
        DocumentSums(p.sums, np.repeat(p.counts[None], 5, 0), p.epochs, p.labels, p.documents) for p in parts_of(y, n)
    ]
    with pytest.raises(InputError, match="not chosen in moving buckets"):
        best_contributions(moving)
    assert about_one_seed(2) is None and "one seed" in str(about_one_seed(1))


def test_so_many_halves_that_which_were_drawn_hardly_matters() -> None:
    assert (n_splits(10), n_splits(100), n_splits(100_000)) == (2000, 1500, 50)
    halves = random_halves(9, 3)
    assert halves.shape == (4000, 9) and set(halves.sum(axis=1)) == {4.0, 5.0}
    assert (halves[:2000] + halves[2000:] == 1).all()
    y, n = drawn(np.random.default_rng(12), 3, 70, noise=0.15)
    values = [best_contributions(parts_of(y, n), seed=seed).estimate[0] for seed in range(4)]
    assert np.std(values) < 0.0005
    assert isinstance(best_contributions(parts_of(y, n)), Contributions)
