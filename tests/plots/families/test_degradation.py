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
from dynamics.plots.drawing.style import arm_styles
from dynamics.plots.families.degradation import (
    as_curves,
    as_task_curves,
    degradation_rows,
    plot_degradation,
    plot_task_curve,
)
from dynamics.records.reader import Run, Study, open_run


def curve(name: str, loss: list[float], *, width: float = 0.1) -> ArmCurve:
    values = np.array(loss)
    return ArmCurve(name, 2, np.arange(len(loss)), values, values - width, values + width)


def test_a_study_is_drawn_into_the_given_axes(study: Study, losses: dict[str, list[float]]) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_degradation(study, ax=right) is right
    assert not left.lines
    drawn: dict[Any, Any] = {line.get_label(): line for line in right.lines}
    assert set(losses) <= set(drawn)
    for arm, loss in losses.items():
        np.testing.assert_allclose(drawn[arm].get_ydata(), loss)
        np.testing.assert_array_equal(drawn[arm].get_xdata(), [0, 1, 2, 3])
        assert drawn[arm].get_color() == arm_styles(list(losses))[arm].color
        # The marker stands at the best epoch alone.
        assert drawn[arm].get_markevery() == [int(np.argmin(loss))]
    assert right.get_xlabel() == "Training (epochs)"
    assert right.get_ylabel() == "Validation loss (nats per token)"


def test_bands_are_the_given_intervals() -> None:
    ax = plot_degradation([curve("a", [3.0, 2.0, 2.5])])
    (band,) = ax.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert {(0.0, 2.9), (1.0, 1.9), (2.0, 2.4), (0.0, 3.1), (1.0, 2.1), (2.0, 2.6)} <= {
        (float(x), round(float(y), 9)) for x, y in corners
    }


def test_labels_give_the_rebound_and_fall_back_to_a_legend() -> None:
    apart = [curve("up", [3.0, 2.0, 2.5]), curve("down", [3.0, 2.5, 1.0])]
    ax = plot_degradation(apart)
    assert [text.get_text() for text in ax.texts] == ["up +0.50", "down"]
    assert ax.get_legend() is None
    crowd = [curve(f"arm{i}", [3.0, 2.0, 2.5]) for i in range(9)]
    legend = plot_degradation(crowd).get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"arm{i} +0.50" for i in range(9)]
    assert plot_degradation(apart, labels=False).get_legend() is not None


def test_labels_give_the_cross_fitted_rebound_where_there_is_one() -> None:
    fitted = replace(curve("up", [3.0, 2.0, 2.5]), rebound_cross_fitted=0.41)
    flat = replace(curve("flat", [3.0, 1.0, 1.01]), rebound_cross_fitted=-0.02)
    ax = plot_degradation([fitted, flat])
    assert [text.get_text() for text in ax.texts] == ["up +0.41", "flat \N{MINUS SIGN}0.02"]
    rebounds, bands = ax.get_title(loc="left").splitlines()
    assert rebounds.endswith("cross-fitted")
    assert bands == "band: 95 % over documents"
    assert {row["rebound_cross_fitted"] for row in degradation_rows([fitted])} == {0.41}


def test_the_level_of_the_best_epoch_reaches_to_the_last() -> None:
    ax = plot_degradation([curve("a", [3.0, 2.0, 2.5, 2.75])])
    level = ax.lines[1]
    np.testing.assert_array_equal(level.get_xdata(), [1, 3])
    np.testing.assert_array_equal(level.get_ydata(), [2.0, 2.0])


def test_a_users_own_lines_stay() -> None:
    ax = Figure().add_subplot()
    ax.plot([0, 1], [2, 2], label="mine")
    plot_degradation([curve(f"arm{i}", [3.0, 2.0, 2.5]) for i in range(9)], ax=ax)
    assert ax.lines[0].get_label() == "mine"


def test_plain_arrays() -> None:
    ax = plot_degradation({"baseline": [3.0, 2.0, 2.5], "other": np.array([3.0, 2.5, 2.0])})
    assert not ax.collections  # no intervals, no bands
    assert "band" not in ax.get_title(loc="left")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3.0, 2.0, 2.5])


