from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from support.synthetic import make_run

from dynamics.analysis.estimands.summary import ArmCurve
from dynamics.analysis.estimands.value_curves import ValueCurve
from dynamics.analysis.intervals.interval import Interval
from dynamics.errors import InputError
from dynamics.plots.drawing.style import arm_styles
from dynamics.plots.families.degradation import (
    TaskCurves,
    as_curves,
    as_task_curves,
    degradation,
    degradation_rows,
    task_curve,
)
from dynamics.plots.families.minus_baseline import as_differences
from dynamics.records.reader import Run, Study, open_run


def curve(name: str, loss: list[float], *, width: float = 0.1) -> ArmCurve:
    values = np.array(loss)
    return ArmCurve(name, 2, np.arange(len(loss)), values, values - width, values + width)


def test_levels_are_drawn_into_the_given_axes(study: Study, losses: dict[str, list[float]]) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    plot = degradation(study, ax=right)
    assert plot.axes == [right] and not left.lines
    drawn: dict[Any, Any] = {line.get_label(): line for line in right.lines}
    for arm, loss in losses.items():
        # A name is followed by the rebound, where there is one.
        (line,) = [line for label, line in drawn.items() if label.split()[0] == arm]
        np.testing.assert_allclose(line.get_ydata(), loss)
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2, 3])
        assert line.get_color() == arm_styles(list(losses))[arm].color
        # The marker stands at the best epoch alone.
        assert line.get_markevery() == [int(np.argmin(loss))]
    assert right.get_xlabel() == "Training (epochs)"
    assert right.get_ylabel() == "Validation loss (nats per token)"
    # Lines of several arms are bare.
    assert not right.collections


def test_the_second_panel_is_each_arm_minus_the_baseline(study: Study, losses: dict[str, list[float]]) -> None:
    plot = degradation(study)
    levels, differences = plot.axes
    assert not levels.collections and len(differences.collections) == 3
    assert differences.get_ylabel() == "Validation loss minus baseline\n(nats per token)"
    drawn: dict[Any, Any] = {line.get_label(): line for line in differences.lines}
    styles = arm_styles(list(losses))
    for arm in ("entrodrop", "random", "inverse"):
        np.testing.assert_allclose(drawn[arm].get_ydata(), np.subtract(losses[arm], losses["baseline"]), atol=1e-12)
        assert drawn[arm].get_color() == styles[arm].color
    assert "baseline" not in drawn
    plt.close(plot.figure)


def test_which_arm_is_subtracted_and_where_none_is(study: Study, plain_run: Run) -> None:
    (ax,) = degradation(study.run("baseline", 0)).axes
    assert len(ax.collections) == 1  # a line that is alone has its band
    assert len(degradation([study.run("entrodrop", 0), plain_run]).axes) == 1
    plot = degradation(study, baseline="random")
    assert [line.get_label() for line in plot.axes[1].lines[1:]] == ["baseline", "entrodrop", "inverse"]
    (legend,) = plot.figure.legends
    assert "baseline: random" in legend.get_title().get_text()
    with pytest.raises(InputError, match="no arm 'randm' to subtract"):
        degradation(study, baseline="randm")
    with pytest.raises(InputError, match="2 panels need 2 axes, and 1 were given"):
        degradation(study, axes=[Figure().add_subplot()])
    plt.close("all")


def test_the_band_of_one_line_is_the_given_interval() -> None:
    ax = degradation([curve("a", [3.0, 2.0, 2.5])]).ax
    (band,) = ax.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert {(0.0, 2.9), (1.0, 1.9), (2.0, 2.4), (0.0, 3.1), (1.0, 2.1), (2.0, 2.6)} <= {
        (float(x), round(float(y), 9)) for x, y in corners
    }
    assert "band: 95 % over documents" in ax.get_title(loc="left")


