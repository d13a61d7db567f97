from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.balanced import HandArm, interval_by_hand, two_ways
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.summary import (
    arm_curves,
    arm_summary,
    arm_sums,
    dropped_share_by_epoch,
    note_on_passes,
)
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.records.metrics import append_metrics
from dynamics.records.reader import Run, Study, open_run, open_study

Array = np.ndarray[Any, Any]

#: Validation loss by epoch, the mean over the three seeds: the lowest is at epoch 2.
PLANTED = np.array([4.0, 3.25, 3.0, 3.5])


def planted(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """The planted curve, the same for all tokens, and 1 less on training."""
    return np.full(entropy.shape, PLANTED[epoch] - (split == "train"))


def noisy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    return np.asarray(PLANTED[epoch] + rng.normal(0, 0.5, entropy.shape))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("summary") / "study"
    loss_fns = {"baseline": planted, "entrodrop": noisy}
    make_study(path, n_documents=120, epochs=3, seeds=(0, 1, 2), loss_fns=loss_fns)
    return open_study(path)


def rewrite_metrics(run: Run, rows: list[dict[str, Any]]) -> None:
    (run.path / "metrics.jsonl").unlink()
    append_metrics(run.path / "metrics.jsonl", rows)


def test_a_planted_arm(study: Study) -> None:
    baseline, _ = arm_summary(study)
    assert (baseline.arm, baseline.n_seeds, baseline.n_documents) == ("baseline", 3, 60)
    assert baseline.over == "seeds_and_documents"
    assert (baseline.start, baseline.best, baseline.best_epoch) == (4.0, 3.0, 2)
    assert (baseline.final, baseline.final_epoch) == (3.5, 3)
    # Every token of every seed has the same loss, so that nothing varies.
    assert [baseline.final_low, baseline.final_high] == pytest.approx([3.5] * 2)
    assert [baseline.rebound, baseline.rebound_cross_fitted] == pytest.approx([0.5] * 2)
    assert [baseline.rebound_cross_fitted_low, baseline.rebound_cross_fitted_high] == pytest.approx([0.5] * 2)
    ends = baseline.best_cross_fitted, baseline.best_cross_fitted_low, baseline.best_cross_fitted_high
    assert ends == pytest.approx((3.0, 3.0, 3.0))
    assert baseline.final_by_seed == (3.5, 3.5, 3.5)
    assert baseline.rebound_by_seed == (0.5, 0.5, 0.5)
    assert (baseline.dropped_share, baseline.mean_ratio) == (0.0, 0.0)


def test_a_noisy_arm_by_hand(study: Study) -> None:
    _, arm = arm_summary(study)
    finals, bests = [], []
    for seed in (0, 1, 2):
        records = study.run("entrodrop", seed).records("validation")
        means = [records.loss(e)[records.predicted].astype(float).mean() for e in range(4)]
        finals.append(means[3])
        bests.append(min(means))
    np.testing.assert_allclose(arm.final_by_seed, finals)
    assert arm.final == pytest.approx(np.mean(finals))
    assert arm.final_low < arm.final < arm.final_high
    np.testing.assert_allclose(arm.rebound_by_seed, np.array(finals) - bests)
    # Epoch 2 lies a quarter of a nat below all others, so that every half of the documents chooses it.
    assert arm.best_cross_fitted == pytest.approx(np.mean(bests))
    assert arm.rebound_cross_fitted == pytest.approx(np.mean(finals) - np.mean(bests))


@pytest.mark.parametrize(
    ("n_seeds", "over", "level"), [(3, None, 0.95), (2, None, 0.9), (3, "documents", 0.95), (1, None, 0.95)]
)
def test_intervals_in_closed_form(study: Study, n_seeds: int, over: Any, level: float) -> None:
    """In a balanced design with a best epoch beyond doubt: of that, of the end, and of the rise between them."""
    values = two_ways(np.random.default_rng(n_seeds), [4.0, 3.0, 2.0, 2.5], n_seeds, 24)
    arm = HandArm("hand", collect_arms(study)[0].runs[:n_seeds], {"validation": values})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "2 seeds hardly know")
        (row,) = arm_summary(arm, over=over, level=level)
        (curve,) = arm_curves(arm, over=over, level=level)
    assert row.over == curve.over == (over or ("documents" if n_seeds == 1 else "seeds_and_documents"))
    assert (row.n_seeds, row.n_documents) == (n_seeds, 24)
    shown = values if row.over == "seeds_and_documents" else values.mean(axis=0, keepdims=True)
    best, final = shown[:, 2], shown[:, 3]
    assert (row.final_low, row.final_high) == pytest.approx(interval_by_hand(final, level))
    assert (row.best_cross_fitted_low, row.best_cross_fitted_high) == pytest.approx(interval_by_hand(best, level))
    rise = interval_by_hand(final - best, level)
    assert (row.rebound_cross_fitted_low, row.rebound_cross_fitted_high) == pytest.approx(rise)
    assert (row.best_cross_fitted, row.rebound_cross_fitted) == pytest.approx((best.mean(), (final - best).mean()))
    for e in range(4):
        assert (curve.low[e], curve.high[e]) == pytest.approx(interval_by_hand(shown[:, e], level))
    assert curve.rebound_cross_fitted == pytest.approx((final - best).mean())


