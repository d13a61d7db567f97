from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.comparisons.arm_comparisons import Comparison, compare_arms
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.estimands.quantities import arm_quantity
from dynamics.analysis.intervals.over_documents import over_documents
from dynamics.analysis.intervals.over_seeds_and_documents import (
    over_other_seeds_and_documents,
    over_seeds_and_documents,
)
from dynamics.analysis.sums.arms import Arm, at_common_epochs, collect_arms
from dynamics.analysis.tokens.matches import groups_by_match
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

Array = np.ndarray[Any, Any]

PLANTED = np.array([4.0, 3.0, 3.5])
STOPPED = "baseline (early stopping)"


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


def numbers(row: Comparison) -> tuple[float, ...]:
    return row.estimate, row.low, row.high, row.p_value


def test_a_planted_difference_is_found_and_none_is_not(study: Study) -> None:
    same, better = compare_arms(study, baseline="baseline", early_stopping=False)
    assert (same.arm, same.other, better.arm, better.other) == ("same", "baseline", "better", "baseline")
    assert (better.over, better.quantity, better.same_seeds) == ("seeds_and_documents", "final", True)
    assert (better.n_documents, better.n_seeds) == (60, (3, 3))
    assert better.estimate == pytest.approx(-0.4, abs=0.05)
    assert better.low < -0.4 < better.high < 0
    assert better.p_value < 0.01 and better.probability > 0.99
    assert same.low < 0 < same.high
    # Two comparisons: the smaller p-value counts twice.
    assert better.p_holm == pytest.approx(2 * better.p_value) and same.p_holm == same.p_value
    assert math.isnan(better.p_equivalent) and math.isnan(better.margin)
    sides = [arm_quantity(arm, "final") for arm in collect_arms(study)]
    known = over_seeds_and_documents(sides[2].minus(sides[0]))
    by_hand = known.interval(0.95)
    assert numbers(better) == (by_hand.estimate[0], by_hand.low[0], by_hand.high[0], known.p_value()[0])
    assert better.probability == 1.0 - known.p_below(0.0)[0]


def test_early_stopping_is_a_baseline_of_its_own(study: Study) -> None:
    rows = compare_arms(study, baseline="baseline")
    assert [(row.arm, row.other) for row in rows] == [
        ("same", "baseline"),
        ("better", "baseline"),
        ("same", STOPPED),
        ("better", STOPPED),
        (STOPPED, "baseline"),
    ]
    arms = {arm.name: arm for arm in collect_arms(study)}
    best = arm_quantity(arms["baseline"], "best")
    expected = over_seeds_and_documents(arm_quantity(arms["better"], "final").minus(best)).interval(0.95)
    assert rows[3].estimate == expected.estimate[0] and rows[3].high == expected.high[0]
    # 3.1 against 3.0; and stopping is worth the half nat of the rebound.
    assert rows[3].low < 0.1 < rows[3].high
    assert rows[4].low < -0.5 < rows[4].high < 0
    assert rows[4].p_holm >= 2 * rows[4].p_value * 0.99
    # Without a baseline, that of the arm whose name says so; and not with another quantity.
    assert [row.other for row in compare_arms(study)][3:] == [STOPPED, STOPPED, "baseline"]
    assert len(compare_arms(study, quantity="best", baseline="baseline")) == 2


def test_quantities(study: Study) -> None:
    by_quantity = {q: compare_arms(study, quantity=q)[1] for q in ("best", "rebound", "area")}
    assert {(row.arm, row.other) for row in by_quantity.values()} == {("baseline", "better")}
    # 0.5 against 0.1; the same best epoch; a fourth of 0.4 more area, half of the last of two epochs.
    assert by_quantity["rebound"].low < 0.4 < by_quantity["rebound"].high
    assert by_quantity["rebound"].p_holm < 0.05 and by_quantity["rebound"].probability < 0.01
    assert by_quantity["best"].low < 0.0 < by_quantity["best"].high
    assert by_quantity["area"].low < 0.1 < by_quantity["area"].high


