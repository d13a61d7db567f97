from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from support.synthetic import make_study

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.comparisons.limits import about_best_of_one_model, about_fixed
from dynamics.analysis.sums.arms import collect_arms
from dynamics.analysis.sums.ensembles import ensemble
from dynamics.plots.arm_tables.arm_table import arm_table
from dynamics.records.reader import open_study


def test_of_seeds_and_of_ensembles() -> None:
    one = (
        "comparisons with a, b generalise over documents alone, with the trained models held fixed, as of a single seed"
    )
    assert about_fixed({"b", "a"}) == f"{one}; run 2 seeds or more, 5 if you can"
    whole = about_fixed(["c (ensemble of 3)"])
    assert whole == (
        "comparisons with c (ensemble of 3) generalise over documents alone, with the trained models held fixed, as an "
        "ensemble is one model that is made of all its seeds"
    )
    assert about_fixed(["b", "c (ensemble of 3)", "a"]) == f"{one}; run 2 seeds or more, 5 if you can; {whole}"
    # An ensemble of one seed is that seed.
    assert "run 2 seeds or more" in about_fixed(["c (ensemble of 1)"]) and "run 2" not in about_fixed(
        ["c (ensemble of 11)"]
    )
    assert about_best_of_one_model([]) is None
    assert "with one seed the best epoch" in str(about_best_of_one_model(["a", "c (ensemble of 3)"]))
    assert "the best epoch of an ensemble" in str(about_best_of_one_model(["c (ensemble of 3)"]))


def test_an_ensemble_is_not_advised_to_run_more_seeds(tmp_path: Path) -> None:
    arms = collect_arms(open_study(make_study(tmp_path / "study", seeds=(0, 1, 2), n_documents=60, epochs=2)))
    both = [*arms, *map(ensemble, arms)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare_arms(both)
        bucket_contrasts(both)
        arm_table(both[2:3])
    said = [str(each.message) for each in caught]
    assert any("an ensemble is one model" in each for each in said)
    assert any("the best epoch of an ensemble" in each for each in said)
    assert not [each for each in said if "run 2 seeds" in each]
    assert not [each for each in arm_table(both[2:3]).limits if "run 2 seeds" in each]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_single_seed_is(tmp_path: Path) -> None:
    study = open_study(make_study(tmp_path / "study", seeds=(0,), n_documents=60, epochs=2))
    assert any("run 2 seeds or more" in each for each in arm_table(study).limits)
