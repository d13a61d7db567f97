from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.interval import Interval
from dynamics.plots.drawing.bucket_lines import BucketLines, bucket_title, draw_bucket_lines

OVERS: tuple[Over, Over] = ("seeds_and_documents", "documents")


def test_titles() -> None:
    assert [bucket_title("low", 1), bucket_title("low", 2), bucket_title("3", 10)] == [
        None,
        "low entropy",
        "entropy bucket 3",
    ]


def test_panels_of_a_callers_grid_have_one_legend_and_words_at_the_edges() -> None:
    values = np.array([[0.0, 1.0], [0.5, 2.0]])
    arms = [
        BucketLines(name, over, np.arange(2.0), ("low", "high"), Interval(values, values, values))
        for name, over in zip("ab", OVERS, strict=True)
    ]
    figure = Figure(layout="constrained")
    axes = list(figure.subplots(2, 1))
    assert draw_bucket_lines(arms, axes, "words") == axes
    assert [ax.get_xlabel() for ax in axes] == ["", "Training (epochs)"]
    assert [ax.get_ylabel() for ax in axes] == ["words", "words"]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    np.testing.assert_array_equal(axes[1].lines[1].get_ydata(), values[:, 1])
    assert len(figure.legends) == 1 and all(ax.get_legend() is None for ax in axes)
    # One arm has several seeds, the other one.
    assert figure.legends[0].get_title().get_text() == "band: 95 % over seeds and (or) documents"