def test_accuracies_are_compared_like_losses(tmp_path: Path) -> None:
    def learned(share: float) -> Any:
        """So many tokens are right after the first epoch, a tenth less after the second, of those there are."""

        def curve(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
            return np.where(rng.random(entropy.shape) < share - 0.1 * (epoch == 2) - 0.3 * (epoch == 0), 0.25, 4.0)

        return curve

    arms = {"baseline": {}, "better": {}}
    loss_fns = {"baseline": learned(0.5), "better": learned(0.8)}
    path = make_study(tmp_path / "s", arms=arms, loss_fns=loss_fns, n_documents=120, epochs=2, seeds=(0, 1, 2))
    study = open_study(path)
    tokens = groups_by_match({"result": "[a-m]+"})
    how: dict[str, Any] = {"value": "correct", "buckets": tokens, "baseline": "baseline"}
    (final, *stopped) = compare_arms(study, **how)
    assert (final.value, final.bucket, final.epoch) == ("correct", "result", 2)
    sides = [arm_quantity(arm, "final", value="correct", buckets=tokens) for arm in collect_arms(study)]
    by_hand = over_seeds_and_documents(sides[1].minus(sides[0]))
    assert numbers(final)[:3] == tuple(
        float(getattr(by_hand.interval(0.95), end)[0]) for end in ("estimate", "low", "high")
    )
    assert final.low < 0.3 < final.high and final.p_value < 0.01
    # The better arm is the higher one, so that it is surely not the lower one.
    assert final.probability < 0.01
    # Early stopping gives the highest accuracy, a tenth above the end.
    assert [(row.arm, row.other) for row in stopped] == [("better", STOPPED), (STOPPED, "baseline")]
    assert stopped[0].low < 0.2 < stopped[0].high and stopped[1].low < 0.1 < stopped[1].high
    (rebound,) = compare_arms(study, quantity="rebound", **how)
    assert rebound.low < 0.0 < rebound.high and abs(rebound.estimate) < 0.05
    with pytest.raises(InputError, match="unknown value 'corect'"):
        compare_arms(study, value="corect")  # type: ignore[arg-type]


def test_equivalence_within_a_margin(study: Study) -> None:
    rows = compare_arms(study, baseline="baseline", early_stopping=False, margin=0.1)
    arms = collect_arms(study)
    known = over_seeds_and_documents(arm_quantity(arms[1], "final").minus(arm_quantity(arms[0], "final")))
    assert rows[0].p_equivalent == max(known.p_below(0.1)[0], known.p_above(-0.1)[0])
    assert rows[0].p_equivalent < 0.05 < rows[1].p_equivalent and rows[0].margin == 0.1
    assert rows[0].p_equivalent_holm == pytest.approx(2 * rows[0].p_equivalent)
    # Equivalent at 5 % is what the 90 % interval within the margin says.
    (ninety, _) = compare_arms(study, baseline="baseline", early_stopping=False, level=0.9)
    assert -0.1 < ninety.low and ninety.high < 0.1
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="margin"):
            compare_arms(study, margin=bad)


def test_buckets(study: Study) -> None:
    rows = compare_arms(study, baseline="baseline", buckets=2, early_stopping=False)
    assert [(row.arm, row.bucket) for row in rows] == [
        ("same", "low"),
        ("same", "high"),
        ("better", "low"),
        ("better", "high"),
    ]
    for row in rows[2:]:
        assert row.low < -0.4 < row.high < 0