def test_labels_give_the_rebound_and_fall_back_to_a_legend() -> None:
    apart = [curve("up", [3.0, 2.0, 2.5]), curve("down", [3.0, 2.5, 1.0])]
    ax = degradation(apart).ax
    assert [text.get_text() for text in ax.texts] == ["up +0.50", "down"]
    assert ax.get_legend() is None
    crowd = [curve(f"arm{i}", [3.0, 2.0, 2.5]) for i in range(9)]
    legend = degradation(crowd).ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"arm{i} +0.50" for i in range(9)]
    assert degradation(apart, labels=False).ax.get_legend() is not None


def test_labels_give_the_cross_fitted_rebound_where_there_is_one() -> None:
    fitted = replace(curve("up", [3.0, 2.0, 2.5]), rebound_cross_fitted=0.41)
    flat = replace(curve("flat", [3.0, 1.0, 1.01]), rebound_cross_fitted=-0.02)
    ax = degradation([fitted, flat]).ax
    assert [text.get_text() for text in ax.texts] == ["up +0.41", "flat \N{MINUS SIGN}0.02"]
    assert ax.get_title(loc="left") == "marker: best epoch; number: rebound since, cross-fitted"
    assert {row["rebound_cross_fitted"] for row in degradation_rows([fitted])} == {0.41}


def test_the_level_of_the_best_epoch_reaches_to_the_last() -> None:
    ax = degradation([curve("a", [3.0, 2.0, 2.5, 2.75])]).ax
    level = ax.lines[1]
    np.testing.assert_array_equal(level.get_xdata(), [1, 3])
    np.testing.assert_array_equal(level.get_ydata(), [2.0, 2.0])


def test_a_users_own_lines_stay() -> None:
    ax = Figure().add_subplot()
    ax.plot([0, 1], [2, 2], label="mine")
    degradation([curve(f"arm{i}", [3.0, 2.0, 2.5]) for i in range(9)], ax=ax)
    assert ax.lines[0].get_label() == "mine"


def test_plain_arrays() -> None:
    (ax,) = degradation({"baseline": [3.0, 2.0, 2.5], "other": np.array([3.0, 2.5, 2.0])}).axes
    assert not ax.collections  # no intervals, no bands
    assert "band" not in ax.get_title(loc="left")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3.0, 2.0, 2.5])


