from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.estimands.summary import arm_sums
from dynamics.analysis.intervals.bootstrap import bootstrap_difference
from dynamics.analysis.intervals.cross_fitting import cross_fitted_rebound_interval
from dynamics.analysis.sums.arms import at_common_epochs
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

Array = np.ndarray[Any, Any]


def one_bucket(means: Floats, counts: Floats) -> DocumentSums:
    """Sums of (E, D) means of documents."""
    return DocumentSums(
        (means * counts)[:, :, None], counts[:, None], np.arange(len(means)), ("all",), np.arange(len(counts))
    )


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


def test_arms_that_were_cut_after_other_passes_are_not_compared(tmp_path: Path) -> None:
    whole, cut, same = (
        open_run(make_run(tmp_path / name, name=name, n_documents=120, epochs=3, cut=passes))
        for name, passes in (("whole", None), ("cut", 2.4), ("same", 2.4))
    )
    message = r"epoch 3 stands for 3 passes over the data in .*/whole and for 2\.4 in .*/cut, as training was cut there"
    for quantity in ("final", "rebound"):
        with pytest.raises(InputError, match=message):
            compare_arms([whole, cut], quantity=quantity, n_resamples=10)
    (row,) = compare_arms([cut, same], n_resamples=10)
    assert row.estimate == 0.0
    (row,) = compare_arms(at_common_epochs([whole, cut]), n_resamples=10)
    assert (row.estimate, row.n_documents) == (0.0, 60)
