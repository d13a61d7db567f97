from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from dynamics.analysis.estimands.bucket_dynamics import BucketDynamics, bucket_dynamics
from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.interval import Interval
from dynamics.errors import InputError
from dynamics.plots.drawing.style import HIGH_COLOR, LOW_COLOR, load_style
from dynamics.plots.families.token_dynamics import (
    token_dynamics,
    token_dynamics_axes,
    token_dynamics_rows,
)
from dynamics.records.reader import Run, Study


def interval(values: list[list[float]]) -> Interval:
    array = np.array(values)
    return Interval(array - 0.1, array + 0.1, array)


def hand(arm: str = "a", *, shift: float = 0.0, over: Over = "seeds_and_documents") -> BucketDynamics:
    """Two epochs, two buckets."""
    train = interval([[1.0 + shift, 3.0], [0.5, 2.0]])
    validation = interval([[1.25, 3.25], [1.0, 3.5 + shift]])
    rise = Interval(np.zeros(2), np.zeros(2), np.zeros(2))
    epochs = np.array([0, 1])
    return BucketDynamics(arm, 3, epochs, ("low", "high"), train, validation, validation, rise, over=over)


def test_train_is_dashed_validation_solid_and_buckets_have_colours() -> None:
    ax = Figure().add_subplot()
    assert token_dynamics(hand(), ax=ax).axes == [ax]
    drawn = [(line.get_color(), line.is_dashed(), np.asarray(line.get_ydata()).tolist()) for line in ax.lines]
    assert drawn == [
        (LOW_COLOR, True, [1.0, 0.5]),
        (LOW_COLOR, False, [1.25, 1.0]),
        (HIGH_COLOR, True, [3.0, 2.0]),
        (HIGH_COLOR, False, [3.25, 3.5]),
    ]
    assert len(ax.collections) == 4  # a band each
    assert ax.get_ylabel() == "Loss (nats per token)"
    # What a line is stands at its end, and the best epochs on validation have markers.
    words = [text.get_text() for text in ax.texts[:4]]
    assert words == ["low, validation", "low, training", "high, validation", "high, training"]
    # Letters are thinner than lines, and may be darker.
    inks = [text.get_color() for text in ax.texts[:4]]
    assert inks[0] == inks[1] != inks[2] == inks[3]
    assert [line.get_markevery() for line in ax.lines] == [[], [1], [], [0]]
    assert ax.get_legend() is None and ax.get_title() == "a"
    assert ax.texts[4].get_text().replace("\n", "; ") == (
        "marker: best epoch on validation; band: 95 % over seeds and documents"
    )


def test_lines_that_end_together_have_a_legend() -> None:
    near = interval([[1.0, 3.0], [2.0, 2.0]])
    each = replace(hand(), train=near, validation=near)
    (ax,) = token_dynamics(each).axes
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["validation", "training", "low entropy", "high entropy"]
    assert legend.get_title().get_text().splitlines()[-1] == "band: 95 % over seeds and documents"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_arm_that_diverged_says_so_and_has_no_best_epoch(value: float) -> None:
    each = replace(hand(), validation=interval([[1.25, 3.25], [value, value]]))
    (ax,) = token_dynamics(each).axes
    assert ax.get_title() == "a\n(diverged)"
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert [(np.asarray(x.get_xdata()).tolist(), np.asarray(x.get_ydata()).tolist()) for x in crosses] == [
        ([0], [1.25]),
        ([0], [3.25]),
    ]
    assert [line.get_markevery() for line in ax.lines if line.get_marker() != "x"] == [[]] * 4
    # The axis reaches to the last epoch, so that panels of one study are alike.
    assert ax.get_xlim()[1] >= 1.0
    unknown = np.full((2, 2), np.nan)
    # A bucket without tokens is not an arm that diverged.
    empty = np.array([[1.0, np.nan], [0.5, np.nan]])
    (ax,) = token_dynamics(replace(hand(), validation=Interval(empty, empty, empty))).axes
    assert ax.get_title() == "a"
    (ax,) = token_dynamics(replace(hand(), validation=Interval(unknown, unknown, unknown))).axes
    assert ax.get_title() == "a\n(diverged)"


def test_panels_share_their_limits() -> None:
    axes = token_dynamics([hand("a"), hand("b", shift=4.0)]).axes
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    # 0.4 to 7.6 with intervals, and 6 % about them.
    assert axes[0].get_ylim() == pytest.approx((0.4 - 0.432, 7.6 + 0.432))
    assert axes[0].get_ylabel()
    assert not axes[1].get_ylabel()


def test_a_note_says_what_bands_generalise_over() -> None:
    plot = token_dynamics([hand("a", over="documents"), hand("b", over="documents")])
    marker = "marker: best epoch on validation"
    assert plot.figure.legends[0].get_title().get_text() == f"{marker}; band: 95 % over documents"
    assert {row["over"] for row in token_dynamics_rows([hand("a", over="documents")])} == {"documents"}
    mixed = token_dynamics([hand("a"), hand("b", over="documents")])
    assert mixed.figure.legends[0].get_title().get_text() == f"{marker}; band: 95 % over seeds and (or) documents"


@pytest.mark.parametrize(("n_arms", "shape"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (6, (2, 3)), (8, (2, 4))])
def test_grid(n_arms: int, shape: tuple[int, int]) -> None:
    figure, axes = token_dynamics_axes(load_style(), n_arms)
    assert figure.axes == axes
    assert len(axes) == n_arms
    grid = axes[0].get_gridspec()
    assert grid is not None
    assert (grid.nrows, grid.ncols) == shape
    token_dynamics([hand(str(i)) for i in range(n_arms)], axes=axes)
    # Whatever has nothing below it is labelled.
    assert sum(bool(ax.get_xlabel()) for ax in axes) == min(n_arms, shape[1])


def test_given_axes_must_be_as_many_as_arms() -> None:
    axes = Figure().subplots(1, 3)
    with pytest.raises(InputError, match="2 arms need 2 axes, and 3 were given"):
        token_dynamics([hand("a"), hand("b")], axes=axes)
    token_dynamics([hand("a"), hand("b"), hand("c")], axes=axes)


def test_a_study_its_rows_and_deciles(study: Study) -> None:
    axes = token_dynamics(study).axes
    assert [ax.get_title() for ax in axes] == study.arms
    rows = token_dynamics_rows(bucket_dynamics(study))
    assert len(rows) == 4 * 2 * 2 * 4
    first = {(r["arm"], r["split"], r["bucket"], r["epoch"]): r for r in rows}
    assert first["baseline", "train", "high", 1]["loss"] == 2.0
    assert first["inverse", "validation", "low", 3]["loss"] == 3.0
    assert {row["over"] for row in rows} == {"seeds_and_documents"}
    token_dynamics(study.run("baseline", 0), buckets=10)


def test_one_epoch_only(started_run: Run) -> None:
    (ax,) = token_dynamics(started_run).axes
    assert len(ax.containers) == 4
