from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.errors import InputError
from dynamics.plots.drawing.style import arm_styles
from dynamics.plots.families.gap import as_gaps, gap, gap_rows
from dynamics.records.reader import Run, Study


def test_the_planted_gap_is_drawn_into_the_given_axes(study: Study) -> None:
    before = dict(matplotlib.rcParams)
    left, right = Figure().subplots(1, 2)
    assert gap(study, ax=right).axes == [right]
    assert not left.lines
    drawn = {str(line.get_label()): line for line in right.lines}
    for arm in study.arms:
        np.testing.assert_allclose(np.asarray(drawn[arm].get_ydata()), 1.0)
        assert drawn[arm].get_color() == arm_styles(study.arms)[arm].color
    assert right.get_ylabel() == "Generalisation gap\n(nats per token)"
    low, high = right.get_ylim()
    assert low < 0 < 1 < high
    assert dict(matplotlib.rcParams) == before


def test_a_panel_for_each_bucket(study: Study) -> None:
    dynamics = bucket_dynamics(study)
    axes = gap(dynamics).axes
    assert [ax.get_title() for ax in axes] == ["low entropy", "high entropy"]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    with pytest.raises(InputError, match="2 buckets need 2 axes, and 1 were given"):
        gap(dynamics, ax=Figure().add_subplot())
    assert as_gaps(dynamics[0]) == [dynamics[0]]


def test_runs_and_one_epoch(study: Study, started_run: Run) -> None:
    (ax,) = gap([study.run("baseline", 0), study.run("random", 1)]).axes
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["baseline-0", "random-1"]
    note = legend.get_title().get_text().replace("\n", " ")
    assert note == "large marker: best epoch on validation; band: 95 % over documents"
    (ax,) = gap(started_run).axes
    assert len(ax.containers) == 1


def test_rows(study: Study) -> None:
    rows = gap_rows(as_gaps(study, buckets=2))
    assert len(rows) == 4 * 2 * 4
    assert {row["bucket"] for row in rows} == {"low", "high"}
    for row in rows:
        assert [row["gap"], row["low"], row["high"]] == pytest.approx([1.0] * 3)
        assert row["over"] == "seeds_and_documents"