def test_one_epoch_and_one_run(started_run: Run) -> None:
    ax = degradation(started_run).ax
    assert np.size(ax.lines[0].get_xdata()) == 1
    assert len(ax.containers) == 1  # an error bar in place of the band


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_arm_that_diverged_has_a_cross_and_no_best_epoch(value: float) -> None:
    ax = degradation([curve("a", [3.0, 2.0, 2.5]), curve("b", [3.0, 2.0, value])]).ax
    _, line = [line for line in ax.lines if len(np.asarray(line.get_xdata())) == 3]
    assert line.get_markevery() == [] and np.isnan(np.asarray(line.get_ydata())[2])
    (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert (np.asarray(cross.get_xdata()).tolist(), np.asarray(cross.get_ydata()).tolist()) == ([1], [2.0])
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a +0.50", "b: diverged"]
    assert "cross: the last epoch before an arm diverged" in legend.get_title().get_text()
    never = degradation([curve("a", [3.0, 2.0]), curve("b", [value, value])]).ax
    assert not [line for line in never.lines if line.get_marker() == "x"]
    rows = degradation_rows([curve("b", [np.nan, np.nan])])
    assert [row["best"] for row in rows] == [0, 0]


def test_rows_are_the_drawn_numbers(study: Study, losses: dict[str, list[float]]) -> None:
    rows = degradation_rows(as_curves(study), as_differences(study))
    assert len(rows) == 16
    row = rows[3]
    assert (row["arm"], row["seeds"], row["epoch"], row["best"]) == ("baseline", 3, 3, 0)
    assert row["validation_loss"] == 3.75
    assert row["above_best"] == 0.75
    assert (row["low"], row["high"], row["over"]) == (pytest.approx(3.75), pytest.approx(3.75), "seeds_and_documents")
    assert [r["epoch"] for r in rows if r["best"]] == [1, 2, 2, 3]
    assert (row["minus_baseline"], row["minus_baseline_low"], row["minus_baseline_over"]) == ("", "", "")
    for row in rows[4:]:
        expected = losses[row["arm"]][row["epoch"]] - losses["baseline"][row["epoch"]]
        found = [row[f"minus_baseline{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([expected] * 3, abs=1e-12)
        assert row["minus_baseline_over"] == "seeds_and_documents"


def test_a_cut_epoch_is_drawn_at_its_passes(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=3, cut=2.5))
    ax = degradation(run).ax
    (line,) = [line for line in ax.lines if line.get_label() == run.name]
    assert np.asarray(line.get_xdata()).tolist() == [0.0, 1.0, 2.0, 2.5]
    plt.close(ax.figure)


def of_task(name: str, accuracy: list[float], *, left_out: int | None = 0) -> ValueCurve:
    values = np.array(accuracy)[:, None]
    interval = Interval(low=values - 0.1, high=values + 0.1, estimate=values)
    return ValueCurve(
        name,
        2,
        "validation",
        "accuracy",
        "share of tokens",
        np.arange(len(values)),
        ("result",),
        interval,
        "seeds_and_documents",
        values[None],
        None,
        40,
        left_out,
    )


def test_a_task_is_drawn_in_the_colours_of_its_arms() -> None:
    curves = [of_task("entrodrop", [0.5, 0.7, 0.6], left_out=3), of_task("baseline", [0.5, 0.4, 0.3], left_out=3)]
    ax = task_curve(curves, "gsm8k").ax
    entrodrop, baseline = ax.lines
    np.testing.assert_array_equal(entrodrop.get_ydata(), [0.5, 0.7, 0.6])
    styles = arm_styles(["entrodrop", "baseline"])
    assert (entrodrop.get_color(), baseline.get_color()) == tuple(style.color for style in styles.values())
    # The best is the highest.
    assert (entrodrop.get_markevery(), baseline.get_markevery()) == ([1], [0])
    assert [text.get_text() for text in ax.texts] == ["entrodrop 0.600", "baseline 0.300"]
    assert ax.get_title(loc="left").splitlines() == [
        "gsm8k: 40 documents, 3 without results left out",
        "marker: best epoch; band: 95 % over seeds and documents",
    ]
    corners = np.round(np.asarray(ax.collections[0].get_paths()[0].vertices), 9)
    assert {(0.0, 0.4), (1.0, 0.8), (2.0, 0.5)} <= {(float(x), float(y)) for x, y in corners}
    # Beside a panel with names it has none, nor a legend; a crowd has one.
    beside = task_curve(curves, "a" * 50, labels=False).ax
    assert not beside.texts and beside.get_legend() is None
    assert beside.get_title(loc="left").replace("\n", " ") == (
        "a" * 19 + "…: 40 documents, 3 without results left out; band: 95 % over seeds and documents"
    )
    crowd = task_curve([of_task(f"arm{i}", [0.5, 0.5]) for i in range(9)]).ax.get_legend()
    assert crowd is not None and crowd.get_texts()[0].get_text() == "arm0 0.500"
    unknown = task_curve([of_task("a", [np.nan, np.nan])]).ax
    assert unknown.lines[0].get_markevery() == []


def test_rows_of_a_task_stand_beside_those_of_the_loss(study: Study) -> None:
    # Correct where the planted loss is below 0.5, which is nowhere; which tokens there are, is not planted.
    task = as_task_curves(study, "über")
    curves, differences = as_curves(study), as_differences(study)
    rows = degradation_rows(curves, differences, TaskCurves("über", task, as_differences(study, task="über")))
    plain = degradation_rows(curves, differences)
    assert [{key: row[key] for key in plain[0]} for row in rows] == plain
    records = study.run("baseline", 0).records("validation")
    having = sum("über" in records.document_text(d) for d in range(50))
    assert 0 < having < 50 and len(rows) == 16
    assert {
        (row["task"], row["task_accuracy"], row["task_documents"], row["task_documents_left_out"]) for row in rows
    } == {("über", 0.0, having, 50 - having)}
    # No token is right by epoch 3 in any arm: the differences are 0, and the baseline has none.
    assert {row["task_minus_baseline"] for row in rows} == {"", 0.0}
