from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dynamics.plots.drawing.lines import draw_divergence, draw_line, signed
from dynamics.plots.drawing.style import arm_styles


def test_numbers_have_their_sign() -> None:
    assert [signed(value) for value in (0.125, -0.125, 0.0)] == ["+0.12", "−0.12", "+0.00"]
    assert signed(-0.0625, 3) == "−0.062"


def test_a_line_has_a_band_and_marks_where_they_are_given() -> None:
    ax = Figure().add_subplot()
    style = arm_styles(["a"])["a"]
    at, values = np.array([0.0, 1.0, 2.0]), np.array([3.0, 1.0, 2.0])
    line = draw_line(ax, "a", at, values, style, band=None, marked=[1])
    assert not ax.collections and line.get_markevery() == [1] and line.get_label() == "a"
    draw_line(ax, "a", at, values, style, band=(values - 1.0, values + 1.0), marked=[])
    corners = {(float(x), float(y)) for x, y in np.asarray(ax.collections[0].get_paths()[0].vertices)}
    assert {(0.0, 2.0), (1.0, 0.0), (2.0, 3.0), (1.0, 2.0)} <= corners
    alone = draw_line(ax, "a", at[:1], values[:1], style, band=(values[:1] - 1.0, values[:1] + 1.0), marked=[])
    assert alone.get_markevery() == [0] and len(ax.containers) == 1


def test_a_cross_is_the_last_epoch_before_a_curve_diverged() -> None:
    ax = Figure().add_subplot()
    at = np.array([0.0, 1.0, 2.0, 8.0])
    draw_divergence(ax, at, np.array([3.0, 1.0, np.inf, 2.0]), "black")
    (cross,) = ax.lines
    assert (np.asarray(cross.get_xdata()).tolist(), np.asarray(cross.get_ydata()).tolist()) == ([1.0], [1.0])
    assert ax.get_xlim()[1] >= 8.0
    draw_divergence(ax, at, np.full(4, np.nan), "black")
    assert len(ax.lines) == 1
