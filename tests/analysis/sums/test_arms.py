from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics import plots
from dynamics.analysis.sums.arms import (
    Arm,
    as_buckets,
    at_common_epochs,
    collect_arms,
    default_baseline,
    reference_buckets,
    shared_epochs,
)
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.tokens.buckets import TwoWayBuckets, make_buckets, moving_buckets
from dynamics.errors import InputError
from dynamics.records.reader import Run, open_run, open_study


def by_seed(epoch: int, split: str, entropy: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """A loss that differs between seeds and between tokens."""
    return np.asarray(entropy + rng.random(entropy.shape))


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arms") / "study"
    return make_study(path, n_documents=30, epochs=2, seeds=(3, 5), loss_fns={"baseline": by_seed})


def test_a_study_gives_its_arms_in_recipe_order(study_path: Path) -> None:
    arms = collect_arms(open_study(study_path))
    assert [arm.name for arm in arms] == ["baseline", "entrodrop"]
    assert [[run.path.name for run in arm.runs] for arm in arms] == [["seed-3", "seed-5"]] * 2
    assert arms[0].epochs == [0, 1, 2]


def test_sums_are_the_mean_over_seeds_and_read_once(study_path: Path) -> None:
    study = open_study(study_path)
    arm = collect_arms(study)[0]
    expected = []
    for seed in study.seeds:
        records = study.run("baseline", seed).records("validation")
        expected.append([records.loss(e)[records.predicted].mean(dtype=float) for e in range(3)])
    assert expected[0] != expected[1]
    sums = arm.sums("validation")
    np.testing.assert_allclose(mean_curve(sums)[:, 0], np.mean(expected, axis=0), rtol=1e-12)
    assert arm.seed_sums("validation") is arm.seed_sums("validation")
    two = arm.sums("validation", buckets=reference_buckets([arm]))
    assert two.labels == ("low", "high")
    np.testing.assert_allclose(two.sums.sum(axis=2), sums.sums[:, :, 0], rtol=1e-12)


def test_buckets_are_frozen_from_the_training_tokens(study_path: Path) -> None:
    arms = collect_arms(open_study(study_path))
    train = arms[0].runs[0].records("train")
    edge = np.median(train.reference_entropy[train.predicted].astype(float))
    assert reference_buckets(arms).edges.tolist() == [edge]


def test_a_run_is_an_arm_of_one_seed(study_path: Path) -> None:
    run = open_study(study_path).run("entrodrop", 5)
    (arm,) = collect_arms(run)
    assert (arm.name, arm.runs) == (run.name, [run])
    assert collect_arms([arm]) == [arm]


def test_equal_names_are_told_apart_by_place(study_path: Path, tmp_path: Path) -> None:
    study = open_study(study_path)
    other = open_run(make_run(tmp_path / "x" / "mine", n_documents=30, name="baseline"))
    names = [arm.name for arm in collect_arms([study, other])]
    assert names == ["study/baseline", "entrodrop", "x/mine"]


@pytest.mark.parametrize(
    ("names", "baseline"),
    [
        (["entrodrop", "no-dropout/control", "baseline"], "baseline"),
        (["entrodrop", "Baseline_long", "my-none"], "Baseline_long"),
        (["a", "none.5"], "none.5"),
        (["entrodrop (ensemble of 3)", "baseline (ensemble of 3)"], "baseline (ensemble of 3)"),
        (["nonesuch", "controlled"], "nonesuch"),  # the first, where no name says so
    ],
)
def test_the_baseline_is_what_is_called_so_or_the_first(names: list[str], baseline: str) -> None:
    assert default_baseline([SimpleNamespace(name=name) for name in names]) == baseline


def test_an_arm_that_has_not_begun_is_left_out(tmp_path: Path) -> None:
    skip = [("entrodrop", 0), ("entrodrop", 1), ("baseline", 1)]
    study = open_study(make_study(tmp_path / "study", epochs=1, skip=skip))
    arms = collect_arms(study)
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("baseline", 1)]


