"""Every result class says its columns: they can be shown and framed, and no array is left out of the data frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics import open_study
from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.power import pilot_design
from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.analysis.estimands.bucket_maps import bucket_map, loss_landscape
from dynamics.analysis.estimands.calibration import calibration, overconfidence
from dynamics.analysis.estimands.entropy_distributions import entropy_distributions
from dynamics.analysis.estimands.forgetting import forgetting
from dynamics.analysis.estimands.learning import epochs_to_reach_loss, learning_curves
from dynamics.analysis.estimands.summary import arm_curves, arm_summary
from dynamics.analysis.estimands.trajectory_shares import cartography, class_shares
from dynamics.analysis.estimands.value_curves import accuracy_curves, value_curves
from dynamics.analysis.intervals.bootstrap import Resampling
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.trajectories import token_trajectories
from dynamics.display.layouts import Layout
from dynamics.display.results import Results, Shown
from dynamics.records.reader import Study

FEW = Resampling(n=20)
ASKED: dict[str, Any] = {
    "compare_arms": compare_arms,
    "study_comparisons": study_comparisons,
    "bucket_contrasts": bucket_contrasts,
    "arm_summary": arm_summary,
    "arm_curves": arm_curves,
    "bucket_dynamics": bucket_dynamics,
    "bucket_map": lambda study: bucket_map(study, buckets=2, value="correct"),
    "loss_landscape": lambda study: loss_landscape(study, n_buckets=3),
    "overconfidence": overconfidence,
    "calibration": lambda study: calibration(study, n_bins=3, resampling=FEW),
    "value_curves": value_curves,
    "accuracy_curves": lambda study: accuracy_curves(study, buckets=2),
    "forgetting": lambda study: forgetting(study, split="validation"),
    "learning_curves": learning_curves,
    "epochs_to_reach_loss": lambda study: epochs_to_reach_loss(study, 2.0, resampling=FEW),
    "class_shares": class_shares,
    "cartography": lambda study: cartography(study, bins=(3, 4)),
    "entropy_distributions": lambda study: entropy_distributions(study, n_bins=5),
}


def diverged(epoch: int, split: str, entropy: Any, rng: np.random.Generator) -> Any:
    return np.full(entropy.shape, np.inf if epoch == 2 else 3.0) + rng.normal(0, 0.1, entropy.shape)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    arms: dict[str, dict[str, Any]] = {"baseline": {}, "gone": {}}
    folder: Path = tmp_path_factory.mktemp("layouts") / "study"
    fns = {"gone": diverged}
    return open_study(make_study(folder, arms=arms, loss_fns=fns, n_documents=100, epochs=2, seeds=(0, 1, 2)))


def classes(of: type = Shown) -> Iterator[type]:
    for each in of.__subclasses__():
        if each.__module__.startswith("dynamics.") and each is not OverEpochs:
            yield each
        yield from classes(each)


@pytest.mark.parametrize("name", ASKED)
def test_results_show_and_frame_themselves(name: str, study: Study) -> None:
    results = ASKED[name](study)
    assert isinstance(results, Results) and len(results) > 1
    text, frame = repr(results), results.to_frame()
    assert "gone" in text and "baseline" in text and "65504" not in text
    assert max(map(len, text.splitlines())) < 200
    assert "<table" in results._repr_html_() and len(frame) >= len(results) and frame.columns.is_unique
    assert "baseline" in repr(results[0]) and len(results[0].to_frame()) <= len(frame)
    layout = type(results[0]).layout
    assert isinstance(layout, Layout)
    said = {where for where, *_ in layout.arrays.values()} | {*layout.axes.values(), *layout.left_out}
    for each in fields(results[0]):
        if isinstance(getattr(results[0], each.name), np.ndarray | Interval):
            derived = {"values", "dropped", "dropped_epochs", "edges", "variability_edges", "confidence_edges"}
            assert each.name in said | derived, f"{name}: {each.name} is in no data frame"


def test_an_arm_that_diverged_has_no_number_anywhere(study: Study) -> None:
    for name in ("arm_summary", "arm_curves", "compare_arms", "bucket_contrasts", "bucket_dynamics", "class_shares"):
        lines = [line for line in repr(ASKED[name](study)).splitlines() if line.startswith("gone ")]
        assert lines and all("diverged" in line or "–" in line for line in lines), name
    for quantity in ("final", "best", "rebound", "area"):
        for row in compare_arms(study, quantity=quantity, margin=0.1):
            if "gone" in (row.arm, row.other):
                assert row.diverged == ("gone",)
                numbers = (row.estimate, row.low, row.high, row.probability, row.p_value, row.p_holm, row.p_bh)
                assert all(map(math.isnan, (*numbers, row.p_equivalent, row.p_equivalent_holm)))
    (shares,) = [row for row in class_shares(study) if row.arm == "gone"]
    assert np.isnan(shares.share.estimate).all()
    (learned,) = [row for row in learning_curves(study) if row.arm == "gone"]
    assert np.isnan(learned.validation.estimate[-1]).all() and np.isfinite(learned.validation.estimate[0]).all()


def test_every_class_of_results_shows_itself() -> None:
    found = list(classes())
    assert len(found) > 25
    assert all("__repr__" not in vars(each) for each in found), "a generated __repr__ hides the table"


def test_one_of_something(study: Study) -> None:
    found = token_trajectories(study.run("baseline", 0).records("validation"))
    assert repr(found).splitlines()[0] == "Trajectory: of the predicted tokens"
    assert len(found.to_frame()) == found.kind.size
    design = pilot_design(study, "baseline", "baseline")
    assert "standard error" in repr(design) and design.to_frame().seeds[0] == design.seeds
    assert (
        repr(Interval(np.array([0.3]), np.array([0.5]), np.array([0.4]))).split("\n")[1]
        == "  0  0.400 (0.300 to 0.500)"
    )
