from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from dynamics.analysis.comparisons.arm_comparisons import Comparison, compare_arms
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.plots.drawing.style import arm_styles, load_style
from dynamics.plots.families.comparisons import (
    MOST_LINES,
    as_comparisons,
    comparison_rows,
    comparisons,
    comparisons_axes,
    forest_rows,
    shown_comparisons,
)
from dynamics.records.reader import Study

STOPPED = " (early stopping)"


def hand(arm: str, other: str, estimate: float, *, p: float = 0.2, **more: Any) -> Comparison:
    settings: dict[str, Any] = {
        "bucket": "all",
        "quantity": "final",
        "over": "seeds_and_documents",
        "low": estimate - 0.1,
        "high": estimate + 0.1,
        "probability": 0.5,
        "p_value": p,
        "p_holm": p,
        "p_bh": p,
        "n_documents": 30,
        "n_seeds": (3, 3),
        "same_seeds": True,
        **more,
    }
    return Comparison(arm=arm, other=other, estimate=estimate, **settings)


def labels(ax: Any) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def at_right(ax: Any) -> list[str]:
    (right,) = ax.child_axes
    return labels(right)


def note(plot: Any) -> str:
    text: str = plot.figure.legends[0].get_title().get_text().replace("\n", "; ")
    return text


def test_groups_are_titled_sorted_and_numbered() -> None:
    rows = [
        hand("random", "baseline", -0.25, p=0.0004),
        hand("entrodrop", "baseline", -0.5, p=0.03),
        hand("entrodrop", f"baseline{STOPPED}", 0.125, p=0.999),
        hand("entrodrop", "baseline", 0.0625, quantity="best", p=1.0),
    ]
    plot = comparisons(rows)
    assert labels(plot.ax) == [
        "Final loss",
        "entrodrop − baseline",
        "random − baseline",
        "Final loss against early stopping",
        "entrodrop − baseline (early stopping)",
        "Best loss",
        "entrodrop − baseline",
    ]
    assert at_right(plot.ax) == [
        "over seeds and documents",
        "−0.500 [−0.600, −0.400]  p = 0.030",
        "−0.250 [−0.350, −0.150]  p < 0.001",
        "over seeds and documents",
        "+0.125 [+0.025, +0.225]  p = 0.999",
        "over seeds and documents",
        "+0.062 [−0.038, +0.163]  p = 1",
    ]
    ticks = plot.ax.get_yticks()
    styles = arm_styles(["baseline", "random", "entrodrop"])
    points = [line for line in plot.ax.lines if line.get_marker() not in (None, "None", "")]
    assert [float(np.asarray(line.get_xdata())[0]) for line in points] == [-0.5, -0.25, 0.125, 0.0625]
    assert [float(np.asarray(line.get_ydata())[0]) for line in points] == [ticks[i] for i in (1, 2, 4, 6)]
    assert [line.get_color() for line in points] == [
        styles[arm].color for arm in ("entrodrop", "random", "entrodrop", "entrodrop")
    ]
    # Filled: significant.
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, False, True, True]
    bars = [line for line in plot.ax.lines if len(np.asarray(line.get_xdata())) == 2 and line not in points]
    spans = [np.asarray(line.get_xdata()).tolist() for line in bars if np.ptp(np.asarray(line.get_xdata()))]
    assert spans == pytest.approx(np.array([[-0.6, -0.4], [-0.35, -0.15], [0.025, 0.225], [-0.0375, 0.1625]]))
    assert plot.ax.get_xlabel() == "Difference (nats per token)"
    assert note(plot) == (
        "left of 0 the first arm is lower; line: 95 % interval; filled: p (Holm, 4 comparisons) below 0.05"
    )
    plt.close("all")


def test_a_margin_is_a_band_with_its_own_test() -> None:
    rows = [replace(hand("a", "b", 0.01), margin=0.125, p_equivalent=0.01, p_equivalent_holm=0.02)]
    plot = comparisons(rows)
    (band,) = plot.ax.patches
    corners = np.asarray(band.get_path().vertices) if not hasattr(band, "get_width") else None
    ends = (band.get_x(), band.get_x() + band.get_width()) if corners is None else (corners.min(), corners.max())
    assert ends == (-0.125, 0.125)
    assert at_right(plot.ax)[1] == "+0.010 [−0.090, +0.110]  p = 0.200, less: p = 0.020"
    assert "grey: differences below 0.125" in note(plot)
    plt.close("all")


def test_what_it_generalises_over_stands_at_each_row_where_rows_differ() -> None:
    rows = [hand("a", "b", 0.01), hand("a", "c", 0.02, over="documents", n_seeds=(3, 1))]
    plot = comparisons(rows)
    assert at_right(plot.ax) == [
        "",
        "+0.010 [−0.090, +0.110]  p = 0.200 over seeds and documents",
        "+0.020 [−0.080, +0.120]  p = 0.200 over documents",
    ]
    assert "one seed" not in note(plot)
    best = comparisons([*rows, replace(rows[1], quantity="best")])
    assert note(best).endswith("one seed: best epoch chosen by the same model")
    both = comparisons([replace(row, margin=0.1, p_equivalent_holm=1.0) for row in rows])
    assert at_right(both.ax)[2].splitlines() == ["+0.020 [−0.080, +0.120]  p = 0.200, less: p = 1", "over documents"]
    plt.close("all")


