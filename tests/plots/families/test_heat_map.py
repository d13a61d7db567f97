from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from dynamics.analysis.estimands.bucket_maps import BucketMap, bucket_map
from dynamics.analysis.intervals.interval import Interval
from dynamics.errors import InputError
from dynamics.plots.families.heat_map import bucket_map_rows, plot_bucket_map, plot_loss_landscape
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


def test_cells_are_the_values_and_circles_the_best_epochs() -> None:
    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    assert plot_bucket_map(HAND, ax=ax) == [ax]
    mesh: Any = ax.collections[0]
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan).reshape(3, 3), VALUES.T)
    # DocumentBuckets reach halfway to the next recorded epoch.
    assert ax.get_xlim() == (-0.5, 4.0)
    (circles,) = ax.lines
    assert np.asarray(circles.get_xdata()).tolist() == [3, 1, 1]
    assert np.asarray(circles.get_ydata()).tolist() == [0, 1, 2]
    assert ax.get_xlabel() == "Training (epochs)"
    assert ax.get_ylabel() == "Reference entropy bucket"
    # Epoch 0 alone is above 4: it does not take the colours of the rest.
    assert mesh.get_clim() == (1.0, 4.0)
    assert len(figure.axes) == 2  # the colour bar


def test_above_best_is_the_distance_from_each_buckets_own_best_epoch() -> None:
    (ax,) = plot_bucket_map(HAND, above_best=True)
    mesh: Any = ax.collections[0]
    by_hand = [[8.0, 1.0, 0.0], [5.0, 0.0, 0.5], [3.0, 0.0, np.nan]]
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan).reshape(3, 3), by_hand)
    # 8, 5 and 3 are before training.
    assert mesh.get_clim() == (0.0, 1.0)
    assert [row["above_best"] for row in bucket_map_rows([HAND])][3:5] == [1.0, 0.0]
    shares = np.array([[0.1], [0.5], [0.4]])
    each = replace(HAND, value="correct", labels=("1",), values=Interval(shares, shares, shares))
    assert [row["above_best"] for row in bucket_map_rows([each])] == pytest.approx([0.4, 0.0, 0.1])


def test_the_best_share_is_the_highest_and_nan_has_no_best() -> None:
    shares = np.array([[0.1, np.nan], [0.5, np.nan], [0.4, np.nan]])
    each = replace(HAND, value="correct", labels=("1", "2"), values=Interval(shares, shares, shares))
    (ax,) = plot_bucket_map(each)
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [1]
    nothing = np.full((3, 2), np.nan)
    plot_bucket_map(replace(each, values=Interval(nothing, nothing, nothing)))


def test_panels_share_their_colours_and_state_is_left(study: Study) -> None:
    before = dict(matplotlib.rcParams)
    axes = plot_bucket_map(study)
    assert dict(matplotlib.rcParams) == before and pyplot.get_fignums() == []
    assert [ax.get_title() for ax in axes] == study.arms
    limits = {ax.collections[0].get_clim() for ax in axes}
    assert len(limits) == 1
    plot_bucket_map([study.run("baseline", 0)], value="correct", split="train", buckets=2)


def test_a_landscape_has_entropy_across_and_epochs_up(study: Study) -> None:
    ax = Figure(layout="constrained").add_subplot()
    assert plot_loss_landscape(HAND, ax=ax) == [ax]
    assert ax.get_xlim() == (0.5, 3.0)
    assert ax.get_ylim() == (0.0, 3.0)
    assert ax.get_xlabel() == "Reference entropy (nats)"
    assert ax.get_ylabel() == "Training (epochs)"
    assert len(plot_loss_landscape(study, n_buckets=5)) == 4
    # A bucket without tokens has no place.
    plot_loss_landscape(replace(HAND, centres=np.array([0.5, np.nan, 3.0])))


def test_no_surface_of_one_epoch(started_run: Run) -> None:
    with pytest.raises(InputError, match="has 1 epochs and 30 buckets"):
        plot_loss_landscape(started_run)
    (ax,) = plot_bucket_map(started_run)
    assert ax.get_xlim() == (-0.5, 0.5)


def test_rows(study: Study, losses: dict[str, list[float]]) -> None:
    rows = bucket_map_rows(bucket_map(study, buckets=2))
    assert len(rows) == 4 * 4 * 2
    assert {row["over"] for row in rows} == {"seeds_and_documents"}
    for row in rows:
        assert row["loss"] == pytest.approx(losses[row["arm"]][row["epoch"]])
    assert {row["epoch"] for row in rows if row["best"] and row["arm"] == "baseline"} == {1}
    low, high = rows[0]["mean_signal"], rows[1]["mean_signal"]
    assert 0.1 < low < 1 < 3 < high < 5


def test_a_cut_epoch_lies_at_its_passes() -> None:
    cut = replace(HAND, passes=np.array([0.0, 1.0, 2.5]))
    (ax,) = plot_bucket_map(cut)
    assert ax.get_xlim() == (-0.5, 3.25)
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [2.5, 1.0, 1.0]
    (surface,) = plot_loss_landscape(cut)
    assert surface.get_ylim() == (0.0, 2.5)
    rows = bucket_map_rows([cut, HAND])
    assert [(row["epoch"], row["passes"]) for row in (rows[8], rows[-1])] == [(3, 2.5), (3, 3.0)]
    assert "passes" not in bucket_map_rows([HAND])[0]