def test_what_is_generalised_over(study: Study) -> None:
    arms = collect_arms(study)
    fixed = compare_arms(study, baseline="baseline", over="documents", early_stopping=False)[1]
    sides = [arm_quantity(arm, "final") for arm in (arms[2], arms[0])]
    by_hand = over_documents(sides[0].minus_other_seeds(sides[1])).interval(0.95)
    assert (fixed.over, fixed.low, fixed.high) == ("documents", by_hand.low[0], by_hand.high[0])
    # An arm of one seed: documents are all there is, and it is said.
    one = [study.run("same", 0), study.run("better", 0)]
    with pytest.warns(UserWarning, match="generalise over documents alone") as told:
        row = compare_arms(one, early_stopping=False)[0]
    assert (row.over, row.n_seeds) == ("documents", (1, 1)) and len(told) == 1
    with pytest.warns(UserWarning) as told:
        compare_arms(one, quantity="rebound")
    assert any("with one seed the best epoch" in str(each.message) for each in told)
    with pytest.raises(InputError, match="1 seed says nothing"):
        compare_arms(one, over="seeds_and_documents", early_stopping=False)
    # Two seeds are told to be few.
    two = [Arm(arm.name, arm.runs[:2]) for arm in arms]
    with pytest.warns(UserWarning, match="2 seeds hardly know"):
        compare_arms(two, early_stopping=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_arms(two, over="documents")


def test_different_seeds_are_not_paired(study: Study) -> None:
    arms = collect_arms(study)
    # Some are the same: it is not known what they share, and neither is paired.
    mixed = [Arm("first", arms[0].runs[1:]), Arm("second", arms[2].runs[:2])]
    with pytest.warns(UserWarning, match="2 seeds"):
        row = compare_arms(mixed, early_stopping=False)[0]
    known = over_other_seeds_and_documents(*(arm_quantity(arm, "final") for arm in mixed))
    assert not row.same_seeds
    assert row.low == known.interval(0.95).low[0] and row.p_value == known.p_value()[0]
    with pytest.warns(UserWarning, match="2 seeds"):
        row = compare_arms([arms[0], Arm("fewer", arms[2].runs[:2])], early_stopping=False)[0]
    assert row.n_seeds == (3, 2) and row.low < 0.4 < row.high


@pytest.mark.parametrize("quantity", ["final", "rebound"])
def test_the_same_seeds_in_another_order_are_paired_by_seed(study: Study, quantity: Any) -> None:
    arms = collect_arms(study)
    turned = Arm("better", [arms[2].runs[at] for at in (1, 2, 0)])
    row, known = (
        compare_arms([arms[0], each], quantity=quantity, early_stopping=False)[0] for each in (arms[2], turned)
    )
    assert row.same_seeds and known.same_seeds
    np.testing.assert_allclose(numbers(row), numbers(known), rtol=1e-12)


def test_a_comparison_turned_round_is_that_of_the_arms_the_other_way_round(study: Study) -> None:
    # Skewed documents and few seeds: the tails on both sides are not alike.
    arms = [Arm(arm.name, arm.runs[:2]) for arm in collect_arms(study)]
    for quantity in ("final", "rebound"):
        asked: dict[str, Any] = {"quantity": quantity, "early_stopping": False, "over": "documents"}
        for one, other in ((0, 1), (0, 2)):
            row = compare_arms([arms[one], arms[other]], **asked)[0]
            back = compare_arms([arms[other], arms[one]], **asked)[0].turned()
            assert (row.arm, row.other) == (back.arm, back.other)
            np.testing.assert_allclose(
                (*numbers(row), row.probability), (*numbers(back), back.probability), rtol=1e-12, atol=1e-15
            )
            assert row.probability == (1 - row.p_value / 2 if row.estimate < 0 else row.p_value / 2)


def test_an_arm_with_itself(study: Study) -> None:
    arms = collect_arms(study)
    for quantity in ("final", "rebound", "best", "area"):
        row = compare_arms([arms[1], Arm("again", arms[1].runs)], quantity=quantity, early_stopping=False)[0]
        assert (row.estimate, row.low, row.high, row.probability, row.p_value) == (0, 0, 0, 0.5, 1.0)


def test_a_curve_of_nan(tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, np.nan if epoch == 2 else 3.0) + rng.normal(0, 0.1, entropy.shape)

    fns = {"baseline": noisy(0.0, 0), "diverged": diverged, "fine": noisy(-0.4, 1)}
    arms: dict[str, dict[str, Any]] = {name: {} for name in fns}
    made = make_study(tmp_path / "nan", arms=arms, loss_fns=fns, n_documents=60, epochs=2, seeds=(0, 1, 2))
    bad, good = compare_arms(open_study(made), baseline="baseline", margin=0.1, early_stopping=False)
    assert all(math.isnan(x) for x in (bad.estimate, bad.low, bad.high, bad.probability))
    assert all(math.isnan(p) for p in (bad.p_value, bad.p_holm, bad.p_bh, bad.p_equivalent, bad.p_equivalent_holm))
    assert (bad.diverged, good.diverged) == (("diverged",), ())
    assert good.p_value < 0.05


def test_comparisons_that_cannot_be(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'baseline'"):
        compare_arms(study, baseline="base line")
    with pytest.raises(InputError, match="is alone"):
        compare_arms(study.run("same", 0))
    with pytest.raises(InputError, match="no quantity 'last'; use one of final, best, rebound, area"):
        compare_arms(study, quantity="last")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="over='seeds'"):
        compare_arms(study, over="seeds")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="level 95 is not a share"):
        compare_arms(study, level=95)
    with pytest.raises(InputError, match="not chosen on 'validation'; use cross_fitted or tuning"):
        compare_arms(study, quantity="best", chosen_on="validation")  # type: ignore[arg-type]
    baseline = collect_arms(study)[0]
    with pytest.raises(InputError, match="'baseline': several arms have this name"):
        compare_arms([baseline, Arm("baseline", collect_arms(study)[2].runs)])
    few = open_study(make_study(tmp_path / "few", n_documents=20, epochs=1, seeds=(0, 1, 2)))
    with pytest.warns(UserWarning, match="intervals over 10 documents"):
        compare_arms(few, early_stopping=False)


