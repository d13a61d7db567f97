from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics.analysis.bootstrap import bootstrap_curve, bootstrap_difference, cross_fitted_rebound_interval
from dynamics.analysis.curves import DocumentSums, Floats
from dynamics.analysis.inference import compare_arms, hierarchical_curve, hierarchical_difference, seed_weights
from dynamics.analysis.summary import arm_sums
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

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


PLANTED = np.array([4.0, 3.0, 3.5])


def noisy(shift: float, own: int) -> Any:
    """`own`: noise of the arm's own, since the generator depends on the seed alone."""

    def curve(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        noise = rng.normal(0, 0.3, (own + 1, *entropy.shape))[own]
        return np.asarray(PLANTED[epoch] + shift * (epoch == 2) + noise)

    return curve


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("inference") / "study"
    arms: dict[str, dict[str, Any]] = {"baseline": {}, "same": {}, "better": {}}
    loss_fns = {"baseline": noisy(0.0, 0), "same": noisy(0.0, 1), "better": noisy(-0.4, 2)}
    return open_study(make_study(path, arms=arms, loss_fns=loss_fns, n_documents=120, epochs=2, seeds=(0, 1, 2)))


def test_a_planted_difference_is_found_and_none_is_not(study: Study) -> None:
    same, better = compare_arms(study, baseline="baseline", n_resamples=999)
    assert (same.arm, same.other, better.arm, better.other) == ("same", "baseline", "better", "baseline")
    assert better.estimate == pytest.approx(-0.4, abs=0.05)
    assert better.low < -0.4 < better.high < 0
    assert (better.probability, better.p_value) == (1.0, 0.002)
    assert (better.p_holm, better.n_documents, better.n_seeds) == (0.004, 60, (3, 3))
    assert same.low < 0 < same.high
    assert same.p_holm == same.p_value == pytest.approx(same.p_bh)
    by_hand = bootstrap_difference(
        arm_sums(study, "better"), arm_sums(study, "baseline"), paired=True, n_resamples=999, seed=0
    )
    assert (better.estimate, better.low, better.high) == (
        by_hand.estimate[-1, 0],
        by_hand.low[-1, 0],
        by_hand.high[-1, 0],
    )


def test_rebounds_are_compared_cross_fitted(study: Study) -> None:
    rows = compare_arms(study, quantity="rebound", n_resamples=200)
    assert [(row.arm, row.other) for row in rows] == [("baseline", "same"), ("baseline", "better"), ("same", "better")]
    # 0.5 against 0.1.
    assert rows[1].estimate == pytest.approx(0.4, abs=0.06)
    assert rows[1].low < 0.4 < rows[1].high
    assert rows[1].probability < 1e-6
    assert rows[1].p_bh < 1e-6
    each = [cross_fitted_rebound_interval(arm_sums(study, name), n_resamples=2) for name in ("baseline", "better")]
    assert rows[1].estimate == pytest.approx((each[0].estimate - each[1].estimate).item())


def test_buckets_and_seeds(study: Study) -> None:
    rows = compare_arms(study, baseline="baseline", buckets=2, over="seeds_and_documents", n_resamples=300)
    assert [(row.arm, row.bucket) for row in rows] == [
        ("same", "low"),
        ("same", "high"),
        ("better", "low"),
        ("better", "high"),
    ]
    for row in rows[2:]:
        assert row.low < -0.4 < row.high < 0
    with pytest.raises(InputError, match="1 seed says nothing"):
        compare_arms([study.run("same", 0), study.run("better", 0)], over="seeds_and_documents")


def test_an_arm_with_itself(study: Study) -> None:
    run = study.run("same", 1)
    (row,) = compare_arms([run, open_run(run.path)], quantity="rebound", n_resamples=50)
    assert (row.estimate, row.low, row.high, row.probability, row.p_value) == (0, 0, 0, 0.5, 1.0)
    (row,) = compare_arms([run, open_run(run.path)], n_resamples=50)
    assert (row.estimate, row.probability, row.p_value) == (0, 0.5, 1.0)


def test_comparisons_that_cannot_be(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'baseline'"):
        compare_arms(study, baseline="base line")
    with pytest.raises(InputError, match="is alone"):
        compare_arms(study.run("same", 0))
    with pytest.raises(InputError, match="'best'; use final or rebound"):
        compare_arms(study, quantity="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="over='seeds'"):
        compare_arms(study, over="seeds")  # type: ignore[arg-type]
    few = open_study(make_study(tmp_path / "few", n_documents=20, epochs=1))
    with pytest.warns(UserWarning, match="intervals over 10 documents"):
        compare_arms(few, n_resamples=20)