def test_arms_that_diverged_have_no_row_and_are_named() -> None:
    unknown = {"low": math.nan, "high": math.nan, "p": 1.0}
    rows = [hand("a", "b", -0.5), hand("gone", "b", math.nan, **unknown), hand("gone", "a", math.nan, **unknown)]
    plot = comparisons(rows)
    assert labels(plot.ax) == ["Final loss", "a − b"]
    assert note(plot).endswith("diverged, not compared: gone")
    assert [row["drawn"] for row in comparison_rows(rows)] == [1, 0, 0]
    nothing = comparisons(rows[1:])
    assert at_right(nothing.ax)[1:] == ["not known: an arm diverged"] * 2
    plt.close("all")


def test_more_comparisons_than_a_page_has_lines() -> None:
    names = [f"arm{i:02d}" for i in range(12)]
    rows = [
        hand(one, other, 0.01 * i - 0.3, p=1.0 / (1 + i))
        for i, (one, other) in enumerate((a, b) for k, b in enumerate(names) for a in names[k + 1 :])
    ]
    rows.append(hand(f"arm03{STOPPED}", "arm03", 0.5))
    kept = shown_comparisons(rows)
    assert len(rows) == 67 and len(kept) == 12
    assert all("arm03" in (row.arm + row.other) for row in kept)
    plot = comparisons(rows)
    assert note(plot).endswith("drawn: 12 of 67, those with arm03")
    assert sum(row["drawn"] for row in comparison_rows(rows)) == 12 and len(comparison_rows(rows)) == 67
    many = [hand(f"arm{i}", "baseline", 0.01 * i, p=0.001 * (i + 1)) for i in range(60)]
    assert [row.arm for row in shown_comparisons(many)] == [f"arm{i}" for i in range(MOST_LINES)]
    plt.close("all")


def test_names_of_two_arms_that_are_wide_have_two_lines() -> None:
    one, other = "a_name_of_more_than_thirty_letters", "another_name_of_more_than_thirty_letters"
    rows = forest_rows([hand(one, other, 0.1), hand("a", "b", 0.2)], 6.9 * 72)
    assert [row.words for row in rows] == ["Final loss", f"{one} −\n{other}", "a − b"]
    assert [row.y for row in rows] == [0.0, 1.5, 3.0]


def test_buckets_keep_their_order_and_accuracy_is_better_on_the_right(study: Study) -> None:
    pair = collect_arms(study)[:2]
    plot = comparisons(compare_arms(pair, quantity="rebound", buckets=3))
    assert labels(plot.ax) == ["Rebound of loss", *(f"baseline − entrodrop, bucket {k}" for k in (1, 2, 3))]
    shares = comparisons([hand("a", "b", 0.1, value="correct")])
    assert labels(shares.ax)[0] == "Final accuracy" and shares.ax.get_xlabel() == "Difference (share of tokens)"
    assert note(shares).startswith("right of 0 the first arm is higher")
    plt.close("all")


def test_a_study_is_its_family_of_comparisons(study: Study, losses: dict[str, list[float]]) -> None:
    ax = Figure(layout="constrained").add_subplot()
    assert comparisons(study, ax=ax, margin=0.05).axes == [ax]
    rows = comparison_rows(as_comparisons(study))
    family = study_comparisons(study)
    assert [(row["arm"], row["other"], row["difference"], row["p_holm"]) for row in rows] == [
        (row.arm, row.other, row.estimate, row.p_holm) for row in family
    ]
    assert [row["group"] for row in rows] == ["final"] * 6 + ["early_stopping"] * 4 + ["best"] * 6
    for row in rows[:6]:
        assert row["difference"] == pytest.approx(losses[row["arm"]][-1] - losses[row["other"]][-1])
    with pytest.raises(InputError, match="one arm alone has nothing to be compared with"):
        comparisons(study.run("baseline", 0))
    with pytest.raises(InputError, match="no arm 'basline' to compare with"):
        comparisons(study, baseline="basline")
    # What the figure says is not warned of.
    one = [Arm(arm.name, arm.runs[:1]) for arm in collect_arms(study)]
    assert {row.over for row in as_comparisons(one)} == {"documents"}


def test_a_figure_is_as_high_as_its_rows() -> None:
    style = load_style()
    with style.context():
        heights = [
            comparisons_axes(style, [hand(str(i), "b", 0.1) for i in range(n)])[0].get_figheight() for n in (2, 12)
        ]
    assert heights[1] - heights[0] == pytest.approx(10 * 0.145)
