from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from support.synthetic import make_study

from dynamics.analysis.estimands.bucket_dynamics import RiseCurve
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.plots.drawing.style import arm_styles
from dynamics.plots.families.rebound import as_rises, rebound, rebound_rows, shown
from dynamics.records.reader import Study, open_study

Array = np.ndarray[Any, Any]

RISE = np.array([[0.5, 0.9], [0.0, 0.0], [0.1, 0.3], [0.25, 0.75]])


def hand(arm: str, *, times: float = 1.0, best: int = 1, n_seeds: int = 2) -> RiseCurve:
    """Low- and high-entropy tokens at epochs 0, 1, 2 and 4."""
    rise = times * RISE
    return RiseCurve(
        arm=arm,
        n_seeds=n_seeds,
        n_documents=20,
        split="validation",
        epochs=np.array([0, 1, 2, 4]),
        labels=("low", "high"),
        best=best,
        rise=Interval(rise - 0.05, rise + 0.05, rise),
        over="seeds_and_documents" if n_seeds > 1 else "documents",
    )


def lines_of(ax: Any, arm: str) -> tuple[Any, Any]:
    """Return the line since the best epoch, and the faint one before it."""
    (line,) = [line for line in ax.lines if line.get_label() == arm]
    color = line.get_color()
    (faint,) = [each for each in ax.lines if each.get_color() == color and each is not line]
    return line, faint


def test_a_line_begins_at_the_best_epoch_and_what_comes_before_is_faint() -> None:
    plot = rebound([hand("baseline"), hand("entrodrop", times=0.5)])
    low, high = plot.axes
    assert (low.get_title(), high.get_title()) == ("low entropy", "high entropy")
    for k, ax in enumerate(plot.axes):
        line, faint = lines_of(ax, "baseline")
        assert np.asarray(line.get_xdata()).tolist() == [1, 2, 4]
        assert np.asarray(line.get_ydata()).tolist() == RISE[1:, k].tolist()
        assert line.get_markevery() == [0] and line.get_color() == arm_styles(["baseline"])["baseline"].color
        assert np.asarray(faint.get_ydata()).tolist() == RISE[:2, k].tolist() and faint.get_alpha() < 0.5
        # What is before the best epoch does not make the limits: 0 - 0.05 and 0.75 + 0.05, and 6 % about them.
        assert ax.get_ylim() == pytest.approx((-0.05 - 0.051, 0.8 + 0.051))
    corners = np.round(np.asarray(high.collections[0].get_paths()[0].vertices), 9)
    assert {(1.0, -0.05), (2.0, 0.35), (4.0, 0.8)} <= {(float(x), float(y)) for x, y in corners}
    assert not np.isin(0.0, corners[:, 0])
    assert [text.get_text() for text in low.texts] == ["+0.25", "+0.12"]
    assert [text.get_text() for text in high.texts] == ["baseline +0.75", "entrodrop +0.38"]
    assert low.get_ylabel() == "Rise of validation loss since\nbest epoch (nats per token)" and not high.get_ylabel()
    (note,) = plot.figure.legends
    assert note.get_title().get_text() == (
        "marker: best epoch; number: rise since, cross-fitted; band: 95 % over seeds and documents"
    )
    plt.close("all")


def test_three_arms_are_shown_by_role_and_the_others_named() -> None:
    names = ["smoothing", "inverse", "entrodrop-late", "random", "entrodrop", "baseline"]
    curves = [hand(name, times=1.0 + i) for i, name in enumerate(names)]
    assert [curve.arm for curve in shown(curves)] == ["random", "entrodrop", "baseline"]
    assert [curve.arm for curve in shown(curves[:4])] == ["smoothing", "entrodrop-late", "random"]
    assert shown(curves[:2]) == curves[:2]
    plot = rebound(curves)
    assert {line.get_label() for line in plot.ax.lines if not line.get_label().startswith("_")} == {
        "random",
        "entrodrop",
        "baseline",
    }
    assert "3 more not drawn: smoothing, inverse, entrodrop-late" in plot.figure.legends[0].get_title().get_text()
    two = rebound(curves, arms=["inverse", "smoothing"])
    assert [text.get_text().split()[0] for text in two.axes[1].texts] == ["inverse", "smoothing"]
    assert "not drawn" not in two.figure.legends[0].get_title().get_text()
    with pytest.raises(InputError, match="no arm 'smothing'; did you mean 'smoothing'"):
        rebound(curves, arms=["smothing"])
    with pytest.raises(InputError, match="no arm named; there are smoothing"):
        rebound(curves, arms=[])
    plt.close("all")


