from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynamics.analysis.estimands.trajectory_shares import CartographyMap, ClassShares, class_shares
from dynamics.analysis.estimands.trajectory_shares import cartography as cartography_maps
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.tokens.trajectories import CLASSES
from dynamics.errors import InputError
from dynamics.plots.drawing.style import load_style
from dynamics.plots.families.trajectories import (
    as_class_shares,
    cartography,
    cartography_rows,
    class_changes,
    draw_trajectory_classes,
    trajectory_class_axes,
    trajectory_class_rows,
    trajectory_classes,
)
from dynamics.records.reader import Run, Study

SHARE = np.array([[0.5, 0.125, 0.125, 0.0, 0.25]])
TWO = np.array([[0.25, 0.0625, 0.125, 0.0, 0.125]])
CHANGE = np.array([[-1.0, 0.0, 1.0, np.nan, 2.0]])


def interval(estimate: np.ndarray[Any, Any]) -> Interval:
    return Interval(estimate - np.abs(estimate) / 2, estimate + np.abs(estimate) / 2, estimate)


SHARES = ClassShares(
    arm="a",
    n_seeds=2,
    split="validation",
    level=1.5,
    labels=("all",),
    classes=CLASSES,
    share=interval(SHARE),
    share_in_two=interval(TWO),
    confirmed=interval(np.array([[0.5, 0.5, 1.0, np.nan, 0.5]])),
    by_chance=SHARE,
    change=interval(CHANGE),
    change_elsewhere=interval(CHANGE / 2),
)
UNKNOWN = interval(np.full((1, 5), np.nan))
ALONE = replace(
    SHARES,
    arm="alone",
    n_seeds=1,
    share_in_two=UNKNOWN,
    confirmed=UNKNOWN,
    by_chance=UNKNOWN.low,
    change_elsewhere=UNKNOWN,
)
TOKENS = np.array([[4.0, 0.0], [0.5, 100.0]])
MAP = CartographyMap(
    arm="a",
    n_seeds=2,
    split="train",
    variability_edges=np.array([0.0, 0.25, 0.5]),
    confidence_edges=np.array([0.0, 0.5, 1.0]),
    n_tokens=TOKENS,
    correctness=np.array([[0.25, np.nan], [0.5, 1.0]]),
)


def test_raw_shares_stand_beside_validated_ones() -> None:
    ax = Figure().add_subplot()
    assert trajectory_classes(SHARES, ax=ax).axes == [ax]
    hollow, filled = ax.lines[:2]
    np.testing.assert_array_equal(hollow.get_xdata(), SHARE[0])
    np.testing.assert_array_equal(filled.get_xdata(), TWO[0])
    assert (hollow.get_markerfacecolor(), filled.get_markerfacecolor()) == ("white", filled.get_color())
    bars, distances = (found.get_segments()[0][:, 0].tolist() for found in cast(Any, ax.collections[:2]))
    # The interval is that of the validated share; a thin line leads to it from the raw one.
    assert (bars, distances) == ([0.125, 0.375], [0.25, 0.5])
    assert [text.get_text() for text in ax.get_yticklabels()] == list(CLASSES)
    assert ax.get_ylim() == (4.5, -0.5)  # the first class on top
    assert ax.get_xlabel() == "Validation tokens (%)"
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "low: up to 1.50 nats; bar: 95 % over documents"
    assert [text.get_text() for text in legend.get_texts()] == ["a", "as one seed chose", "in other seeds too"]


def test_one_seed_is_drawn_with_its_own_interval_and_named() -> None:
    ax = Figure().add_subplot()
    trajectory_classes(ALONE, ax=ax)
    (bars,) = cast(Any, ax.collections)
    assert bars.get_segments()[0][:, 0].tolist() == [0.25, 0.75]
    assert np.isnan(np.asarray(ax.lines[1].get_xdata(), dtype=float)).all()
    legend = ax.get_legend()
    assert (
        legend is not None
        and legend.get_title().get_text() == "low: up to 1.50 nats; bar: 95 % over documents; one seed: not validated"
    )
    assert [text.get_text() for text in legend.get_texts()] == ["alone", "as one seed chose"]
    (both,) = trajectory_classes([SHARES, ALONE]).axes
    title = cast(Any, both.get_legend()).get_title().get_text().replace("\n", " ")
    assert title == "low: up to 1.50 nats; bar: 95 % over documents; one seed of alone: not validated"


def test_changes_of_the_tokens_that_were_chosen() -> None:
    ax = Figure().add_subplot()
    assert class_changes(SHARES, ax=ax).axes == [ax]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), CHANGE[0])
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), CHANGE[0] / 2)
    assert ax.get_xlabel() == "Change of validation loss (nats)"
    low, high = ax.get_xlim()
    assert low < -1.5 and high > 3.0  # all intervals lie within
    figure = draw_trajectory_classes([SHARES, replace(SHARES, arm="b")], load_style())
    assert [axes.get_xlabel() for axes in figure.axes] == ["Validation tokens (%)", "Change of validation loss (nats)"]
    assert [axes.get_legend() is not None for axes in figure.axes] == [True, False]


