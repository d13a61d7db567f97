"""Every function that compares buckets between epochs warns of those that the outcome chose, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.synthetic import make_study

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.analysis.estimands.bucket_maps import bucket_map
from dynamics.analysis.estimands.calibration import overconfidence
from dynamics.analysis.estimands.learning import epochs_to_reach_loss, learning_curves
from dynamics.analysis.estimands.trajectory_shares import class_shares
from dynamics.analysis.intervals.bootstrap import Resampling
from dynamics.analysis.tokens.buckets import make_buckets
from dynamics.records.reader import Study, open_study

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "bucket_dynamics": bucket_dynamics,
    "bucket_map": bucket_map,
    "class_shares": class_shares,
    "compare_arms": compare_arms,
    "epochs_to_reach_loss": lambda study, **how: epochs_to_reach_loss(study, 2.0, resampling=Resampling(n=5), **how),
    "learning_curves": learning_curves,
    "overconfidence": overconfidence,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return open_study(
        make_study(tmp_path_factory.mktemp("outcome") / "study", n_documents=120, epochs=2, seeds=(0, 1, 2))
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_once_and_by_name(study: Study, name: str) -> None:
    train = study.run("baseline", 0).records("train")
    for sound in ("reference_entropy", "frequency", "position"):
        FUNCTIONS[name](study, buckets=make_buckets(train, sound, n=2))  # warnings are errors
    with pytest.warns(UserWarning) as caught:
        FUNCTIONS[name](study, buckets=make_buckets(train, "reference_loss", n=2))
    (warning,) = caught
    assert str(warning.message).startswith("buckets by reference_loss are chosen by the outcome")
    assert warning.filename == __file__