def test_long_names_go_into_a_legend() -> None:
    names = ["baseline", "entrodrop_linear_schedule_of_ratio_0.15"]
    plot = rebound([hand(name, times=1.0 + i) for i, name in enumerate(names)])
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert [text.get_text() for text in plot.axes[1].texts] == ["+0.75", "+1.50"]
    plt.close("all")


def test_arms_that_diverged_are_named_and_not_drawn() -> None:
    nothing = np.full(RISE.shape, np.nan)
    gone = replace(hand("gone", best=-1), rise=Interval(nothing, nothing, nothing))
    plot = rebound([hand("baseline"), gone])
    assert "diverged, not drawn: gone" in plot.figure.legends[0].get_title().get_text()
    assert [text.get_text() for text in plot.axes[1].texts] == ["baseline +0.75"]
    alone = rebound(gone)
    assert [text.get_text() for text in alone.ax.texts] == ["no arm has a finite loss\nat every epoch"]
    plt.close("all")


def test_one_seed_says_who_chose_the_best_epoch() -> None:
    plot = rebound([hand("a"), hand("b", times=2.0, n_seeds=1)])
    note = plot.figure.legends[0].get_title().get_text().replace("\n", "; ")
    assert note.endswith("band: 95 % over seeds and (or) documents; one seed of b: best epoch chosen by the same model")
    plt.close("all")


def test_an_arm_that_is_best_at_the_end_is_a_point_at_0() -> None:
    rise = RISE[::-1] - RISE[0]
    falling = replace(hand("falling", best=4), rise=Interval(rise - 0.05, rise + 0.05, rise - rise[-1]))
    plot = rebound(falling)
    (line,) = [line for line in plot.ax.lines if line.get_label() == "falling"]
    assert (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) == ([4], [0.0])
    assert len(plot.ax.containers) == 1
    plt.close("all")


def test_a_study_its_own_axes_and_its_rows(study: Study, losses: dict[str, list[float]]) -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots(1, 2)
    assert rebound(study, axes=axes).axes == list(axes)
    with pytest.raises(InputError, match="2 buckets need 2 axes, and 1 were given"):
        rebound(study, ax=axes[0])
    (ax,) = rebound(study, ax=Figure().add_subplot(), buckets=1).axes
    assert ax.get_title(loc="left").startswith("marker: best epoch")
    rows = rebound_rows(as_rises(study))
    assert len(rows) == 4 * 2 * 4
    for row in rows:
        planted = losses[row["arm"]]
        assert row["rise"] == pytest.approx(planted[row["epoch"]] - min(planted), abs=1e-9)
        assert (row["low"], row["high"]) == pytest.approx((row["rise"], row["rise"]), abs=1e-9)
        assert row["since_best"] == int(row["epoch"] >= int(np.argmin(planted)))
        assert row["best"] == int(row["epoch"] == int(np.argmin(planted)))


def test_one_seed_warns_of_nothing_that_the_figure_says(study: Study) -> None:
    one = Arm("one", collect_arms(study)[0].runs[:1])
    assert [curve.over for curve in as_rises(one)] == ["documents"]


def test_numbers_from_the_records(tmp_path: Path) -> None:
    """In float64, of tokens that are noisy by less than the epochs lie apart."""
    planted = [3.0, 1.0, 1.5, 2.0]

    def noisy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.asarray(planted[epoch] * np.sqrt(entropy) + 0.1 * rng.standard_normal(entropy.shape))

    path = make_study(
        tmp_path / "study",
        arms={"baseline": {}},
        seeds=(0, 1, 2),
        n_documents=60,
        epochs=3,
        loss_fns={"baseline": noisy},
    )
    study = open_study(path)
    rows = rebound_rows(as_rises(study))
    train = study.run("baseline", 0).records("train")
    edge = np.median(train.reference_entropy[train.predicted])
    for label in ("low", "high"):
        curve = []
        for epoch in range(4):
            values = []
            for seed in (0, 1, 2):
                records = study.run("baseline", seed).records("validation")
                half = (records.reference_entropy < edge) == (label == "low")
                values.append(records.loss(epoch)[records.predicted & half].astype(np.float64).mean())
            curve.append(np.mean(values))
        found = [row["rise"] for row in rows if row["bucket"] == label]
        assert found == pytest.approx([value - curve[1] for value in curve], abs=1e-9)