def test_arms_that_were_cut_after_other_passes_are_matched_or_refused(tmp_path: Path) -> None:
    def run(name: str, passes: float | None) -> Any:
        return open_run(make_run(tmp_path / name, name=name, n_documents=120, epochs=3, cut=passes, loss_fn=falling))

    def falling(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, (4.0, 3.0, 2.5, 2.0)[epoch])

    whole, cut, same = run("whole", None), run("cut", 2.5), run("same", 2.5)
    message = r"epoch 3 stands for 3 passes over the data in .*/whole and for 2\.5 in .*/cut, as training was cut there"
    with pytest.raises(InputError, match=message):
        compare_arms([whole, cut], early_stopping=False)
    with pytest.warns(UserWarning, match="documents alone"):
        (row,) = compare_arms([cut, same], early_stopping=False)
        assert row.estimate == 0.0
        (row,) = compare_arms(at_common_epochs([whole, cut]), early_stopping=False)
        assert (row.estimate, row.n_documents) == (0.0, 60)
        # After 2.5 passes the whole one lies half way from 2.5 to 2; steps and tokens come to the same.
        for compute in ("passes", "steps", "tokens"):
            (row,) = compare_arms([whole, cut], matched=compute, early_stopping=False)  # type: ignore[arg-type]
            assert row.estimate == pytest.approx(0.25, abs=1e-3)
    with pytest.raises(InputError, match="not matched by 'seconds'"):
        compare_arms([whole, cut], matched="seconds", early_stopping=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("quantity", ["final", "best", "rebound", "area"])
def test_runs_that_recorded_other_documents_of_the_same_text_are_not_paired(tmp_path: Path, quantity: Any) -> None:
    """As many documents on either side, and not the same ones: pairing by place would be silently wrong."""
    runs = [
        open_run(make_run(tmp_path / name, name=name, epochs=2, n_documents=60, recorded={"validation": rows}))
        for name, rows in (("one", range(0, 20)), ("two", range(20, 40)))
    ]
    with pytest.raises(InputError, match="needs the same tokens on both sides"):
        compare_arms(runs, quantity=quantity)
    with pytest.raises(InputError, match="needs the same tokens on both sides"):
        compare_arms(runs, quantity=quantity, matched="passes")
    with pytest.raises(InputError, match="needs the same tokens on both sides"):
        bucket_contrasts(runs, quantity=quantity)


def test_an_epoch_that_other_seeds_chose_is_not_said_to_be_of_one_model(study: Study) -> None:
    arms = collect_arms(study)
    alone = Arm("alone", arms[2].runs[:1])
    # The end of one model against early stopping of three.
    with pytest.warns(UserWarning) as told:
        compare_arms([arms[0], alone], baseline="baseline")
    assert [str(each.message).split(";")[0] for each in told] == [
        "comparisons with alone generalise over documents alone, with the trained models held fixed, as of a single seed"
    ]
    with pytest.warns(UserWarning) as told:
        compare_arms([arms[0], alone], baseline="alone")
    assert [str(each.message)[:21] for each in told] == ["comparisons with alon", "with one seed the bes"]
