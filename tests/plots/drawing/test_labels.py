from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynamics.plots.drawing.labels import (
    EndLabel,
    band_note,
    epoch_axis,
    focus,
    in_words,
    label_line_ends,
    moments,
    named_after,
    spread,
    wrap_name,
)


def test_spread_by_hand() -> None:
    # Far apart: nothing moves. Two that are 2 apart and should be 10: each moves by 4.
    assert spread(np.array([0.0, 30.0]), 10).tolist() == [0.0, 30.0]
    assert spread(np.array([4.0, 2.0, 50.0]), 10).tolist() == [8.0, -2.0, 50.0]
    # Three at one place: the middle one stays.
    assert spread(np.array([5.0, 5.0, 5.0]), 10).tolist() == [-5.0, 5.0, 15.0]
    # A pool that grows: 0 and 1 move to -4.5 and 5.5, which then is too near to 6.
    np.testing.assert_allclose(spread(np.array([0.0, 1.0, 6.0]), 10), [-23 / 3, 7 / 3, 37 / 3])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.floats(0.5, 20))
def test_spread_keeps_order_and_distance(values: list[float], distance: float) -> None:
    moved = spread(np.array(values), distance)
    order = np.argsort(values, kind="stable")
    assert (np.diff(moved[order]) >= distance - 1e-6).all()
    assert np.mean(moved) == pytest.approx(np.mean(values), abs=1e-6)


def ends(*values: float) -> list[EndLabel]:
    return [EndLabel(1.0, value, f"arm{i}", "black") for i, value in enumerate(values)]


def test_labels_that_fit_are_written_apart() -> None:
    figure = Figure(figsize=(4, 3), dpi=100)
    ax = figure.add_subplot()
    ax.set_ylim(0, 1)
    assert label_line_ends(ax, ends(0.5, 0.51, 0.9), fontsize=7)
    FigureCanvasAgg(figure)
    boxes = [text.get_window_extent() for text in ax.texts]
    boxes.sort(key=lambda box: box.y0)
    assert len(boxes) == 3
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))


def test_labels_that_do_not_fit_are_not_written() -> None:
    ax = Figure(figsize=(4, 3)).add_subplot()
    ax.set_ylim(0, 1)
    assert not label_line_ends(ax, ends(*[0.5] * 6), fontsize=7)
    assert not label_line_ends(ax, [EndLabel(1.0, 0.5, "n" * 60, "black")], fontsize=7)
    assert not label_line_ends(ax, ends(0.5, np.nan), fontsize=7)
    assert not label_line_ends(ax, [], fontsize=7)
    assert not ax.texts


def test_limits_leave_out_a_first_epoch_that_flattens_the_rest() -> None:
    ax = Figure().add_subplot()
    epochs = np.arange(3)
    focus(ax, [(epochs, np.array([[9.0, np.nan], [2.0, 2.5], [3.0, 2.0]]))])
    assert ax.get_ylim() == pytest.approx((2 - 0.06, 3 + 0.06))
    assert [text.get_text() for text in ax.texts] == ["epoch 0: up to 9.00"]
    other = Figure().add_subplot()
    focus(other, [(epochs, np.array([[5.0], [2.0], [3.0]]))])
    assert other.get_ylim() == pytest.approx((2 - 0.18, 5 + 0.18))
    assert not other.texts


def test_limits_of_nothing_and_of_one_value() -> None:
    ax = Figure().add_subplot()
    focus(ax, [(np.arange(1), np.array([[np.nan]]))])
    focus(ax, [(np.arange(1), np.array([[3.0]]))])
    assert ax.get_ylim() == pytest.approx((2.9, 3.1))


@pytest.mark.parametrize("last", [0, 1, 3, 12, 24, 100])
def test_epoch_ticks_are_whole(last: int) -> None:
    ax = Figure().add_subplot()
    ax.plot([0, last], [0, 1])
    epoch_axis(ax, last)
    ticks = np.array([tick for tick in ax.get_xticks() if 0 <= tick <= last])
    assert len(ticks) >= (1 if last == 0 else 2)
    assert (ticks == ticks.round()).all()


def test_names_are_wrapped_at_their_joints() -> None:
    assert wrap_name("baseline", 10) == "baseline"
    assert wrap_name("high-entropy-very-long-arm", 12) == "high-\nentropy-\nvery-long-\narm"
    assert wrap_name("a" * 30, 10) == "\n".join(["a" * 10] * 3)


def test_what_intervals_generalise_over_in_words() -> None:
    assert in_words(["documents"] * 2) == "over documents, the trained models held fixed"
    assert in_words(["seeds_and_documents"]) == "over seeds and documents"
    assert in_words(["documents", "seeds_and_documents"]) == (
        "over seeds and documents, or documents alone for what has one seed"
    )
    assert band_note(["documents"]) == "95 % over documents"
    assert band_note(["seeds_and_documents"] * 2) == "95 % over seeds and documents"
    assert band_note(["seeds_and_documents", "documents"]) == "95 % over seeds and (or) documents"


def test_moments_in_words() -> None:
    assert named_after(["a", "b"], [3.0, 3.0]) == ["a", "b"]
    assert named_after(["a", "b"], [3.0, 2.4]) == ["a (3 epochs)", "b (2.4 epochs)"]
    assert moments([3.0, 2.4, 3.0]) == "2.4, 3"
