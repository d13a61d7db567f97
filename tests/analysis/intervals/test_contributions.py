from __future__ import annotations

import numpy as np
import pytest
from support.hand_made import sums_of

from dynamics.analysis.intervals.contributions import (
    Contributions,
    contributions_of,
    curve_contributions,
    document_degrees,
)
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError

S, E, D, K = 3, 4, 9, 2


@pytest.fixture
def drawn() -> tuple[Floats, Floats]:
    """Sums (S, E, D, K) and counts (D, K), with a document that has no token in the second bucket."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 60, (D, K)).astype(float)
    counts[4, 1] = 0
    return rng.normal(3, 1, (S, E, D, K)) * counts, counts


def test_they_are_what_leaving_out_changes(drawn: tuple[Floats, Floats]) -> None:
    sums, counts = drawn
    found = contributions_of(sums, counts[None])
    for e in range(E):
        for k in range(K):
            y, n = sums[:, e, :, k], counts[:, k]
            mean = y.sum() / (S * n.sum())
            assert found.estimate[e, k] == pytest.approx(mean, rel=1e-13)
            for s in range(S):
                assert found.seeds[s, e, k] == pytest.approx(y[s].sum() / n.sum() - mean, abs=1e-13)
            for d in range(D):
                without = np.delete(y, d, 1).sum() / (S * np.delete(n, d).sum())
                assert found.documents[d, e, k] == pytest.approx(mean - without, abs=1e-13)
            used = (n > 0).sum()
            for s in range(S):
                for d in range(D):
                    off = (y[s, d] - mean * n[d]) / n.sum()
                    of_seed = (y[s].sum() / n.sum() - mean) * n[d] / n.sum()
                    of_document = np.mean([(y[r, d] - mean * n[d]) / n.sum() for r in range(S)])
                    rest = np.sqrt(used / (used - 1)) * (off - of_seed - of_document)
                    assert found.residuals[s, d, e, k] == pytest.approx(rest, abs=1e-13)
    assert (found.n_seeds, found.n_documents) == (S, D)
    assert found.documents_anew is None and found.seeds_anew is None


def test_a_weighted_sum_a_contrast_and_a_difference_have_those_of_their_parts(drawn: tuple[Floats, Floats]) -> None:
    sums, counts = drawn
    weights = np.array([0.25, 0.0, -1.0, 2.0])
    # A weighted sum over epochs is a curve of one epoch, whose sums are the weighted sums.
    by_hand = contributions_of(np.einsum("e,sedk->sdk", weights, sums)[:, None], counts[None])
    by_weights = contributions_of(sums, counts[None]).over_epochs(weights)
    for name in ("estimate", "seeds", "documents", "residuals"):
        np.testing.assert_allclose(getattr(by_weights, name), getattr(by_hand, name)[..., 0, :], atol=1e-13)
    contrast = by_weights.contrast(1, 0)
    assert contrast.estimate.shape == (1,) and contrast.documents.shape == (D, 1)
    np.testing.assert_allclose(contrast.estimate[0], by_weights.estimate[1] - by_weights.estimate[0])
    np.testing.assert_allclose(contrast.documents[:, 0], by_weights.documents[:, 1] - by_weights.documents[:, 0])
    assert contrast.degrees[0] == by_weights.degrees.min()
    other = contributions_of(sums[::-1] * 1.5, counts[None]).over_epochs(weights)
    difference = by_weights.minus(other)
    np.testing.assert_allclose(difference.seeds, by_weights.seeds - other.seeds)
    apart = by_weights.minus_other_seeds(other)
    assert apart.n_seeds == 1 and not apart.seeds.any()
    np.testing.assert_allclose(apart.documents, difference.documents)


def test_a_nan_stays_in_its_epoch_and_bucket(drawn: tuple[Floats, Floats]) -> None:
    sums, counts = drawn
    sums[1, 0, 2, 0] = np.nan
    found = contributions_of(sums, counts[None])
    assert np.isnan(found.estimate).tolist() == [[True, False], [False, False], [False, False], [False, False]]
    last = found.over_epochs(np.array([0.0, 0.0, 0.0, 1.0]))
    assert np.isfinite(last.estimate).all() and np.isfinite(last.documents).all()
    assert np.isnan(found.over_epochs(np.ones(E)).estimate).tolist() == [True, False]


def test_an_empty_bucket_and_one_of_a_single_document() -> None:
    sums = np.ones((2, 1, 3, 2))
    counts = np.array([[5.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    sums[..., 1] = 0.0
    sums[:, :, 1:, 0] = 0.0
    found = contributions_of(sums, counts[None])
    assert found.estimate[0, 0] == pytest.approx(0.2) and np.isnan(found.estimate[0, 1])
    # It cannot be left out, and nothing is known of documents.
    assert np.isnan(found.documents[0, 0, 0]) and np.isnan(found.degrees[0]).all()


def test_degrees_of_freedom_are_those_of_the_matrix_written_out() -> None:
    rng = np.random.default_rng(1)
    for n in (
        np.ones(7),
        np.ones(2),
        rng.integers(1, 50, 30).astype(float),
        np.array([30.0, 1, 1, 1]),
        rng.lognormal(4, 1, 70),
    ):
        w = n / n.sum()
        g = np.diag(w / (1 - w)) @ (np.eye(len(n)) - np.outer(np.ones(len(n)), w))
        m = g @ g.T
        expected = max(1.0, np.trace(m) ** 2 / np.trace(m @ m))
        assert document_degrees(w[:, None])[0] == pytest.approx(expected, rel=1e-9)
    assert document_degrees(np.full((7, 1), 1 / 7))[0] == pytest.approx(6.0)
    # A document without tokens is none.
    assert document_degrees(np.array([0.5, 0.25, 0.25, 0.0])[:, None]) == pytest.approx(
        document_degrees(np.array([0.5, 0.25, 0.25])[:, None])
    )


def test_seeds_must_have_the_same_tokens_and_differences_the_same_numbers(drawn: tuple[Floats, Floats]) -> None:
    sums, counts = drawn
    parts = [sums_of(one, counts) for one in sums]
    assert curve_contributions(parts).n_seeds == S
    with pytest.raises(InputError, match="different tokens"):
        curve_contributions([parts[0], sums_of(sums[0], counts + 1)])
    moving = [DocumentSums(p.sums, np.repeat(counts[None], E, 0), p.epochs, p.labels, p.documents) for p in parts]
    assert curve_contributions(moving[:1]).n_seeds == 1
    with pytest.raises(InputError, match="moving buckets"):
        curve_contributions(moving)
    with pytest.raises(InputError, match="3 seeds and 9 documents cannot be paired with 2 and 9"):
        curve_contributions(parts).minus(curve_contributions(parts[:2]))


def test_a_side_that_chooses_nothing_brings_its_linear_contributions() -> None:
    def one(anew: Floats | None) -> Contributions:
        zeros = np.zeros((2, 1))
        documents = np.array([[0.1], [-0.1], [0.0]])
        return Contributions(np.ones(1), zeros, documents, np.zeros((2, 3, 1)), np.full(1, 2.0), anew)

    chosen = one(np.array([[0.3], [0.3], [-0.6]]))
    difference = one(None).minus(chosen)
    assert difference.documents_anew is not None and difference.seeds_anew is None
    np.testing.assert_allclose(difference.documents_anew[:, 0], [-0.2, -0.4, 0.6])
    held = chosen.held()
    assert held.n_seeds == 1 and held.documents_anew is chosen.documents_anew


def test_the_same_at_each_epoch(drawn: tuple[Floats, Floats]) -> None:
    sums, counts = drawn
    curve = contributions_of(sums, counts[None])
    weights = np.array([0.0, 1.0, 0.0, 0.0])
    rise = curve.minus(curve.over_epochs(weights).at_each_epoch(E))
    for name in ("estimate", "seeds", "documents", "residuals"):
        np.testing.assert_allclose(getattr(rise, name)[..., 1, :], 0.0, atol=1e-13)
        for e in (0, 2, 3):
            by_hand = curve.over_epochs(np.eye(E)[e] - np.eye(E)[1])
            np.testing.assert_allclose(getattr(rise, name)[..., e, :], getattr(by_hand, name), atol=1e-13)
    assert rise.degrees.shape == (E, K)
