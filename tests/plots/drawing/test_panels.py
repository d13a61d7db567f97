from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynamics.errors import InputError
from dynamics.plots.drawing.panels import (
    ArmLine,
    chosen_axes,
    draw_arm_lines,
    given,
    in_panel,
    in_panels,
    is_first,
    is_last,
    legend_over,
    panel_axes,
)
from dynamics.plots.drawing.style import arm_styles, load_style
from dynamics.records.reader import Run, Study


def test_given_tells_numbers_from_records(study: Study, plain_run: Run) -> None:
    assert given(1, int) == ([1], True)
    assert given((1, 2), int) == ([1, 2], True)
    assert given(study, int) == ([study], False)
    assert given([study, plain_run], int) == ([study, plain_run], False)
    assert given([], int) == ([], False)


@pytest.mark.parametrize(("n", "shape"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (6, (2, 3)), (8, (2, 4))])
def test_panels_are_in_even_rows(n: int, shape: tuple[int, int]) -> None:
    figure, axes = panel_axes(load_style(), n)
    assert figure.axes == axes and len(axes) == n
    grid = axes[0].get_gridspec()
    assert grid is not None and (grid.nrows, grid.ncols) == shape
    assert sum(is_last(ax, axes) for ax in axes) == shape[1]
    assert sum(is_first(ax, axes) for ax in axes) == shape[0]
    # Alone in a grid of the caller's, a panel has its words wherever it stands.
    assert all(is_first(ax, [ax]) and is_last(ax, [ax]) for ax in axes)


def test_axes_must_be_as_many_as_panels() -> None:
    one, two = Figure().subplots(1, 2)
    assert chosen_axes(None, None, 2, "arms") is None
    assert chosen_axes(one, None, 1, "arms") == [one]
    assert chosen_axes(None, [one, two], 2, "arms") == [one, two]
    with pytest.raises(InputError, match="3 arms need 3 axes, and 1 were given"):
        chosen_axes(one, None, 3, "arms")


def test_a_new_figure_has_the_style_and_given_axes_the_callers() -> None:
    seen: list[bool] = []

    def draw(axes: list[Axes]) -> list[Axes]:
        seen.append(matplotlib.rcParams["axes.spines.top"])
        return axes

    with matplotlib.rc_context({"axes.spines.top": True}):
        mine = Figure().add_subplot()
        assert in_panels(draw, 1, mine, None, "arms").axes == [mine]
        one, two = in_panels(draw, 2, None, None, "arms").axes
        ax = in_panel(lambda found: draw([found])[0], None, height=2.0).ax
        assert in_panel(lambda found: draw([found])[0], mine, height=2.0).ax is mine
    assert seen == [True, False, False, True]
    assert one.figure is two.figure
    assert ax.figure.get_size_inches().tolist() == pytest.approx([3.35, 2.0])


def test_one_legend_of_several_panels_stands_above_them() -> None:
    figure, axes = panel_axes(load_style(), 2)
    handles = [Line2D([], [], label=name) for name in ("a", "b", "c", "d", "e")]
    legend_over(axes, handles, title="note")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c", "d", "e"]
    FigureCanvasAgg(figure).draw()
    assert legend.get_window_extent().y0 >= max(ax.bbox.y1 for ax in axes)


def test_lines_of_arms_have_their_looks_and_bands() -> None:
    ax = Figure().add_subplot()
    value = np.array([0.0, 0.5, 1.0])
    lines = [ArmLine(name, np.arange(3), value + i, value - 0.1, value + 0.1) for i, name in enumerate("ab")]
    handles = draw_arm_lines(ax, lines, arm_styles(["a", "b"]))
    assert [handle.get_label() for handle in handles] == ["a", "b"]
    np.testing.assert_array_equal(handles[1].get_ydata(), value + 1)
    assert (
        handles[0].get_linestyle() != handles[1].get_linestyle() or handles[0].get_marker() != handles[1].get_marker()
    )
    assert len(ax.collections) == 2


def test_one_epoch_has_an_error_bar() -> None:
    ax = Figure().add_subplot()
    one = np.ones(1)
    draw_arm_lines(ax, [ArmLine("a", np.array([0]), one, one - 0.1, one + 0.1)], arm_styles(["a"]))
    assert len(ax.containers) == 1
