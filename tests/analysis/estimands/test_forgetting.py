from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hand_made import sums_of
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.forgetting import change_since, forgetting, forgetting_table
from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.tokens.buckets import moving_buckets
from dynamics.analysis.tokens.groups import groups_by_regex
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

FEW = pytest.mark.filterwarnings("ignore:intervals over", "ignore:2 seeds hardly:UserWarning")


def forgets(epoch: int, split: str, entropy: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """General text is forgotten by a quarter of a nat an epoch, whatever a token's loss; other text is learned."""
    return np.asarray(entropy + (0.25 if split == "validation-general" else -0.01) * epoch)


def keeps(epoch: int, split: str, entropy: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.asarray(entropy - 0.015625 * epoch)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("forgetting") / "study"
    loss_fns = {"baseline": forgets, "entrodrop": keeps}
    splits = ("train", "validation", "validation-general")
    return open_study(
        make_study(path, n_documents=40, epochs=2, held_out=splits[1:], loss_fns=loss_fns, dtype="float32")
    )


@FEW
def test_the_planted_rise_and_its_interval_of_no_width(study: Study) -> None:
    baseline, entrodrop = forgetting(study)
    assert (baseline.split, baseline.unit, baseline.n_seeds) == (
        "validation-general",
        "nats per token above epoch 0",
        2,
    )
    np.testing.assert_allclose(baseline.values.estimate[:, 0], [0, 0.25, 0.5], atol=1e-6)
    np.testing.assert_allclose(entrodrop.values.estimate[:, 0], [0, -0.015625, -0.03125], atol=1e-6)
    # Paired by token: documents differ by nats in their loss, and not at all in what is forgotten of them.
    np.testing.assert_allclose(baseline.values.high - baseline.values.low, 0, atol=1e-6)
    assert baseline.final.estimate[0] == pytest.approx(0.5, abs=1e-6)
    # On the domain's own text, from another epoch on, by group.
    groups = groups_by_regex({"short": r"^\d:"}, other="long")
    later, _ = forgetting(study, split="validation", since=1, buckets=groups)
    np.testing.assert_allclose(later.values.estimate, [[0.01, 0.01], [0, 0], [-0.01, -0.01]], atol=1e-6)


@FEW
def test_the_table(study: Study) -> None:
    groups = groups_by_regex({"short": r"^\d:"}, other="a|b")
    assert forgetting_table(forgetting(study)) == (
        "| Arm | 0 | 1 | 2 | Final interval |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| baseline | +0.000 | +0.250 | +0.500 | +0.500 to +0.500 |\n"
        "| entrodrop | +0.000 | -0.016 | -0.031 | -0.031 to -0.031 |\n"
    )
    rows = forgetting_table(forgetting(study, buckets=groups), digits=2).splitlines()
    assert rows[3] == "| baseline, a\\|b | +0.00 | +0.25 | +0.50 | +0.50 to +0.50 |"
    assert forgetting_table([]) == "| Arm | Final interval |\n| --- | --- |\n"


@FEW
def test_arms_that_ended_elsewhere_and_losses_that_are_nan(study: Study, tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
        return np.where(epoch == 2, np.nan, entropy)

    cut = open_run(make_run(tmp_path / "cut", n_documents=20, epochs=2, cut=1.5, loss_fn=keeps, name="cut"))
    bad = open_run(make_run(tmp_path / "bad", n_documents=20, epochs=2, loss_fn=diverged, name="bad"))
    curves = forgetting([cut, bad], split="validation")
    lines = forgetting_table(curves).splitlines()
    assert lines[0] == "| Arm | 0 | 1 | 1.5 | 2 | Final interval |"
    assert lines[3] == "| bad | +0.000 | +0.000 | – | – | – to – |"


def test_what_cannot_be_asked(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'validation-generel': .*; did you mean 'validation-general'"):
        forgetting(study, split="validation-generel")
    later = Arm("later", [study.run("baseline", 0)], epochs=[1, 2])
    with pytest.raises(InputError, match=r"arm 'later' has no epoch 0 to compare with; choose since= of \[1, 2\]"):
        forgetting(later)
    with pytest.raises(InputError, match="moving buckets have others; use frozen"):
        forgetting(study, buckets=moving_buckets(2))


def test_change_since_by_hand() -> None:
    sums = np.array([[[4.0], [10.0]], [[5.0], [8.0]], [[6.0], [12.0]]])
    changed = change_since(sums_of(sums, np.array([[2.0], [4.0]])), 1)
    assert changed.sums[:, :, 0].tolist() == [[-1, 2], [0, 0], [1, 4]]
    assert changed.counts.tolist() == [[2], [4]]
