from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from dynamics.analysis.estimands.bucket_maps import BucketMap
from dynamics.analysis.estimands.bucket_maps import bucket_map as numbers
from dynamics.analysis.intervals.interval import Interval
from dynamics.errors import InputError
from dynamics.plots.families.heat_map import bucket_map, bucket_map_rows, loss_landscape, rebound_map
from dynamics.records.reader import Run, Study

VALUES = np.array([[9.0, 8.0, 7.0], [2.0, 3.0, 4.0], [1.0, 3.5, np.nan]])
HAND = BucketMap(
    arm="a",
    n_seeds=2,
    split="validation",
    value="loss",
    by="reference_entropy",
    epochs=np.array([0, 1, 3]),
    labels=("1", "2", "3"),
    centres=np.array([0.5, 1.5, 3.0]),
    edges=np.array([1.0, 2.0]),
    n_tokens=np.array([5.0, 5.0, 5.0]),
    values=Interval(VALUES - 0.1, VALUES + 0.1, VALUES),
)


def cells(ax: Any) -> Any:
    """Return what the colours of a panel stand for, (K, E); NaN where there is none."""
    mesh: Any = ax.collections[0]
    return np.ma.filled(mesh.get_array(), np.nan).reshape(len(ax.get_yticks()), -1)


def limits(ax: Any) -> tuple[float, float]:
    found: tuple[float, float] = ax.collections[0].get_clim()
    return found


def test_cells_are_the_change_since_epoch_0_and_circles_the_best_epochs() -> None:
    whole = replace(HAND, values=Interval(*[np.array([[2.0, 3.0, 4.0], [1.0, 3.5, 3.0], [2.5, 2.5, 5.0]])] * 3))
    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    assert bucket_map(whole, ax=ax).axes == [ax]
    np.testing.assert_array_equal(cells(ax), [[0.0, -1.0, 0.5], [0.0, 0.5, -0.5], [0.0, -1.0, 1.0]])
    # As far below 0 as above it, and white between.
    assert limits(ax) == (-1.0, 1.0)
    mesh: Any = ax.collections[0]
    np.testing.assert_array_equal(mesh.cmap(mesh.norm([0.0]))[0], [1.0, 1.0, 1.0, 1.0])
    # Cells reach halfway to the next recorded epoch.
    assert ax.get_xlim() == (-0.5, 4.0)
    circles, above = ax.lines
    assert np.asarray(circles.get_xdata()).tolist() == [1, 3, 1]
    assert np.asarray(circles.get_ydata()).tolist() == [0, 1, 2]
    # Grey has no red and blue: what is above epoch 0 has a plus.
    assert above.get_marker() == "+"
    assert set(zip(np.asarray(above.get_xdata()).tolist(), np.asarray(above.get_ydata()).tolist(), strict=True)) == {
        (3, 0),
        (1, 1),
        (3, 2),
    }
    assert ax.get_xlabel() == "Training (epochs)"
    assert ax.get_ylabel() == "Reference entropy bucket"
    bar = figure.axes[1]
    assert bar.get_ylabel() == "Validation loss\nsince epoch 0\n(nats per token)"


def test_a_rebound_map_begins_at_the_best_epoch_of_all_tokens() -> None:
    values = np.array([[9.0, 8.0], [2.0, 4.0], [1.0, 4.5], [1.5, 6.0]])
    # Weighed by tokens, (3 * 2 + 4) / 4 = 2.5 at epoch 1 and (3 * 1 + 4.5) / 4 = 1.875 at epoch 3.
    each = replace(
        HAND,
        epochs=np.array([0, 1, 3, 4]),
        labels=("1", "2"),
        n_tokens=np.array([3.0, 1.0]),
        values=Interval(values, values, values),
    )
    (ax,) = rebound_map(each).axes
    np.testing.assert_array_equal(cells(ax), [[np.nan, np.nan, 0.0, 0.5], [np.nan, np.nan, 0.0, 1.5]])
    assert limits(ax) == (-1.5, 1.5)
    assert ax.patch.get_hatch()  # cells before are not white
    other = replace(each, n_tokens=np.array([0.5, 9.0]))
    (ax,) = rebound_map(other).axes
    np.testing.assert_array_equal(cells(ax), [[np.nan, 0.0, -1.0, -0.5], [np.nan, 0.0, 0.5, 2.0]])
    below = ax.lines[1]
    assert (below.get_marker(), np.asarray(below.get_xdata()).tolist()) == ("_", [3, 4])
    rows = [row for row in bucket_map_rows([other]) if row["bucket"] == "1"]
    assert [row["since_best"] for row in rows[1:]] == [0.0, -1.0, -0.5] and np.isnan(rows[0]["since_best"])
    assert [row["since_start"] for row in rows] == [0.0, -7.0, -8.0, -7.5]
    # The bucket's own best epoch, whatever that of all tokens is.
    assert [row["above_best"] for row in rows] == [8.0, 1.0, 0.0, 0.5]