def test_a_flat_curve_has_no_rebound_by_the_seeds_that_rebound_by_chance(study: Study) -> None:
    """Each seed goes up and down by what all its documents share: its own lowest epoch is no rebound.

    Seed s is 0.3 lower at epoch s. The others choose one of their own dips, and there s is as high as at its end.
    """
    dips = np.eye(3, 4)[:, :, None] * -0.3
    values = 3.0 + dips + 1e-3 * two_ways(np.random.default_rng(1), [0.0] * 4, 3, 20, scale=1.0)
    (row,) = arm_summary(HandArm("flat", collect_arms(study)[0].runs, {"validation": values}))
    assert row.rebound_by_seed == pytest.approx([0.3] * 3, abs=0.01)
    assert row.rebound_cross_fitted == pytest.approx(0.0, abs=0.01)
    assert row.rebound == pytest.approx(0.1, abs=0.01)
    # By one seed alone it cannot be told.
    (alone,) = arm_summary(HandArm("alone", collect_arms(study)[0].runs[:1], {"validation": values[:1]}))
    assert alone.rebound_cross_fitted == pytest.approx(0.3, abs=0.01)


def test_curves(study: Study) -> None:
    curves = arm_curves(study)
    assert [curve.arm for curve in curves] == ["baseline", "entrodrop"]
    assert curves[0].loss.tolist() == PLANTED.tolist()
    assert curves[0].epochs.tolist() == [0, 1, 2, 3]
    assert {curve.over for curve in curves} == {"seeds_and_documents"}
    assert (curves[1].low < curves[1].loss).all()
    assert (curves[1].loss < curves[1].high).all()
    train = arm_curves(study, split="train")
    assert train[0].loss.tolist() == (PLANTED - 1).tolist()


def test_arm_sums_by_name(study: Study) -> None:
    assert arm_sums(study, "baseline").n_documents == 60
    with pytest.raises(InputError, match=r"no arm 'entrodop'.*did you mean 'entrodrop'"):
        arm_sums(study, "entrodop")


def test_dropped_share(tmp_path: Path) -> None:
    # Still running: the manifest of a complete run knows the size of its metrics.
    study = open_study(make_study(tmp_path / "study", n_documents=120, epochs=2, status="running", seeds=(0, 1, 2)))
    for seed, extra in ((0, 0.0), (1, 0.02), (2, 0.01)):
        rows = [{"step": s, "dropped_share": 0.01 * s + extra, "ratio": 0.01 * s} for s in range(1, 21)]
        # What is measured for tuning after each epoch is no step.
        measured = [{"step": s, "epoch": s / 10, "tuning_loss": 3.0} for s in (0, 10, 20)]
        rewrite_metrics(study.run("entrodrop", seed), [measured[0], *rows[:10], measured[1], *rows[10:], measured[2]])
        nothing = [{"step": s, "dropped_share": None, "ratio": None} for s in range(1, 21)]
        rewrite_metrics(study.run("baseline", seed), nothing)
    baseline, entrodrop = arm_summary(study)
    # Steps 1 to 20 have the mean 10.5; the seeds' means are 0.105, 0.125 and 0.115.
    assert entrodrop.dropped_share == pytest.approx(0.115)
    assert entrodrop.mean_ratio == pytest.approx(0.105)
    assert (baseline.dropped_share, baseline.mean_ratio) == (0.0, 0.0)
    # 10 steps an epoch: 1 to 10 and 11 to 20.
    arm = collect_arms(study)[1]
    expected = [[0.5, 0.055 + 0.01], [1.5, 0.155 + 0.01]]
    np.testing.assert_allclose(dropped_share_by_epoch(arm), expected)


def test_without_metrics_the_share_is_unknown(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=1, status="running"))
    (run.path / "metrics.jsonl").unlink()
    (row,) = arm_summary(run)
    assert math.isnan(row.dropped_share)
    assert math.isnan(row.mean_ratio)
    assert dropped_share_by_epoch(collect_arms(run)[0]).shape == (0, 2)


