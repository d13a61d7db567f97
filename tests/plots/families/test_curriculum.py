from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.synthetic import make_run

from dynamics.analysis.estimands.summary import ArmSummary
from dynamics.errors import InputError
from dynamics.plots.drawing.style import arm_styles, load_style
from dynamics.plots.families.curriculum import (
    as_curricula,
    as_summaries,
    curriculum,
    curriculum_axes,
    curriculum_rows,
    draw_curriculum,
    outcomes,
    schedules,
)
from dynamics.records.reader import Run, Study, open_run

SUMMARY = ArmSummary(
    arm="a",
    n_seeds=2,
    n_documents=60,
    over="seeds_and_documents",
    best=3.0,
    best_epoch=1,
    final=3.5,
    final_epoch=3,
    final_low=3.4,
    final_high=3.7,
    rebound=0.5,
    rebound_cross_fitted=0.45,
    dropped_share=0.1,
    mean_ratio=0.1,
    final_by_seed=(3.45, 3.55),
    rebound_by_seed=(0.4, 0.6),
    rebound_cross_fitted_low=0.25,
    rebound_cross_fitted_high=0.65,
)


def test_what_recipes_ask_for(study: Study) -> None:
    curricula = {each.arm: each for each in as_curricula(study)}
    assert list(curricula) == ["entrodrop", "random", "inverse"]
    linear, step = curricula["entrodrop"], curricula["inverse"]
    assert linear.schedule == "linear to 0.2"
    np.testing.assert_allclose(np.interp([0, 1.5, 3], linear.epochs, linear.ratio), [0, 0.1, 0.2])
    # 0 before the middle of three epochs, 0.4 from there on: both sides of the jump are drawn.
    np.testing.assert_array_equal(step.ratio[step.epochs < 1.4999], 0.0)
    np.testing.assert_array_equal(step.ratio[step.epochs >= 1.5], 0.4)
    assert np.ptp(step.epochs[np.flatnonzero(np.diff(step.ratio))[0] :][:2]) < 1e-9
    # The synthetic metrics have a row every 5 of 10 steps: 0.2 step / 30.
    np.testing.assert_allclose(linear.measured_epochs, [0.5, 1.5, 2.5])
    by_hand = [0.2 / 30 * np.mean(steps) for steps in ([0, 5, 10], [15, 20], [25, 30])]
    np.testing.assert_allclose(linear.measured, by_hand)


def test_stairs_and_falling_curricula_are_drawn_as_they_are(tmp_path: Path) -> None:
    falling = {"name": "entrodrop", "ratio": 0.2, "schedule": {"name": "linear", "decreasing": True, "stairs": 3}}
    [found] = as_curricula(open_run(make_run(tmp_path / "run", epochs=3, regularizers=[falling])))
    assert found.schedule == "linear from 0.2, 3 stairs"
    # Middles of three epochs: 5/6, 1/2 and 1/6 of the peak; both sides of each jump stand at one place.
    for epoch, share in enumerate((0.2 * 5 / 6, 0.1, 0.2 / 6)):
        inside = (found.epochs >= epoch) & (found.epochs < epoch + 1 - 1e-6)
        np.testing.assert_allclose(found.ratio[inside], share)
    at = np.flatnonzero(np.diff(found.ratio))
    np.testing.assert_allclose(found.epochs[at + 1], [1.0, 2.0])
    assert (found.epochs[at + 1] - found.epochs[at] < 1e-8).all()


def test_matched_arms_share_one_line(study: Study) -> None:
    ax = Figure().add_subplot()
    assert curriculum(study, ax=ax).ax is ax
    lines = [line for line in ax.lines if line.get_linestyle() != "None"]
    markers = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert len(lines) == 2  # entrodrop and random together; inverse
    styles = arm_styles(["entrodrop", "random", "inverse"])
    assert [m.get_color() for m in markers] == [style.color for style in styles.values()]
    assert lines[0].get_color() not in [style.color for style in styles.values()]
    assert lines[1].get_color() == styles["inverse"].color
    assert ax.get_ylabel() == "Tokens dropped (%)"
    assert ax.yaxis.get_major_formatter()(0.15) == "15"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()][2:] == [
        "entrodrop: linear to 0.2",
        "random: linear to 0.2",
        "inverse: step to 0.4",
    ]