def test_nothing_recorded_is_refused(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", epochs=1))
    run.epochs = []
    with pytest.raises(InputError, match=r"no complete epoch is recorded in .*run"):
        collect_arms(run)
    with pytest.raises(InputError, match="no complete epoch"):
        collect_arms([])


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    first = open_run(make_run(tmp_path / "first", epochs=1))
    second = open_run(make_run(tmp_path / "second", epochs=1, corpus_seed=2))
    with pytest.raises(InputError, match=r"first and .*second have different tokens"):
        collect_arms([first, second])


def test_seeds_that_are_behind_cut_the_epochs_with_a_warning(study_path: Path) -> None:
    study = open_study(study_path)
    ahead, behind = study.run("entrodrop", 3), study.run("entrodrop", 5)
    behind.epochs = [0, 1]
    arm = Arm("entrodrop", [ahead, behind])
    with pytest.warns(UserWarning, match="'entrodrop': only epochs 0 to 1"):
        assert arm.sums("validation").epochs.tolist() == [0, 1]
    behind.epochs = [7]
    with pytest.raises(InputError, match="no epoch that is complete in all its 2 runs"):
        _ = Arm("entrodrop", [ahead, behind]).epochs


def test_one_bucket_of_all_tokens_needs_no_training_tokens() -> None:
    class Validation:
        splits = ["validation"]

        def records(self, split: str):
            assert split == "validation"
            predicted = np.ones((1, 3), dtype=bool)
            return SimpleNamespace(predicted=predicted, reference_entropy=np.array([[0.5, 1.0, 2.0]]))

    everything = reference_buckets([SimpleNamespace(runs=[Validation()])], 1)
    assert everything.n == 1 and everything.edges.tolist() == []
    with pytest.raises(AssertionError):
        reference_buckets([SimpleNamespace(runs=[Validation()])], 2)


def test_a_cut_epoch_lies_at_its_passes_and_is_no_other_seeds_whole_one(tmp_path: Path) -> None:
    cut = [open_run(make_run(tmp_path / f"cut-{seed}", epochs=3, seed=seed, cut=2.5)) for seed in (0, 1)]
    arm = Arm("cut", cut)
    assert arm.epochs == [0, 1, 2, 3]
    assert arm.passes.tolist() == [0.0, 1.0, 2.0, 2.5]
    whole = open_run(make_run(tmp_path / "whole", epochs=3, seed=2))
    mixed = Arm("mixed", [*cut, whole])
    with pytest.warns(UserWarning, match="only epochs 0 to 2 were recorded after the same passes in all 3 seeds"):
        assert mixed.epochs == [0, 1, 2]


def test_arms_are_cut_to_the_epochs_that_all_have_after_the_same_passes(tmp_path: Path) -> None:
    def run(name: str, epochs: int, cut: float | None = None) -> Run:
        return open_run(make_run(tmp_path / name, name=name, epochs=epochs, cut=cut))

    whole, cut, longer = run("whole", 3), run("cut", 3, 2.5), run("longer", 4)
    assert [arm.epochs for arm in at_common_epochs([whole, cut])] == [[0, 1, 2], [0, 1, 2]]
    assert [arm.epochs for arm in at_common_epochs([whole, longer])] == [[0, 1, 2, 3]] * 2
    alike = [Arm("one", [cut]), Arm("two", [cut])]
    assert at_common_epochs(alike) == alike and shared_epochs(alike) == [0, 1, 2, 3]
    _, arm = at_common_epochs([whole, cut])
    assert arm.passes.tolist() == [0.0, 1.0, 2.0] and arm.sums("validation").epochs.tolist() == [0, 1, 2]
    # Beside a run an arm keeps what was chosen.
    assert [each.epochs for each in collect_arms([arm, longer])] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    with pytest.raises(InputError, match=r"'a': epochs=\[2, 3\] are not all recorded .* 2 runs; choose of \[0, 1, 2\]"):
        _ = Arm("a", [whole, cut], epochs=[2, 3]).epochs
    with pytest.raises(InputError, match="whole, elsewhere have no epoch that all recorded after the same passes"):
        at_common_epochs([whole, open_run(make_run(tmp_path / "elsewhere", name="elsewhere", epochs=[5]))])


def test_buckets_that_the_outcome_chose_warn_once_and_name_the_remedy(study_path: Path) -> None:
    arms = collect_arms(open_study(study_path))
    train = arms[0].runs[0].records("train")
    position = make_buckets(train, "position", n=2)
    for buckets in (2, position, make_buckets(train, n=3), make_buckets(train, "frequency", n=2)):
        as_buckets(arms, buckets)  # warnings are errors here
    for buckets, by in (
        (make_buckets(train, "reference_loss", n=2), "reference_loss"),
        (moving_buckets(2), "current entropy"),
        (moving_buckets(2, value="loss"), "current loss"),
        (TwoWayBuckets(position, make_buckets(train, "reference_loss", n=2)), "position and reference_loss"),
    ):
        message = f"by {by} are chosen by the outcome: .* regression to the mean .* reference model's entropy"
        with pytest.warns(UserWarning, match=message) as caught:
            assert as_buckets(arms, buckets) is buckets
        assert len(caught) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("runs/x", "'runs/x' is a path, not a study or run; open it with dynamics.open_any first"),
        (Path("runs/x"), "'runs/x' is a path"),
        (["runs/x"], "'runs/x' is a path"),
        (None, "got NoneType; give one or more of Study, Run, Arm"),
        (3, "got int; give"),
        ([{}], "got dict; give"),
    ],
    ids=str,
)
def test_anything_else_than_studies_runs_and_arms_is_refused(data: Any, message: str) -> None:
    for look in (collect_arms, plots.gap, plots.curriculum, plots.comparisons):
        with pytest.raises(InputError, match=message):
            look(data)
