from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.estimands.quantities import arm_quantity
from dynamics.analysis.intervals.over_seeds_and_documents import over_seeds_and_documents
from dynamics.analysis.sums.arms import Arm, collect_arms, reference_buckets
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_study

Array = np.ndarray[Any, Any]


def planted(high_rebound: float, own: int) -> Any:
    """The low half rebounds by 0.1, the high half by `high_rebound`."""

    def curve(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        noise = rng.normal(0, 0.2, (own + 1, *entropy.shape))[own]
        rebound = np.where(entropy > 2, high_rebound, 0.1) * (epoch == 2)
        return np.asarray(4.0 - 1.0 * (epoch > 0) + rebound + noise)

    return curve


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    arms: dict[str, dict[str, Any]] = {"baseline": {}, "entrodrop": {}, "other": {}}
    fns = {"baseline": planted(0.9, 0), "entrodrop": planted(0.3, 1), "other": planted(0.9, 2)}
    path = tmp_path_factory.mktemp("contrasts") / "study"
    return open_study(make_study(path, arms=arms, loss_fns=fns, n_documents=120, epochs=2, seeds=(0, 1, 2)))


def test_planted_contrasts_and_interactions_are_found(study: Study) -> None:
    rows = bucket_contrasts(study)
    assert [(row.arm, row.other) for row in rows] == [
        ("baseline", ""),
        ("entrodrop", ""),
        ("other", ""),
        ("entrodrop", "baseline"),
        ("other", "baseline"),
    ]
    for row, truth in zip(rows, (0.8, 0.2, 0.8, -0.6, 0.0), strict=True):
        assert (row.high, row.low, row.quantity, row.over) == ("high", "low", "rebound", "seeds_and_documents")
        assert row.interval_low < truth < row.interval_high
        assert (row.p_value < 0.05) == (truth != 0)
    # Adjusted among contrasts, and among interactions.
    assert rows[3].p_holm == pytest.approx(2 * rows[3].p_value)
    assert max(row.p_holm / row.p_value for row in rows[:3]) == pytest.approx(3)


def test_an_interaction_is_a_difference_of_differences_of_seeds_and_documents(study: Study) -> None:
    rows = bucket_contrasts(study, quantity="final", baseline="other", level=0.9)
    arms = {arm.name: arm for arm in collect_arms(study)}
    how = reference_buckets(list(arms.values()), 2)
    sides = {name: arm_quantity(arm, "final", buckets=how) for name, arm in arms.items()}
    within = {name: side.contrast(1, 0) for name, side in sides.items()}
    assert [row.other for row in rows] == ["", "", "", "other", "other"]
    found = over_seeds_and_documents(within["entrodrop"].minus(within["other"])).interval(0.9)
    assert (rows[4].estimate, rows[4].interval_low, rows[4].interval_high) == (
        found.estimate[0],
        found.low[0],
        found.high[0],
    )
    high, low = (sides["baseline"].estimate[k] for k in (1, 0))
    assert rows[0].estimate == pytest.approx(high - low)


def test_more_buckets_one_seed_and_what_cannot_be(study: Study, tmp_path: Path) -> None:
    labels = reference_buckets(collect_arms(study), 4).labels
    quarters = bucket_contrasts(study, quantity="area", buckets=4)[0]
    assert (quarters.low, quarters.high) == (labels[0], labels[3])
    one = [study.run("baseline", 0), study.run("entrodrop", 0)]
    with pytest.warns(UserWarning) as told:
        rows = bucket_contrasts(one)
    assert [str(each.message)[:17] for each in told] == ["comparisons with ", "with one seed the"]
    assert {row.over for row in rows} == {"documents"}
    with pytest.raises(InputError, match="1 seed says nothing"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bucket_contrasts(one, over="seeds_and_documents")
    with pytest.raises(InputError, match="two buckets or more"):
        bucket_contrasts(study, buckets=1)
    with pytest.raises(InputError, match="did you mean 'entrodrop'"):
        bucket_contrasts(study, baseline="entrodrops")
    alone = bucket_contrasts([arm for arm in collect_arms(study) if arm.name == "baseline"], quantity="final")
    assert [(row.arm, row.other) for row in alone] == [("baseline", "")]
    few = open_study(make_study(tmp_path / "few", n_documents=20, epochs=1, seeds=(0, 1)))
    with pytest.warns(UserWarning) as told:
        bucket_contrasts(few, quantity="final")
    assert {str(each.message)[:26] for each in told} == {
        "intervals over 10 documents"[:26],
        "2 seeds hardly know the variance"[:26],
    }


def test_contrasts_say_what_they_do_not_generalise_over(study: Study) -> None:
    arms = collect_arms(study)
    mixed = [arms[0], Arm("entrodrop", arms[1].runs[:1]), Arm("other", arms[2].runs[:2])]
    with pytest.warns(UserWarning) as told:
        rows = bucket_contrasts(mixed)
    assert [row.over for row in rows] == [
        "seeds_and_documents",
        "documents",
        "seeds_and_documents",
        "documents",
        "seeds_and_documents",
    ]
    said = " ".join(str(each.message) for each in told)
    assert "comparisons with entrodrop generalise over documents alone" in said
    assert "2 seeds hardly know" in said and "with one seed the best epoch" in said
