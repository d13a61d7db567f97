from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynamics.analysis.estimands.trajectory_shares import CartographyMap, ClassShares, cartography, class_shares
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.tokens.trajectories import CLASSES
from dynamics.errors import InputError
from dynamics.plots.style import load_style
from dynamics.plots.trajectories import (
    cartography_rows,
    plot_cartography,
    plot_trajectory_classes,
    trajectory_class_axes,
    trajectory_class_rows,
)
from dynamics.records.reader import Run, Study

SHARE = np.array([[0.5, 0.125, 0.125, 0.0, 0.25]])
SHARES = ClassShares("a", 2, "validation", 1.5, ("all",), CLASSES, Interval(SHARE / 2, SHARE * 1.5, SHARE))
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


def test_shares_and_their_intervals() -> None:
    ax = Figure().add_subplot()
    assert plot_trajectory_classes(SHARES, ax=ax) == [ax]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), SHARE[0])
    bars: Any = ax.collections[0]
    assert [segment[:, 0].tolist() for segment in bars.get_segments()][0] == [0.25, 0.75]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(CLASSES)
    assert ax.get_ylim() == (4.5, -0.5)  # the first class on top
    assert ax.get_xlabel() == "Validation tokens (%)"
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "low: up to 1.50 nats"


def test_arms_lie_side_by_side() -> None:
    (ax,) = plot_trajectory_classes([SHARES, replace(SHARES, arm="b")])
    first, second = (np.asarray(line.get_ydata(), dtype=float) for line in ax.lines[:2])
    assert (first < second).all()
    assert np.round(first).tolist() == np.round(second).tolist() == [0, 1, 2, 3, 4]
    small, large = (trajectory_class_axes(load_style(), 2, n)[0].get_figheight() for n in (2, 9))
    assert large > 2 * small


def test_classes_of_a_study(study: Study, started_run: Run) -> None:
    before = dict(matplotlib.rcParams)
    axes = plot_trajectory_classes(study, buckets=2, n_resamples=20)
    assert [ax.get_title() for ax in axes] == ["low entropy", "high entropy"]
    assert dict(matplotlib.rcParams) == before
    rows = trajectory_class_rows(class_shares(study, n_resamples=20))
    assert len(rows) == 4 * 5
    shares = {(row["arm"], row["class"]): row["share"] for row in rows}
    # Planted for every token: the baseline falls by 1 and rises by 0.75, the inverse only falls.
    assert shares["baseline", "rebounding"] == 1.0
    assert shares["inverse", "high to low"] == 1.0


@pytest.mark.parametrize("color", ["n_tokens", "correctness"])
def test_cells_of_the_map(color: Any) -> None:
    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    assert plot_cartography(MAP, ax=ax, color=color) == [ax]
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
        plot_cartography(MAP, color="tokens")  # type: ignore[arg-type]


def test_cartography_of_a_study_and_its_rows(study: Study, started_run: Run) -> None:
    axes = plot_cartography(study)
    assert [ax.get_title() for ax in axes] == study.arms
    assert len({ax.collections[0].get_clim() for ax in axes}) == 1
    maps = cartography(study)
    rows = cartography_rows(maps)
    assert sum(row["tokens"] for row in rows) == sum(each.n_tokens.sum() for each in maps)
    assert len(cartography_rows([MAP])) == 3  # bins without tokens are left out
    diverged = replace(MAP, n_tokens=np.zeros((2, 2)), correctness=np.full((2, 2), np.nan))
    (row,) = cartography_rows([diverged])
    assert (row["tokens"], row["variability_to"], row["confidence_to"]) == (0, 0.5, 1.0)
    (ax,) = plot_cartography(diverged)
    assert "NaN" in [text.get_text() for text in ax.texts]
    with pytest.raises(InputError, match="epoch 0 alone"):
        plot_cartography(started_run)