def test_the_whole_figure_tells_schedules_what_was_dropped_and_what_came_of_it(study: Study) -> None:
    curricula, summaries = as_curricula(study), as_summaries(study)
    assert [[arm.arm for arm in group] for group in schedules(curricula)] == [["entrodrop", "random"], ["inverse"]]
    style = load_style("acl")
    figure, (above, final, rebound) = curriculum_axes(style, study.arms, 2)
    draw_curriculum(curricula, summaries, [above, final, rebound])
    legend = above.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["linear to 0.2", "step to 0.4", "measured"]
    markers = [line for line in above.lines if line.get_linestyle() == "None"]
    for line, arm in zip(markers, curricula, strict=True):
        # Each marker in its place: the middle of its epoch.
        np.testing.assert_allclose(np.asarray(line.get_xdata()), [0.5, 1.5, 2.5])
        np.testing.assert_allclose(np.asarray(line.get_ydata()), arm.measured)
    sizes = [line.get_markersize() for line in markers]
    assert sizes[0] > sizes[1]  # so that neither of two equal shares hides the other
    for ax, planted in ((final, [3.75, 3.125, 3.0625, 3.0]), (rebound, [0.75, 0.125, 0.0625, 0.0])):
        drawn = [line for line in ax.lines if len(np.atleast_1d(line.get_xdata())) == 1]
        assert [float(np.ravel(line.get_xdata())[0]) for line in drawn] == pytest.approx(planted)
    assert [text.get_text() for text in final.get_yticklabels()] == study.arms
    assert final.figure.get_supxlabel() == "bar: 95 % over seeds and documents; tick: a seed"
    # Names that break into two lines have higher rows, and a legend of more lines a higher figure.
    assert figure.get_figheight() == pytest.approx(9 / 8 * (1.7 + 0.3 + 0.8 + 4 * 0.2))
    broken = [*study.arms[:3], "inverse_entrodrop_sigmoid"]
    assert curriculum_axes(style, broken, 4)[0].get_figheight() == pytest.approx(9 / 8 * (1.7 + 0.45 + 0.8 + 4 * 0.35))


def test_nothing_to_draw_without_token_dropout(plain_run: Run) -> None:
    assert as_curricula(plain_run) == []
    with pytest.raises(InputError, match="no arm drops tokens"):
        curriculum(plain_run)


def test_defaults_of_a_recipe_that_names_the_method_alone(started_run: Run) -> None:
    (each,) = as_curricula(started_run)
    assert each.schedule == "linear to 0.2"
    assert each.measured.shape == (0,)
    curriculum(started_run)


def test_a_damaged_schedule_is_named(started_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    regularizers: list[dict[str, Any]] = [{"name": "entrodrop", "schedule": "linaer"}]
    monkeypatch.setitem(started_run.config, "regularizers", regularizers)
    with pytest.raises(InputError, match=r"config\.yaml: schedule 'linaer'"):
        as_curricula(started_run)


def test_outcomes() -> None:
    ax = outcomes([SUMMARY, replace(SUMMARY, arm="b", final=3.0)]).ax
    interval, marker, seeds = ax.lines[:3]
    assert np.asarray(interval.get_xdata()).tolist() == [3.4, 3.7]
    assert np.asarray(marker.get_xdata()).tolist() == [3.5]
    assert np.asarray(seeds.get_xdata()).tolist() == [3.45, 3.55]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    # The first arm is on top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    given = Figure().add_subplot()
    assert outcomes([SUMMARY], quantity="rebound", ax=given).ax is given
    # The cross-fitted rebound, and no ticks of seeds, of which the plain one alone is known: zero is the third line.
    assert [np.asarray(line.get_xdata()).tolist() for line in given.lines] == [[0.25, 0.65], [0.45], [0.0, 0.0]]
    assert "nats per token" in given.get_xlabel()
    with pytest.raises(InputError, match="unknown quantity 'best'"):
        outcomes([SUMMARY], quantity="best")  # type: ignore[arg-type]


def test_an_outcome_that_is_nan_says_so() -> None:
    ax = outcomes([SUMMARY, replace(SUMMARY, arm="b", final=float("nan"))]).ax
    assert [text.get_text() for text in ax.texts] == ["diverged"]


def test_rows_hold_both_halves(study: Study) -> None:
    rows = curriculum_rows(as_curricula(study), as_summaries(study))
    by_quantity: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_quantity.setdefault(row["quantity"], []).append(row)
    assert {name: len(part) for name, part in by_quantity.items() if name != "ratio"} == {
        "dropped_share": 9,
        "final_loss": 4,
        "rebound": 4,
        "final_loss_of_seed": 12,
    }
    assert [row["value"] for row in by_quantity["final_loss"]] == [3.75, 3.125, 3.0625, 3.0]
    assert [row["value"] for row in by_quantity["rebound"]] == pytest.approx([0.75, 0.125, 0.0625, 0])
    assert {name: {row["over"] for row in part} for name, part in by_quantity.items()} == {
        "ratio": {""},
        "dropped_share": {""},
        "final_loss": {"seeds_and_documents"},
        "rebound": {"seeds_and_documents"},
        "final_loss_of_seed": {""},
    }
    alone = curriculum_rows(as_curricula(study), as_summaries(study.run("baseline", 0)))
    assert {row["over"] for row in alone} == {"", "documents"}
