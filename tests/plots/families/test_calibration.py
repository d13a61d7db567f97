from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from dynamics.analysis.estimands.calibration import Calibration
from dynamics.analysis.intervals.interval import Interval
from dynamics.errors import InputError
from dynamics.plots.families.calibration import (
    as_overconfidences,
    calibration,
    calibration_rows,
    overconfidence,
    overconfidence_rows,
)
from dynamics.records.reader import Run, Study


def around(values: Any) -> Interval:
    array = np.asarray(values, dtype=float)
    return Interval(array - 0.25, array + 0.25, array)


ENTROPY = np.array([[1.0, 2.0], [0.5, 1.5]])
HAND = Calibration(
    arm="a",
    n_seeds=1,
    split="validation",
    epochs=np.array([0, 2]),
    entropy=ENTROPY,
    loss=around(ENTROPY + 0.5),
    accuracy=around([[0.5, 0.25]] * 2),
    difference=around(np.full((2, 2), 0.5)),
    certainty=np.exp(-ENTROPY),
    share=np.full((2, 2), 0.5),
    error=around([0.5, 0.5]),
    argmax_error_floor=around([0.0, 0.125]),
)


def test_loss_against_entropy_of_the_last_epoch_or_another() -> None:
    ax = Figure().add_subplot()
    assert calibration(HAND, ax=ax).ax is ax
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0.5, 1.5])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, 2.0])
    bars: Any = ax.collections[0]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.75, 1.25], [1.75, 2.25]]
    # The diagonal, across equal axes.
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), ax.lines[1].get_ydata())
    assert ax.get_xlim() == ax.get_ylim()
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a: 0.50", "calibrated"]
    assert legend.get_title().get_text().startswith("after epoch 2; ")
    first = calibration(HAND, epoch=0).ax
    np.testing.assert_array_equal(first.lines[0].get_xdata(), [1.0, 2.0])
    with pytest.raises(InputError, match="arm 'a' has no epoch 1; it has 0, 2"):
        calibration(HAND, epoch=1)


def test_calibration_rows() -> None:
    rows = calibration_rows([HAND])
    assert {row["over"] for row in rows} == {"documents"}
    assert [(row["epoch"], row["bin"], row["entropy"], row["loss"]) for row in rows] == [
        (2, 1, 0.5, 1.0),
        (2, 2, 1.5, 2.0),
    ]
    assert rows[0]["entropy_calibration_error"] == 0.5
    assert rows[0]["argmax_error_floor"] == 0.125
    assert [row["epoch"] for row in calibration_rows([HAND], epoch=0)] == [0, 0]


def test_a_study_and_a_run(study: Study, started_run: Run) -> None:
    before = dict(matplotlib.rcParams)
    ax = calibration(study, n_bins=4, n_resamples=20).ax
    assert len(ax.lines) == len(study.arms) + 1
    calibration(started_run, n_bins=4, n_resamples=20)
    (ax,) = overconfidence(started_run).axes
    legend = ax.get_legend()
    assert legend is not None and legend.get_title().get_text() == "band: 95 % over documents"
    assert dict(matplotlib.rcParams) == before


def test_overconfidence_is_loss_minus_entropy(study: Study, losses: dict[str, list[float]]) -> None:
    rows = as_overconfidences(study, buckets=2)
    axes = overconfidence(rows).axes
    assert [ax.get_title() for ax in axes] == ["low entropy", "high entropy"]
    table = overconfidence_rows(rows)
    assert len(table) == 4 * 2 * 4
    assert {row["over"] for row in table} == {"seeds_and_documents"}
    assert axes[0].figure.legends[0].get_title().get_text() == "band: 95 % over seeds and documents"
    drawn = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes[1].lines}
    for arm in study.arms:
        values = [row["overconfidence"] for row in table if (row["arm"], row["bucket"]) == (arm, "high")]
        np.testing.assert_array_equal(drawn[arm], values)
        # The synthetic entropy of these tokens is about 4 x 0.9 an epoch.
        expected = np.array(losses[arm]) - 4 * 0.9 ** np.arange(4)
        np.testing.assert_allclose(values, expected, atol=0.1)


def test_arms_after_different_passes_are_named_with_them() -> None:
    cut = replace(HAND, arm="b", passes=np.array([0.0, 1.5]))
    legend = calibration([HAND, cut]).ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["a (2 epochs): 0.50", "b (1.5 epochs): 0.50", "calibrated"]
    assert legend.get_title().get_text().startswith("after epoch 1.5, 2; ")
    assert {row["passes"] for row in calibration_rows([HAND, cut])} == {2.0, 1.5}
