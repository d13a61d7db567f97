from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.synthetic import make_run, make_study

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.estimands.summary import arm_summary, dropped_share_by_epoch
from dynamics.analysis.estimands.trajectory_shares import class_shares
from dynamics.analysis.sums.arms import Arm, at_common_epochs, collect_arms, reference_buckets
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.ensembles import ensemble, ensemble_loss
from dynamics.analysis.tokens.buckets import moving_buckets
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study


def by_seed(epoch: int, split: str, entropy: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.asarray(entropy * rng.uniform(0.2, 3.0, entropy.shape) + 0.1 * epoch)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("ensembles") / "study"
    arms = {"baseline": {}, "entrodrop": {"regularizers": [{"name": "entrodrop", "ratio": 0.2, "pool": 0.5}]}}
    loss_fns = dict.fromkeys(arms, by_seed)
    return open_study(make_study(path, arms=arms, n_documents=30, epochs=2, seeds=(0, 1, 2), loss_fns=loss_fns))


def probability(records: Any, epoch: int) -> Any:
    return np.exp(-records.loss(epoch).astype(np.float64))


def test_the_probability_is_the_mean_of_the_seeds(study: Study) -> None:
    arm = collect_arms(study)[0]
    both = ensemble(arm)
    assert both.name == "baseline (ensemble of 3)" and both.epochs == [0, 1, 2] and both.members == arm.runs
    (part,) = both.seed_sums("validation")
    halves = reference_buckets([arm])
    (split,) = both.seed_sums("validation", buckets=halves)
    moving = moving_buckets(3, value="loss")
    (moved,) = both.seed_sums("validation", buckets=moving)
    assert both.sums("validation").sums.tolist() == part.sums.tolist()
    of = [run.records("validation") for run in arm.runs]
    predicted, document = of[0].predicted, of[0].document_id
    bucket = halves.index(of[0])
    for e in range(3):
        loss = -np.log(np.mean([probability(records, e) for records in of], axis=0))
        for d in range(15):
            here = predicted & (document == d)
            assert part.sums[e, d, 0] == pytest.approx(loss[here].sum(), rel=1e-12)
            assert part.counts[d, 0] == here.sum()
            assert split.sums[e, d, 1] == pytest.approx(loss[here & (bucket == 1)].sum(), rel=1e-12)
        # Moving buckets are those of the ensemble's own loss.
        edges = np.quantile(loss[predicted], [1 / 3, 2 / 3])
        now = np.searchsorted(edges, loss, side="right")
        for k in range(3):
            total = moved.sums[e, :, k].sum() / moved.counts[e, :, k].sum()
            assert total == pytest.approx(loss[predicted & (now == k)].mean(), rel=1e-9)
    # Jensen: below the seeds' mean.
    assert (mean_curve(part) < mean_curve(arm.sums("validation"))).all()


def test_it_goes_where_arms_go(study: Study) -> None:
    arms = collect_arms(study)
    both = [ensemble(arm) for arm in arms]
    assert [arm.name for arm in collect_arms([study, *both])][2:] == [arm.name for arm in both]
    # Arms that are made anew from it are still of the ensemble.
    again = collect_arms([study, *both])[2]
    assert again.sums("train").sums.tolist() == both[0].sums("train").sums.tolist()
    short = Arm("short", [study.run("baseline", 0)], epochs=[0, 1])
    cut, _ = at_common_epochs([both[0], short])
    assert cut.sums("train").sums.tolist() == both[0].sums("train").sums[:2].tolist()
    # As an arm of one seed its best epoch is chosen by itself.
    with (
        pytest.warns(UserWarning, match="generalise over documents alone"),
        pytest.warns(UserWarning, match="cannot be told from a rebound"),
    ):
        row = compare_arms([both[0], arms[0]])[0]
        compare_arms([both[0], arms[0]], quantity="best")
        with pytest.raises(InputError, match="1 seed says nothing"):
            compare_arms([both[0], arms[0]], over="seeds_and_documents")
        summary = arm_summary([both[1], arms[1]])
    assert row.n_seeds == (1, 3)
    expected = mean_curve(both[0].sums("validation"))[-1, 0] - mean_curve(arms[0].sums("validation"))[-1, 0]
    assert row.estimate == pytest.approx(expected)
    # What was dropped is the mean over its members' training.
    assert summary[0].dropped_share == pytest.approx(summary[1].dropped_share) and summary[0].dropped_share > 0
    assert dropped_share_by_epoch(both[1]) == pytest.approx(dropped_share_by_epoch(arms[1]))


def test_what_records_do_not_hold_is_refused_by_name(study: Study) -> None:
    both = ensemble(collect_arms(study)[1])
    for value in ("entropy", "correct"):
        with pytest.raises(InputError, match=f"'{value}' of an ensemble is not known"):
            both.sums("validation", value=value)
    with pytest.raises(InputError, match="'entropy' of an ensemble"):
        both.sums("validation", value="certainty")
    with pytest.raises(InputError, match="'entropy' of an ensemble"):
        both.sums("validation", buckets=moving_buckets(2))
    with pytest.warns(UserWarning, match="one seed"), pytest.raises(InputError, match="'correct' of an ensemble"):
        class_shares(both)
    run = both.runs[0]
    with pytest.raises(InputError, match="'dropped' of an ensemble"):
        run.records("train").dropped(1)
    with pytest.raises(InputError, match="ensemble of 3 has no data set"):
        run.records("train").to_xarray()
    with pytest.raises(InputError, match="ensemble of 3 cannot be explored"):
        run.explore()
    with pytest.raises(InputError, match="no complete epoch 9"):
        run.records("train").loss(9)
    with pytest.raises(InputError, match="no split 'test'"):
        run.records("test")
    with pytest.raises(InputError, match="is an ensemble already"):
        ensemble(both)
    assert run.step(1) == 10 and run.config["name"] == study.run("entrodrop", 0).config["name"]


def test_one_seed_is_itself_and_a_cut_epoch_lies_where_it_was_cut(tmp_path: Path) -> None:
    runs = [open_run(make_run(tmp_path / f"{s}", epochs=2, seed=s, loss_fn=by_seed, cut=1.5)) for s in range(2)]
    one = Arm("one", runs[:1])
    np.testing.assert_array_equal(ensemble(one).sums("train").sums, one.sums("train").sums)
    both = ensemble(Arm("two", runs))
    assert both.passes.tolist() == [0, 1, 1.5] and both.sums("train").at.tolist() == [0, 1, 1.5]
    # Seeds that ended elsewhere: only what all have.
    mixed = Arm("mixed", [runs[0], open_run(make_run(tmp_path / "whole", epochs=2, seed=2, loss_fn=by_seed))])
    with pytest.warns(UserWarning, match="only epochs 0 to 1"):
        cut = ensemble(mixed)
    assert cut.passes.tolist() == [0, 1]


def test_a_seed_that_diverged_is_not_left_out(tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
        return np.where(epoch == 1, np.nan, entropy)

    good = open_run(make_run(tmp_path / "good", epochs=2))
    bad = open_run(make_run(tmp_path / "bad", epochs=2, seed=1, loss_fn=diverged))
    curve = mean_curve(ensemble(Arm("a", [good, bad])).sums("validation"))[:, 0]
    assert np.isnan(curve).tolist() == [False, True, False]


def test_losses_beyond_what_probabilities_can_hold() -> None:
    members = [np.array([[2000.0, 65504.0, 0.0, 0.0, np.nan]]), np.array([[2001.0, 1.0, 0.0, 3.0, 1.0]])]
    expected = [2000 - np.log((1 + np.exp(-1)) / 2), 1 + np.log(2), 0.0, -np.log((1 + np.exp(-3)) / 2), np.nan]
    for dtype in (np.float16, np.float32):
        found = ensemble_loss([member.astype(dtype) for member in members])
        assert found.dtype == np.float64
        np.testing.assert_allclose(found[0], expected, rtol=1e-14, atol=1e-15)


@given(arrays(np.float64, (3, 20), elements=st.floats(0.0, 30.0)))
def test_rounding_to_float16_is_never_worse_than_that_of_the_worst_member(losses: np.ndarray[Any, Any]) -> None:
    rounded = losses.astype(np.float16)
    found, exact = ensemble_loss(list(rounded)), ensemble_loss(list(losses))
    worst = np.abs(rounded.astype(np.float64) - losses).max(axis=0)
    assert (np.abs(found - exact) <= worst + 1e-12).all()
    assert (worst <= np.maximum(losses.max(axis=0) * 2.0**-11, 2.0**-25)).all()


def test_memory_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    runs = [
        open_run(make_run(tmp_path / str(s), n_documents=200, block_size=64, epochs=11, seed=s, loss_fn=by_seed))
        for s in range(2)
    ]

    def peak(n_epochs: int) -> int:
        arm = ensemble(Arm("a", runs, epochs=range(n_epochs)))
        tracemalloc.start()
        arm.sums("train")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(2)
    n_tokens = runs[0].records("train").token_id.size
    assert peak(12) - peak(4) < 8 * n_tokens  # less than one epoch more
