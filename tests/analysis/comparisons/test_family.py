from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.plots.arm_tables.arm_table import arm_table
from dynamics.records.reader import Study, open_study

Array = np.ndarray[Any, Any]

PLANTED = np.array([4.0, 3.0, 3.5, 3.8])


def noisy(shift: float, own: int) -> Any:
    """The planted curve, lower by `shift` from epoch 2 on, with noise of the arm's own."""

    def curve(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        noise = rng.normal(0, 0.3, (own + 1, *entropy.shape))[own]
        return np.asarray(PLANTED[epoch] - shift * (epoch >= 2) + noise)

    return curve


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    arms: dict[str, dict[str, Any]] = {"first": {}, "control": {}, "better": {}}
    loss_fns = {"first": noisy(0.0, 0), "control": noisy(0.0, 1), "better": noisy(0.5, 2)}
    path = tmp_path_factory.mktemp("family") / "study"
    return open_study(make_study(path, arms=arms, loss_fns=loss_fns, n_documents=80, epochs=3, seeds=(0, 1, 2)))


def test_the_family_is_every_pair_by_end_and_best_and_early_stopping(study: Study) -> None:
    rows = study_comparisons(study)
    stopped = "control (early stopping)"
    pairs = [("first", "control"), ("first", "better"), ("better", "control")]
    early = [("first", stopped), ("better", stopped), (stopped, "control")]
    expected = [("final", pair) for pair in [*pairs, *early]] + [("best", pair) for pair in pairs]
    assert [(row.quantity, (row.arm, row.other)) for row in rows] == expected
    assert {row.over for row in rows} == {"seeds_and_documents"} and {row.epoch for row in rows} == {3}
    by = {(row.quantity, row.arm, row.other): row for row in rows}
    # control rebounds from 3.0 to 3.8, better from 3.0 to 3.3, and both have the same best epoch.
    assert by["final", "better", "control"].estimate == pytest.approx(-0.5, abs=0.03)
    assert by["final", stopped, "control"].estimate == pytest.approx(-0.8, abs=0.03)
    assert by["final", "better", stopped].estimate == pytest.approx(0.3, abs=0.03)
    assert abs(by["best", "better", "control"].estimate) < 0.03
    assert by["final", "first", "control"].p_holm > 0.05 > by["final", "better", stopped].p_holm


def test_p_values_are_adjusted_for_the_whole_family_after_holm(study: Study) -> None:
    rows = study_comparisons(study)
    order = sorted(range(len(rows)), key=lambda i: rows[i].p_value)
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(rows) - rank) * rows[i].p_value))
        assert rows[i].p_holm == pytest.approx(worst, rel=1e-12)


def test_each_row_is_that_of_compare_arms(study: Study) -> None:
    arms = {arm.name: arm for arm in collect_arms(study)}
    for row in study_comparisons(study, baseline="first"):
        if not row.arm.endswith(")") and not row.other.endswith(")"):
            pair = [arms[row.other], arms[row.arm]]
            alone = compare_arms(pair, baseline=row.other, quantity=row.quantity, early_stopping=False)[0]
            assert (row.estimate, row.low, row.high) == (alone.estimate, alone.low, alone.high)
            assert row.p_value == alone.p_value


def test_the_table_has_the_same_p_values(study: Study) -> None:
    table = arm_table(study)
    by = {(row.quantity, row.arm, row.other): row for row in study_comparisons(study)}
    assert table.baseline == "control" and table.n_comparisons == 9
    assert table.differences["better"].p_holm == by["final", "better", "control"].p_holm
    assert table.from_early_stopping["first"].p_holm == by["final", "first", "control (early stopping)"].p_holm
    assert table.of_bests["better"].estimate == by["best", "better", "control"].estimate
    assert "9 comparisons" in " ".join(table.notes) and "generalises over seeds and documents" in " ".join(table.notes)


def test_pairs_are_compared_at_the_epochs_that_both_have(study: Study) -> None:
    arms = collect_arms(study)
    short = Arm("short", arms[2].runs, epochs=[0, 1, 2])
    none = Arm("none", arms[0].runs, epochs=[3])
    rows = study_comparisons([arms[1], short, none], baseline="control")
    ends = {(row.arm, row.other): row.epoch for row in rows if row.quantity == "final"}
    assert ends == {
        ("short", "control"): 2,
        ("none", "control"): 3,
        ("short", "control (early stopping)"): 2,
        ("none", "control (early stopping)"): 3,
        ("control (early stopping)", "control"): 3,
    }


def test_an_arm_of_one_seed_is_compared_over_documents_and_says_so(study: Study) -> None:
    arms = collect_arms(study)
    alone = Arm("alone", arms[2].runs[:1])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rows = study_comparisons([arms[1], alone, arms[0]], baseline="control")
    over = {(row.arm, row.other): row.over for row in rows}
    assert over["alone", "control"] == over["alone", "control (early stopping)"] == "documents"
    assert over["first", "control"] == "seeds_and_documents"
    texts = " ".join(str(each.message) for each in said)
    assert "generalise over documents alone" in texts and "cannot be told from a rebound" in texts


def test_margin_tests_equivalence(study: Study) -> None:
    by = {(row.quantity, row.arm, row.other): row for row in study_comparisons(study, margin=0.1)}
    assert by["best", "better", "control"].p_equivalent_holm < 0.05 < by["final", "better", "control"].p_equivalent


def test_one_arm_has_no_comparisons_and_an_unknown_baseline_is_refused(study: Study, tmp_path: Path) -> None:
    assert study_comparisons(collect_arms(study)[0]) == []
    with pytest.raises(InputError, match="no arm 'contro' to compare with; .* did you mean 'control'"):
        study_comparisons(study, baseline="contro")


def test_what_cannot_be_asked_of_a_family_is_refused(study: Study) -> None:
    for margin in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="is not above 0"):
            study_comparisons(study, margin=margin)
    with pytest.raises(InputError, match="over='seeds' is not known"):
        study_comparisons(study, over="seeds")  # type: ignore[arg-type]
