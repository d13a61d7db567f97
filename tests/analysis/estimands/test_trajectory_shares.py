from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.trajectory_shares import cartography, class_shares
from dynamics.analysis.tokens.buckets import make_buckets, moving_buckets
from dynamics.analysis.tokens.trajectories import CLASSES, token_trajectories
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The planted curves of the synthetic records: low tokens fall, high ones rebound on validation from epoch 2."""
    return open_study(make_study(tmp_path_factory.mktemp("maps") / "study", n_documents=120, epochs=4))


def test_shares_of_planted_classes(study: Study) -> None:
    modes = make_buckets(study.run("baseline", 0).records("train"), edges=[2.0])
    baseline, _ = class_shares(study, buckets=modes, n_resamples=50)
    assert baseline.classes == CLASSES
    np.testing.assert_allclose(baseline.share.estimate.sum(axis=1), 1.0)
    # High-entropy validation tokens fall by 0.5 and rise by 0.5 again.
    np.testing.assert_allclose(baseline.share.estimate[1], [0, 0, 0, 0, 1])
    # Low-entropy ones fall to a sixteenth, from 0.1 to 1: the line by 0.206 or more where they begin above 0.24 or so.
    assert baseline.share.estimate[0, 0] == pytest.approx(1 - (0.2232 - 0.1) / 0.9, abs=0.05)
    assert baseline.share.estimate[0, 4] == 0
    train, _ = class_shares(study, split="train", buckets=modes, n_resamples=10)
    assert train.share.estimate[0, CLASSES.index("rebounding")] == 0


def test_classes_are_counted_token_by_token(study: Study) -> None:
    (arm,) = class_shares(study.run("entrodrop", 1), level=1.0, n_resamples=10)
    records = study.run("entrodrop", 1).records("validation")
    kind = token_trajectories(records, level=1.0).kind[records.predicted]
    np.testing.assert_allclose(arm.share.estimate[0], np.bincount(kind, minlength=5) / len(kind))
    with pytest.raises(InputError, match="crosses moving buckets"):
        class_shares(study, buckets=moving_buckets(2))


def test_cartography_counts_every_predicted_token(study: Study) -> None:
    baseline, _ = cartography(study, bins=(10, 20))
    records = study.run("baseline", 0).records("train")
    assert baseline.n_tokens.shape == (10, 20)
    assert baseline.n_tokens.sum() == records.predicted.sum()
    found = token_trajectories(records)
    x = int(found.variability[0, 1] / 0.05)
    y = int(found.confidence[0, 1] / 0.05)
    inside = (found.variability // 0.05 == x) & (found.confidence // 0.05 == y)
    assert baseline.n_tokens[x, y] == pytest.approx(inside.sum(), abs=1)
    assert baseline.correctness[x, y] == pytest.approx(found.correctness[inside].mean(), abs=0.05)
    assert np.isnan(baseline.correctness[baseline.n_tokens == 0]).all()


def test_the_map_needs_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epoch 0 alone"):
        cartography(open_run(make_run(tmp_path / "run", epochs=[0])))


def test_tokens_are_followed_over_the_epochs_that_all_arms_have(tmp_path: Path) -> None:
    def falls_then_leaps(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, [4.0, 3.0, 2.0, 3.5][epoch])

    whole, cut = (
        open_run(make_run(tmp_path / name, name=name, n_documents=120, epochs=3, cut=passes, loss_fn=falls_then_leaps))
        for name, passes in (("whole", None), ("cut", 2.4))
    )
    rebounding = CLASSES.index("rebounding")
    assert [arm.share.estimate[0, rebounding] for arm in class_shares(whole, n_resamples=5)] == [1.0]
    message = "different passes over the data: tokens are followed over epochs 0 to 2, which all arms have"
    with pytest.warns(UserWarning, match=message):
        rows = class_shares([whole, cut], n_resamples=5)
    assert [arm.share.estimate[0, rebounding] for arm in rows] == [0.0, 0.0]
    with pytest.warns(UserWarning, match=message):
        first, second = cartography([whole, cut], bins=(10, 20))
    np.testing.assert_array_equal(first.n_tokens, second.n_tokens)
    # Over two epochs of training: exp(-3) and exp(-2) have the mean 0.0926, in the second of 20 bins.
    assert first.n_tokens[:, 1].sum() == first.n_tokens.sum() > 0