def test_one_epoch_only(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=[0]))
    (row,) = arm_summary(run)
    assert (row.best_epoch, row.final_epoch, row.rebound, row.rebound_cross_fitted) == (0, 0, 0, 0)
    assert row.best == row.final


def test_a_run_that_diverged_is_nan_and_not_flattered(tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, np.nan if epoch == 1 else 2.0)

    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=1, loss_fn=diverged))
    (row,) = arm_summary(run)
    assert (row.best, row.best_epoch) == (2.0, 0)
    assert math.isnan(row.final)
    assert math.isnan(row.rebound)
    for of in ("rebound_cross_fitted", "best_cross_fitted"):
        assert all(math.isnan(getattr(row, of + end)) for end in ("", "_low", "_high"))


def test_few_documents_warn(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "few", n_documents=28, epochs=1))
    with pytest.warns(UserWarning, match="intervals over 14 documents are too narrow if a few are unlike the others"):
        arm_summary(run)
    arm_summary(open_run(make_run(tmp_path / "enough", n_documents=30, epochs=1)))


def test_two_seeds_warn_and_one_or_three_do_not(study: Study) -> None:
    runs = collect_arms(study)[1].runs
    with pytest.warns(UserWarning, match="2 seeds hardly know the variance between seeds"):
        two = arm_summary(Arm("two", runs[:2]))[0]
    # With these models held fixed nothing is asked of seeds.
    fixed = arm_summary(Arm("two", runs[:2]), over="documents")[0]
    one, three = arm_summary([Arm("one", runs[:1]), Arm("three", runs)])
    assert [row.over for row in (one, two, three)] == ["documents", "seeds_and_documents", "seeds_and_documents"]
    assert two.final == fixed.final
    assert two.final_high - two.final_low > 3 * (fixed.final_high - fixed.final_low)
    with pytest.raises(InputError, match='1 seed says nothing of the variance between seeds; .* over="documents"'):
        arm_summary(Arm("one", runs[:1]), over="seeds_and_documents")
    with pytest.raises(InputError, match="over='seeds' is not known; use documents or seeds_and_documents"):
        arm_summary(Arm("three", runs), over="seeds")  # type: ignore[arg-type]


def test_one_document_has_a_mean_and_no_interval(study: Study) -> None:
    values = np.array([4.0, 3.0, 2.0, 2.5])[None, :, None] + np.array([0.0, 0.1, 0.2])[:, None, None]
    arm = HandArm("hand", collect_arms(study)[0].runs, {"validation": values})
    with pytest.warns(UserWarning, match="intervals over 1 documents"):
        (row,) = arm_summary(arm)
    assert (row.best, row.final, row.rebound) == pytest.approx((2.1, 2.6, 0.5))
    # There are no two halves to choose on and to measure on.
    assert math.isnan(row.final_low) and math.isnan(row.best_cross_fitted) and math.isnan(row.rebound_cross_fitted)


def test_what_is_known_of_a_cut_epoch(tmp_path: Path) -> None:
    def falling(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, 4.0 - epoch)

    def run(name: str, cut: float | None) -> Run:
        return open_run(
            make_run(tmp_path / name, name=name, n_documents=120, epochs=3, loss_fn=falling, cut=cut, status="running")
        )

    whole, cut, other = run("whole", None), run("cut", 2.4), run("other", 2.8)
    rows = arm_summary([whole, cut])
    assert [(row.best_epoch, row.best_at, row.final_epoch, row.final_at) for row in rows] == [
        (3, 3.0, 3, 3.0),
        (3, 2.4, 3, 2.4),
    ]
    assert note_on_passes(rows[:1]) is None
    assert note_on_passes(rows[1:]) == "Training was cut within an epoch, after 2.4 passes over the data."
    assert note_on_passes(rows) == (
        "Arms ended after different passes over the data (whole 3, cut 2.4): their final losses and rebounds are not to "
        "be compared."
    )
    for each in (whole, cut, other):
        rewrite_metrics(each, [{"step": s, "dropped_share": 0.5, "ratio": 0.5} for s in range(1, 25)])
    # The part of the third epoch reaches from 2 to 2.4.
    np.testing.assert_allclose(dropped_share_by_epoch(Arm("a", [cut, cut]))[:, 0], [0.5, 1.5, 2.2])
    np.testing.assert_allclose(dropped_share_by_epoch(Arm("a", [whole]))[:, 0], [0.5, 1.5, 2.5])
    np.testing.assert_allclose(dropped_share_by_epoch(Arm("a", [cut, other]))[:, 0], [0.5, 1.5])
