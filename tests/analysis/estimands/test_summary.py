from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.summary import (
    arm_curves,
    arm_summary,
    arm_sums,
    bucket_dynamics,
    dropped_share_by_epoch,
    note_on_passes,
)
from dynamics.analysis.intervals.bootstrap import document_weights
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.analysis.tokens.buckets import Buckets
from dynamics.errors import InputError
from dynamics.records.metrics import append_metrics
from dynamics.records.reader import Run, Study, open_run, open_study

Array = np.ndarray[Any, Any]

#: Validation loss by epoch, the mean over the two seeds: the lowest is at epoch 2.
PLANTED = np.array([4.0, 3.25, 3.0, 3.5])


def planted(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """The planted curve, the same for all tokens, and 1 less on training."""
    return np.full(entropy.shape, PLANTED[epoch] - (split == "train"))


def noisy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    return np.asarray(PLANTED[epoch] + rng.normal(0, 0.5, entropy.shape))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("summary") / "study"
    make_study(path, n_documents=120, epochs=3, loss_fns={"baseline": planted, "entrodrop": noisy})
    return open_study(path)


def rewrite_metrics(run: Run, rows: list[dict[str, Any]]) -> None:
    (run.path / "metrics.jsonl").unlink()
    append_metrics(run.path / "metrics.jsonl", rows)


def test_a_planted_arm(study: Study) -> None:
    baseline, _ = arm_summary(study, n_resamples=100)
    assert (baseline.arm, baseline.n_seeds, baseline.n_documents) == ("baseline", 2, 60)
    assert (baseline.best, baseline.best_epoch) == (3.0, 2)
    assert (baseline.final, baseline.final_epoch) == (3.5, 3)
    # Every token has the same loss, so that every resample has the same mean.
    assert baseline.final_low == baseline.final_high == pytest.approx(3.5)
    assert baseline.rebound == baseline.rebound_cross_fitted == pytest.approx(0.5)
    assert baseline.rebound_low == baseline.rebound_high == pytest.approx(0.5)
    assert baseline.rebound_cross_fitted_low == baseline.rebound_cross_fitted_high == pytest.approx(0.5)
    assert baseline.final_by_seed == (3.5, 3.5)
    assert baseline.rebound_by_seed == (0.5, 0.5)
    assert (baseline.dropped_share, baseline.mean_ratio) == (0.0, 0.0)


def test_a_noisy_arm_by_hand(study: Study) -> None:
    _, arm = arm_summary(study, n_resamples=100, seed=4)
    finals, sums = [], []
    for seed in (0, 1):
        records = study.run("entrodrop", seed).records("validation")
        loss = np.where(records.predicted, records.loss(3), 0.0).astype(float)
        finals.append(loss.sum() / records.predicted.sum())
        documents = range(60)
        sums.append([loss[records.document_id == d].sum() for d in documents])
        counts = [records.predicted[records.document_id == d].sum() for d in documents]
    np.testing.assert_allclose(arm.final_by_seed, finals)
    assert arm.final == pytest.approx(np.mean(finals))
    weights = document_weights(60, 100, seed=4).astype(float)
    resampled = (weights @ np.mean(sums, axis=0)) / (weights @ np.array(counts))
    assert arm.final_low == pytest.approx(np.percentile(resampled, 2.5))
    assert arm.final_high == pytest.approx(np.percentile(resampled, 97.5))
    assert arm.final_low < arm.final < arm.final_high


def test_curves(study: Study) -> None:
    curves = arm_curves(study, n_resamples=50)
    assert [curve.arm for curve in curves] == ["baseline", "entrodrop"]
    assert curves[0].loss.tolist() == PLANTED.tolist()
    assert curves[0].epochs.tolist() == [0, 1, 2, 3]
    assert (curves[1].low < curves[1].loss).all()
    assert (curves[1].loss < curves[1].high).all()
    train = arm_curves(study, split="train", n_resamples=50)
    assert train[0].loss.tolist() == (PLANTED - 1).tolist()


def test_bucket_dynamics_of_the_planted_diagnosis(tmp_path: Path) -> None:
    # The default curve: low-entropy tokens halve on both splits; the others rebound from epoch 2.
    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=4, dtype="float32"))
    halves_at_two = Buckets(np.array([2.0]), ("low", "high"))
    (arm,) = bucket_dynamics(run, buckets=halves_at_two, n_resamples=50)
    assert arm.labels == ("low", "high")
    records = run.records("validation")
    entropy = records.reference_entropy[records.predicted].astype(float)
    low, high = entropy[entropy < 2].mean(), entropy[entropy > 2].mean()
    halves = 0.5 ** np.arange(5)
    np.testing.assert_allclose(arm.validation.estimate[:, 0], low * halves, rtol=1e-6)
    rising = high - 0.5 + 0.125 * (np.arange(5) - 2) ** 2
    np.testing.assert_allclose(arm.validation.estimate[:, 1], rising, rtol=1e-6)
    np.testing.assert_allclose(arm.rebound.estimate, [0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(arm.rebound_cross_fitted, [0.0, 0.5], atol=1e-6)
    # Without noise every resample has the same rebound.
    np.testing.assert_allclose(arm.rebound_cross_fitted_low, [0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(arm.rebound_cross_fitted_high, [0.0, 0.5], atol=1e-6)
    train = run.records("train")
    entropy = train.reference_entropy[train.predicted].astype(float)
    training = entropy[entropy > 2].mean() * halves
    np.testing.assert_allclose(arm.train.estimate[:, 1], training, rtol=1e-6)
    np.testing.assert_allclose(arm.gap.estimate[:, 1], rising - training, rtol=1e-6)
    assert (arm.gap.low <= arm.gap.estimate).all()
    assert (arm.gap.estimate <= arm.gap.high).all()


def test_deciles(study: Study) -> None:
    dynamics = bucket_dynamics(study, buckets=10, n_resamples=20)
    assert dynamics[0].labels == tuple(str(i) for i in range(1, 11))
    assert dynamics[0].validation.estimate.shape == (4, 10)
    np.testing.assert_allclose(dynamics[0].gap.estimate, 1.0)


def test_the_default_halves_are_cut_at_the_median_of_the_training_tokens(study: Study) -> None:
    _, arm = bucket_dynamics(study, n_resamples=20)
    run = study.run("entrodrop", 0)
    train, records = run.records("train"), run.records("validation")
    low = records.reference_entropy < np.median(train.reference_entropy[train.predicted])
    by_hand = [study.run("entrodrop", seed).records("validation").loss(2)[low].astype(float).mean() for seed in (0, 1)]
    assert arm.validation.estimate[2, 0] == pytest.approx(np.mean(by_hand))


def test_arm_sums_by_name(study: Study) -> None:
    assert arm_sums(study, "baseline").n_documents == 60
    with pytest.raises(InputError, match=r"no arm 'entrodop'.*did you mean 'entrodrop'"):
        arm_sums(study, "entrodop")


def test_dropped_share(tmp_path: Path) -> None:
    # Still running: the manifest of a complete run knows the size of its metrics.
    study = open_study(make_study(tmp_path / "study", n_documents=120, epochs=2, status="running"))
    for seed, extra in ((0, 0.0), (1, 0.02)):
        rows = [{"step": s, "dropped_share": 0.01 * s + extra, "ratio": 0.01 * s} for s in range(1, 21)]
        rewrite_metrics(study.run("entrodrop", seed), rows)
        nothing = [{"step": s, "dropped_share": None, "ratio": None} for s in range(1, 21)]
        rewrite_metrics(study.run("baseline", seed), nothing)
    baseline, entrodrop = arm_summary(study, n_resamples=20)
    # Steps 1 to 20 have the mean 10.5; the seeds' means are 0.105 and 0.125.
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
    (row,) = arm_summary(run, n_resamples=20)
    assert math.isnan(row.dropped_share)
    assert math.isnan(row.mean_ratio)
    assert dropped_share_by_epoch(collect_arms(run)[0]).shape == (0, 2)


def test_one_epoch_only(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=[0]))
    (row,) = arm_summary(run, n_resamples=20)
    assert (row.best_epoch, row.final_epoch, row.rebound, row.rebound_cross_fitted) == (0, 0, 0, 0)
    assert row.best == row.final


def test_a_run_that_diverged_is_nan_and_not_flattered(tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, np.nan if epoch == 1 else 2.0)

    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=1, loss_fn=diverged))
    (row,) = arm_summary(run, n_resamples=20)
    assert (row.best, row.best_epoch) == (2.0, 0)
    assert math.isnan(row.final)
    assert math.isnan(row.rebound)
    assert math.isnan(row.rebound_cross_fitted)


def test_few_documents_warn(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=20, epochs=1))
    with pytest.warns(UserWarning, match="intervals over 10 documents"):
        arm_summary(run, n_resamples=20)


def test_what_is_known_of_a_cut_epoch(tmp_path: Path) -> None:
    def falling(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, 4.0 - epoch)

    def run(name: str, cut: float | None) -> Run:
        return open_run(
            make_run(tmp_path / name, name=name, n_documents=120, epochs=3, loss_fn=falling, cut=cut, status="running")
        )

    whole, cut, other = run("whole", None), run("cut", 2.4), run("other", 2.8)
    rows = arm_summary([whole, cut], n_resamples=5)
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