def test_arms_lie_side_by_side() -> None:
    (ax,) = trajectory_classes([SHARES, replace(SHARES, arm="b")]).axes
    first, second = (np.asarray(line.get_ydata(), dtype=float) for line in ax.lines[:4:2])
    assert (first < second).all()
    assert np.round(first).tolist() == np.round(second).tolist() == [0, 1, 2, 3, 4]
    small, large = (trajectory_class_axes(load_style(), 2, n)[0].get_figheight() for n in (2, 9))
    assert large > 2 * small


def test_classes_of_a_study(study: Study, started_run: Run) -> None:
    before = dict(matplotlib.rcParams)
    axes = trajectory_classes(study, buckets=2).axes
    assert [ax.get_title() for ax in axes] == ["low entropy", "high entropy"]
    assert dict(matplotlib.rcParams) == before
    rows = trajectory_class_rows(class_shares(study))
    assert {row["over"] for row in rows} == {"documents"}
    assert len(rows) == 4 * 5
    shares = {(row["arm"], row["class"]): row["share"] for row in rows}
    # Planted for every token: the baseline falls by 1 and rises by 0.75, the inverse only falls.
    assert shares["baseline", "rebounding"] == 1.0
    assert shares["inverse", "high to low"] == 1.0
    # No CSV has a raw number without its validated one.
    rises = {(row["arm"], row["class"]): row for row in rows}["baseline", "rebounding"]
    names = ["validated", "share_in_two_seeds", "confirmed", "change", "change_in_other_seeds", "change_low"]
    assert [rises[name] for name in names] == [1, 1.0, 1.0, 0.75, 0.75, 0.75]
    (alone,) = [row for row in trajectory_class_rows(as_class_shares(study.run("baseline", 0))) if row["share"] == 1]
    assert (alone["validated"], alone["change"]) == (0, 0.75)
    assert np.isnan([alone["share_in_two_seeds"], alone["confirmed_by_chance"], alone["change_in_other_seeds"]]).all()


@pytest.mark.parametrize("color", ["n_tokens", "correctness"])
def test_cells_of_the_map(color: Any) -> None:
    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    assert cartography(MAP, ax=ax, color=color).axes == [ax]
    mesh: Any = ax.collections[0]
    expected = np.where(TOKENS > 0, TOKENS, np.nan) if color == "n_tokens" else MAP.correctness
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan).reshape(2, 2), expected.T)
    assert mesh.get_clim() == ((0.5, 100.0) if color == "n_tokens" else (0.0, 1.0))
    assert ax.get_xlabel() == "Variability"
    # Words stand beyond the curve that no token can pass: at y, x is at most the root of y (1 - y).
    FigureCanvasAgg(figure).draw()
    for text in ax.texts:
        box = text.get_window_extent().transformed(ax.transData.inverted())
        bound = np.linspace(box.y0, min(box.y1, 1.0), 20).clip(0.0, 1.0)
        assert box.x0 > np.sqrt(bound * (1 - bound)).max()
    ticks = figure.axes[1].yaxis.get_major_formatter()
    assert [ticks(value) for value in (0.5, 1, 100, 10_000, 2_500_000)] == ["0.5", "1", "100", "10k", "2.5M"]
    with pytest.raises(InputError, match="unknown color 'tokens'; use n_tokens or correctness"):
        cartography(MAP, color="tokens")  # type: ignore[arg-type]


def test_cartography_of_a_study_and_its_rows(study: Study, started_run: Run) -> None:
    axes = cartography(study).axes
    assert [ax.get_title() for ax in axes] == study.arms
    assert len({ax.collections[0].get_clim() for ax in axes}) == 1
    maps = cartography_maps(study)
    rows = cartography_rows(maps)
    assert sum(row["tokens"] for row in rows) == sum(each.n_tokens.sum() for each in maps)
    assert len(cartography_rows([MAP])) == 3  # bins without tokens are left out
    agreeing = [replace(MAP, variability_agreement=r, confidence_agreement=r / 2) for r in (0.5, 0.9999)]
    assert {row["variability_agreement"] for row in cartography_rows(agreeing)} == {0.5, 0.9999}
    ax = cartography(agreeing).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "Variability\n(r ≥ 0.50 between seeds)",
        "Confidence\n(r ≥ 0.25 between seeds)",
    )
    diverged = replace(MAP, n_tokens=np.zeros((2, 2)), correctness=np.full((2, 2), np.nan))
    (row,) = cartography_rows([diverged])
    assert (row["tokens"], row["variability_to"], row["confidence_to"]) == (0, 0.5, 1.0)
    (ax,) = cartography(diverged).axes
    assert "diverged" in [text.get_text() for text in ax.texts]
    with pytest.raises(InputError, match="epoch 0 alone"):
        cartography(started_run)
