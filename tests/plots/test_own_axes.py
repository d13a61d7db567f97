"""Figures in a user's own axes: inks that can be read on their colour, room in their figure, settings left alone."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from dynamics import plots
from dynamics.errors import InputError
from dynamics.records.reader import Run, Study

#: Each figure of the face with what it is drawn from, and how many panels that has.
PANELS = {
    "degradation": 1,
    "curriculum": 1,
    "outcomes": 1,
    "gap": 1,
    "calibration": 1,
    "overconfidence": 1,
    "trajectory_classes": 1,
    "class_changes": 1,
    "comparisons": 1,
    "rebound": 2,
    "token_dynamics": 4,
    "bucket_map": 4,
    "rebound_map": 4,
    "cartography": 4,
    "entropy_distribution": 4,
}


def luminance(color: Any) -> float:
    """After WCAG 2.2, written once more."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgba(color)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Any, other: Any) -> float:
    high, low = max(luminance(one), luminance(other)), min(luminance(one), luminance(other))
    return (high + 0.05) / (low + 0.05)


def drawn(name: str, study: Study, figure: Figure) -> list[Axes]:
    n = PANELS[name]
    axes = list(np.ravel(figure.subplots(-(-n // 2), min(n, 2), squeeze=False)))
    function = getattr(plots, name)
    if n == 1:
        assert function(study, ax=axes[0]).axes == axes
    else:
        assert function(study, axes=axes).axes == axes
    return axes


@pytest.mark.parametrize("name", PANELS)
@pytest.mark.parametrize("look", ["dark_background", "black face", "black face in white"])
def test_all_that_is_drawn_can_be_read(study: Study, name: str, look: str) -> None:
    style = ["dark_background"] if look == "dark_background" else []
    with pyplot.style.context(style):
        around = "white" if look == "black face in white" else "black"
        figure = pyplot.figure(figsize=(14.0, 10.0), facecolor=around)
        with matplotlib.rc_context({"axes.facecolor": "black"}):
            before = dict(matplotlib.rcParams)
            axes = drawn(name, study, figure)
            assert dict(matplotlib.rcParams) == before
    for ax in axes:
        for line in ax.get_lines():
            if line.get_linestyle() != "None":
                assert contrast(line.get_color(), "black") >= 3.0, (line.get_label(), line.get_color())
        for text in ax.texts:
            if text.get_text():
                # Words at the end of a line stand beside the panel.
                outside = getattr(text, "get_annotation_clip", lambda: None)() is False
                assert contrast(text.get_color(), around if outside else "black") >= 4.5, text.get_text()
        beside = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
        for text in beside:
            assert contrast(text.get_color(), around) >= 4.5, text.get_text()
        legends = [each for each in [ax.get_legend(), *figure.legends] if each is not None]
        for legend in legends:
            assert not legend.get_frame_on()
            for text in (*legend.get_texts(), legend.get_title()):
                assert contrast(text.get_color(), around) >= 4.5, text.get_text()


@pytest.mark.parametrize("name", PANELS)
def test_on_white_inks_are_those_of_the_librarys_own_figures(study: Study, name: str) -> None:
    def inks(axes: list[Axes]) -> list[Any]:
        return [line.get_color() for ax in axes for line in ax.get_lines()]

    figure = pyplot.figure(figsize=(14.0, 10.0))
    own = getattr(plots, name)(study)
    theirs = drawn(name, study, figure)
    if len(own.axes) == len(theirs):
        assert inks(theirs) == inks(own.axes)


@pytest.mark.parametrize("name", [name for name, n in PANELS.items() if n == 1 and name != "comparisons"])
def test_in_a_grid_without_a_layout_no_panel_leaves_its_room(study: Study, name: str) -> None:
    figure, grid = pyplot.subplots(3, 3, figsize=(16.0, 15.0))
    boxes = [ax.get_window_extent().frozen() for ax in grid.flat]
    getattr(plots, name)(study, ax=grid[1, 1])
    figure.canvas.draw()
    words = grid[1, 1].get_tightbbox()
    # Halfway to the neighbours.
    assert words.y1 <= (boxes[1].y0 + boxes[4].y1) / 2 and words.y0 >= (boxes[7].y1 + boxes[4].y0) / 2
    assert words.x0 >= (boxes[3].x1 + boxes[4].x0) / 2 and words.x1 <= (boxes[5].x0 + boxes[4].x1) / 2
    assert [ax.get_window_extent().bounds for ax in grid[0]] == [box.bounds for box in boxes[:3]]


def test_axes_that_are_too_small_are_warned_of(study: Study) -> None:
    _, grid = pyplot.subplots(6, 6, figsize=(6.0, 6.0))
    with pytest.warns(UserWarning, match="too small for the labels and the legend"):
        plots.degradation(study, ax=grid[2, 2])


def test_subfigures_and_twins(study: Study) -> None:
    figure = pyplot.figure(layout="constrained", figsize=(12.0, 5.0))
    left, right = figure.subfigures(1, 2)
    ax = left.subplots()
    plot = plots.degradation(study, ax=ax)
    assert plot.figure is figure and plot.ax is ax
    twin = right.subplots().twinx()
    assert plots.gap(study, ax=twin).figure is figure
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: {"ax": Figure().add_subplot(projection="polar")}, "rectilinear axes, and polar was given"),
        (lambda: {"ax": Figure().add_subplot(projection="3d")}, "rectilinear axes, and 3d was given"),
        (lambda: {"ax": Figure()}, "rectilinear axes, and Figure was given"),
        (lambda: {"ax": Figure().subplots(1, 2)}, "1 (panels|buckets) need 1 axes, and 2 were given"),
    ],
)
@pytest.mark.parametrize("name", ["calibration", "gap", "degradation", "comparisons"])
def test_what_cannot_be_drawn_into_is_refused(study: Study, name: str, make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(plots, name)(study, **make())


def test_axes_of_two_figures_or_the_same_twice_are_refused(study: Study) -> None:
    one, two = Figure().add_subplot(), Figure().add_subplot()
    with pytest.raises(InputError, match="more than one figure"):
        plots.gap(study, axes=[one, two], buckets=2)
    with pytest.raises(InputError, match="the same axes are given more than once"):
        plots.gap(study, axes=[one, one], buckets=2)
    with pytest.raises(InputError, match="both ax and axes are given"):
        plots.gap(study, ax=one, axes=[two])


def test_a_plot_of_ones_own_ax_is_not_pyplots(study: Study, plain_run: Run) -> None:
    figure = Figure()
    plot = plots.degradation(plain_run, ax=figure.add_subplot())
    assert pyplot.get_fignums() == []
    assert plot.figure is figure
    assert isinstance(plot.ax.get_lines()[0], Line2D) and isinstance(plot.ax.title, Text)