def test_one_epoch_and_one_run(started_run: Run) -> None:
    ax = plot_degradation(started_run)
    assert np.size(ax.lines[0].get_xdata()) == 1
    assert len(ax.containers) == 1  # an error bar in place of the band


def test_a_curve_of_nan_is_drawn_without_a_marker() -> None:
    ax = plot_degradation([curve("a", [3.0, 2.0]), curve("b", [np.nan, np.nan])])
    assert ax.lines[-1].get_markevery() == []
    rows = degradation_rows([curve("b", [np.nan, np.nan])])
    assert [row["best"] for row in rows] == [0, 0]


def test_rows_are_the_drawn_numbers(study: Study) -> None:
    rows = degradation_rows(as_curves(study))
    assert len(rows) == 16
    row = rows[3]
    assert (row["arm"], row["seeds"], row["epoch"], row["best"]) == ("baseline", 3, 3, 0)
    assert row["validation_loss"] == 3.75
    assert row["above_best"] == 0.75
    assert (row["low"], row["high"], row["over"]) == (pytest.approx(3.75), pytest.approx(3.75), "seeds_and_documents")
    assert [r["epoch"] for r in rows if r["best"]] == [1, 2, 2, 3]


def test_a_cut_epoch_is_drawn_at_its_passes(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=120, epochs=3, cut=2.5))
    ax = plot_degradation(run)
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
    ax = plot_task_curve(curves, "gsm8k")
    entrodrop, baseline = ax.lines
    np.testing.assert_array_equal(entrodrop.get_ydata(), [0.5, 0.7, 0.6])
    styles = arm_styles(["entrodrop", "baseline"])
    assert (entrodrop.get_color(), baseline.get_color()) == tuple(style.color for style in styles.values())
    # The best is the highest.
    assert (entrodrop.get_markevery(), baseline.get_markevery()) == ([1], [0])
    assert [text.get_text() for text in ax.texts] == ["entrodrop 0.600", "baseline 0.300"]
    assert ax.get_title(loc="left").splitlines() == [
        "gsm8k: 40 documents, 3 without results left out",
        "marker: best epoch",
        "band: 95 % over seeds and documents",
    ]
    corners = np.round(np.asarray(ax.collections[0].get_paths()[0].vertices), 9)
    assert {(0.0, 0.4), (1.0, 0.8), (2.0, 0.5)} <= {(float(x), float(y)) for x, y in corners}
    # Beside a panel with names it has none, nor a legend; a crowd has one.
    beside = plot_task_curve(curves, "a" * 50, labels=False)
    assert not beside.texts and beside.get_legend() is None
    assert beside.get_title(loc="left").splitlines() == [
        "a" * 19 + "…: 40 documents, 3 without results left out",
        "band: 95 % over seeds and documents",
    ]
    crowd = plot_task_curve([of_task(f"arm{i}", [0.5, 0.5]) for i in range(9)]).get_legend()
    assert crowd is not None and crowd.get_texts()[0].get_text() == "arm0 0.500"
    unknown = plot_task_curve([of_task("a", [np.nan, np.nan])])
    assert unknown.lines[0].get_markevery() == []


def test_rows_of_a_task_stand_beside_those_of_the_loss(study: Study) -> None:
    # Correct where the planted loss is below 0.5, which is nowhere; which tokens there are, is not planted.
    task = as_task_curves(study, "über")
    rows = degradation_rows(as_curves(study), "über", task)
    plain = degradation_rows(as_curves(study))
    assert [{key: row[key] for key in plain[0]} for row in rows] == plain
    records = study.run("baseline", 0).records("validation")
    having = sum("über" in records.document_text(d) for d in range(50))
    assert 0 < having < 50 and len(rows) == 16
    assert {
        (row["task"], row["task_accuracy"], row["task_documents"], row["task_documents_left_out"]) for row in rows
    } == {("über", 0.0, having, 50 - having)}