def test_the_best_share_is_the_highest() -> None:
    shares = np.array([[0.1, 0.2], [0.5, 0.3], [0.4, 0.4]])
    each = replace(HAND, value="correct", labels=("1", "2"), values=Interval(shares, shares, shares))
    each = replace(each, n_tokens=np.array([1.0, 1.0]))
    (ax,) = bucket_map(each).axes
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [1, 3]
    (ax,) = rebound_map(each).axes
    np.testing.assert_allclose(cells(ax), [[np.nan, 0.0, -0.1], [np.nan, 0.0, 0.1]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_arm_is_hatched_from_there_on_and_has_no_best_epoch(value: float) -> None:
    values = np.where(np.isnan(VALUES), value, VALUES)
    diverged = replace(HAND, values=Interval(values, values, values))
    (ax,) = bucket_map(diverged).axes
    assert np.isnan(cells(ax)).tolist() == [[False] * 3, [False] * 3, [False, False, True]]
    assert ax.get_title() == "a\n(diverged)" and not len(np.asarray(ax.lines[0].get_xdata()))
    (ax,) = rebound_map(diverged).axes
    assert np.isnan(cells(ax)).all()
    assert limits(ax) == (-1.0, 1.0)
    nothing = np.full((3, 3), value)
    bucket_map(replace(HAND, values=Interval(nothing, nothing, nothing)))


def test_levels_leave_epoch_0_out_where_it_would_flatten_the_rest() -> None:
    (ax,) = bucket_map(HAND, since=None).axes
    np.testing.assert_array_equal(cells(ax), VALUES.T)
    assert limits(ax) == (1.0, 4.0)
    with pytest.raises(InputError, match="since='end' is not known; use 'start', 'best' or None"):
        bucket_map(HAND, since="end")  # type: ignore[arg-type]


def test_calls_of_older_versions() -> None:
    (old,), (new,) = [
        bucket_map(HAND, above_best=True).axes,
        rebound_map(HAND).axes,
    ]  # what rebound_map was called with
    np.testing.assert_array_equal(cells(old), cells(new))


def test_panels_share_their_colours_and_state_is_left(study: Study) -> None:
    before = dict(matplotlib.rcParams)
    plot = bucket_map(study)
    assert dict(matplotlib.rcParams) == before
    assert [ax.get_title() for ax in plot.axes] == study.arms
    assert len({limits(ax) for ax in plot.axes}) == 1
    bucket_map([study.run("baseline", 0)], value="correct", split="train", buckets=2)
    pyplot.close("all")


def test_a_landscape_says_what_shows_more_and_has_entropy_across_and_epochs_up(study: Study) -> None:
    ax = Figure(layout="constrained").add_subplot()
    with pytest.warns(
        DeprecationWarning, match="hide what changes, and will be removed; use dynamics.plots.bucket_map"
    ):
        assert loss_landscape(HAND, ax=ax).axes == [ax]
    assert ax.get_xlim() == (0.5, 3.0)
    assert ax.get_ylim() == (0.0, 3.0)
    assert ax.get_xlabel() == "Reference entropy (nats)"
    assert ax.get_ylabel() == "Training (epochs)"
    with pytest.warns(DeprecationWarning):
        assert len(loss_landscape(study, n_buckets=5).axes) == 4
    with pytest.warns(DeprecationWarning):
        # A bucket without tokens has no place.
        loss_landscape(replace(HAND, centres=np.array([0.5, np.nan, 3.0])))


def test_one_epoch_is_no_change_and_no_surface(started_run: Run) -> None:
    with pytest.warns(DeprecationWarning), pytest.raises(InputError, match="has 1 epochs and 30 buckets"):
        loss_landscape(started_run)
    (ax,) = bucket_map(started_run).axes
    assert ax.get_xlim() == (-0.5, 0.5)
    assert not cells(ax).any()


def test_rows(study: Study, losses: dict[str, list[float]]) -> None:
    rows = bucket_map_rows(numbers(study, buckets=2))
    assert len(rows) == 4 * 4 * 2
    assert {row["over"] for row in rows} == {"seeds_and_documents"}
    for row in rows:
        assert row["loss"] == pytest.approx(losses[row["arm"]][row["epoch"]])
    assert {row["epoch"] for row in rows if row["best"] and row["arm"] == "baseline"} == {1}
    low, high = rows[0]["mean_signal"], rows[1]["mean_signal"]
    assert 0.1 < low < 1 < 3 < high < 5


def test_a_cut_epoch_lies_at_its_passes() -> None:
    cut = replace(HAND, passes=np.array([0.0, 1.0, 2.5]))
    cut = replace(cut, values=Interval(*[np.nan_to_num(VALUES, nan=4.0)] * 3))
    (ax,) = bucket_map(cut).axes
    assert ax.get_xlim() == (-0.5, 3.25)
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [2.5, 1.0, 1.0]
    with pytest.warns(DeprecationWarning):
        (surface,) = loss_landscape(cut).axes
    assert surface.get_ylim() == (0.0, 2.5)
    rows = bucket_map_rows([cut, HAND])
    assert [(row["epoch"], row["passes"]) for row in (rows[8], rows[-1])] == [(3, 2.5), (3, 3.0)]
    assert "passes" not in bucket_map_rows([HAND])[0]
