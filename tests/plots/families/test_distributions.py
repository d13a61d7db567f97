from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from dynamics.analysis.estimands.entropy_distributions import EntropyDistribution
from dynamics.errors import InputError
from dynamics.plots.drawing.plot import root_figure
from dynamics.plots.families.distributions import as_distributions, distribution_rows, entropy_distribution
from dynamics.records.reader import Run, Study

HAND = EntropyDistribution(
    arm="entrodrop",
    n_seeds=1,
    split="train",
    edges=np.array([0.0, 1.0, 2.0]),
    epochs=np.array([0, 1]),
    density=np.array([[0.5, 0.5], [0.75, 0.25]]),
    reference=np.array([0.4, 0.6]),
    dropped_epochs=np.array([1]),
    dropped=np.array([[0.5, np.nan]]),
    pool=0.5,
    pool_low=0.1,
    pool_high=1.2,
)


def heights(ax: Any) -> list[list[float]]:
    return [patch.get_data().values.tolist() for patch in ax.patches]


def test_reference_dropped_part_and_the_epochs_own_entropy() -> None:
    ax = Figure().add_subplot()
    assert entropy_distribution(HAND, ax=ax).axes == [ax]
    assert heights(ax) == [[0.4, 0.6], [0.2, 0.0], [0.75, 0.25]]
    (pool,) = ax.lines
    assert np.asarray(pool.get_xdata()).tolist() == [0.1, 1.2]
    assert [text.get_text() for text in ax.texts] == ["pool: 50 %"]
    (legend,) = root_figure(ax).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["reference entropy", "dropped in epoch 1", "entropy in epoch 1"]


def test_another_epoch_and_no_interval() -> None:
    (ax,) = entropy_distribution(replace(HAND, pool_low=math.nan, pool_high=math.nan), epoch=0).axes
    assert heights(ax) == [[0.4, 0.6], [0.5, 0.5]]  # nothing dropped before training
    assert not ax.lines
    assert [text.get_text() for text in ax.texts] == ["pool: 50 %, ranked otherwise"]
    with pytest.raises(InputError, match="'entrodrop' has no epoch 7; it has 0, 1"):
        entropy_distribution(HAND, epoch=7)


def test_a_study_and_a_run(study: Study, started_run: Run) -> None:
    before = dict(matplotlib.rcParams)
    axes = entropy_distribution(study).axes
    assert [ax.get_title() for ax in axes] == study.arms
    # A pool for EntroDrop and for its inverse.
    assert [len(ax.lines) for ax in axes] == [0, 1, 0, 1]
    assert len({ax.get_ylim() for ax in axes}) == 1
    entropy_distribution(started_run)
    entropy_distribution(study.run("baseline", 0), split="validation")
    assert dict(matplotlib.rcParams) == before


def test_rows(study: Study) -> None:
    rows = distribution_rows([HAND])
    assert [(row["density"], row["reference_density"]) for row in rows] == [(0.75, 0.4), (0.25, 0.6)]
    assert rows[0]["dropped_share"] == 0.5
    table = distribution_rows(as_distributions(study, n_bins=10))
    assert len(table) == 4 * 10
    width = table[0]["entropy_to"] - table[0]["entropy_from"]
    assert sum(row["density"] for row in table[:10]) * width == pytest.approx(1.0)


def test_arms_after_different_passes_are_named_with_them() -> None:
    cut = replace(HAND, arm="cut", passes=np.array([0.0, 0.4]))
    axes = entropy_distribution([HAND, cut]).axes
    assert [ax.get_title().replace("\n", "") for ax in axes] == ["entrodrop (1 epoch)", "cut (0.4 epochs)"]
    assert {row["passes"] for row in distribution_rows([HAND, cut])} == {1.0, 0.4}
    assert "passes" not in distribution_rows([HAND])[0]
