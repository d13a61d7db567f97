"""The forest plot of comparisons: differences of arms with their intervals, p-values and what they generalise over."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynamics.analysis.comparisons.arm_comparisons import Comparison
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.limits import EARLY_STOPPING
from dynamics.analysis.intervals.selection import about_one_seed
from dynamics.analysis.sums.arms import Source
from dynamics.errors import InputError
from dynamics.plots.drawing.lines import END_SIZE, signed
from dynamics.plots.drawing.notes import figure_width, note_over, text_width
from dynamics.plots.drawing.panels import chosen_axes, given, in_given, in_own_figure
from dynamics.plots.drawing.plot import Plot, root_figure
from dynamics.plots.drawing.style import FAINT, INK, Style, arm_styles, is_ours

Compared = Source | Iterable[Source] | Sequence[Comparison]

#: Lines of a figure that fills a page.
MOST_LINES = 46
_LINE = 0.145  # inches
_SIGNIFICANT = 0.05
# Of the figure's width, for the names of two arms.
_NAMES = 0.42
_TITLES = {
    "final": "Final {}",
    "early_stopping": "Final {} against early stopping",
    "best": "Best {}",
    "rebound": "Rebound of {}",
    "area": "Mean {} over training",
}
_OVER = {"documents": "over documents", "seeds_and_documents": "over seeds and documents"}
_VALUES = {"loss": "loss", "entropy": "entropy", "correct": "accuracy", "certainty": "certainty"}


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A line of the plot: a comparison, or the heading of a group where that is None.

    `y` is the middle of its lines, counted downwards.
    """

    words: str
    at_right: str
    y: float
    comparison: Comparison | None = None


def comparisons(
    data: Compared,
    *,
    ax: Axes | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    split: str = "validation",
) -> Plot:
    """Draw differences of arms with their intervals, one line a comparison: a forest plot.

    Without ready comparisons it shows the family that a study is reported by (`dynamics.analysis.study_comparisons`):
    every pair of arms at the end of training, every arm against early stopping of the baseline, and every pair at their
    best epochs. Each group is sorted by the difference, unless it has several buckets. Left of 0 the arm that is named
    first has the lower value. A filled marker has a p-value below 0.05 after Holm's correction for all comparisons,
    those that are not drawn too.

    Parameters
    ----------
    data : Study, Run, iterable of them, or sequence of Comparison
        Ready comparisons, of `compare_arms` for instance, are grouped by quantity.
    ax : Axes, optional
        Where to draw; a new figure of the page's width otherwise.
    baseline : str, optional
        The arm that is stopped early. Default: the one with a name that says so, or the first.
    margin : float, optional
        In nats per token: draw the band of differences that would not matter, and give the p-value of "they differ by
        less". State it before you look.
    split : str
        For records.

    Returns
    -------
    Plot

    Raises
    ------
    InputError
        If there is nothing to compare: one arm alone. As `study_comparisons` for records.

    Notes
    -----
    Where there are more comparisons than a page has lines, only those with the baseline are drawn (of ready
    comparisons: those with the arm that most of them have), and of these the ones with the lowest p-values. Comparisons
    with an arm that diverged have no numbers and are left out too. Notes say so.
    """
    rows = as_comparisons(data, baseline=baseline, margin=margin, split=split)
    if not rows:
        raise InputError("one arm alone has nothing to be compared with; give two arms or more")
    given_axes = chosen_axes(ax, None, 1, "panels")
    if given_axes is not None:
        return in_given(lambda axes: [draw_comparisons(rows, axes[0])], given_axes)

    def draw(style: Style) -> list[Axes]:
        return [draw_comparisons(rows, comparisons_axes(style, rows)[1])]

    return in_own_figure(draw)


def as_comparisons(
    data: Compared, *, baseline: str | None = None, margin: float | None = None, split: str = "validation"
) -> list[Comparison]:
    """Return the numbers of the forest plot; none for one arm."""
    items, ready = given(data, Comparison)
    if ready:
        return items
    with warnings.catch_warnings():
        # The figure says these itself.
        for said in (r"comparisons with .* generalise over documents alone", re.escape(str(about_one_seed(1)))):
            warnings.filterwarnings("ignore", message=said, category=UserWarning)
        return study_comparisons(items, baseline=baseline, margin=margin, split=split)


def comparisons_axes(style: Style, rows: Sequence[Comparison]) -> tuple[Figure, Axes]:
    """Return a new figure of the page's width, as high as the rows need, and its panel."""
    last = forest_rows(rows, style.full * 72.0)[-1]
    figure = style.figure(column="full", height=0.75 + _LINE * (last.y + 1.0))
    return figure, figure.add_subplot()


def comparison_rows(rows: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return all numbers, one row a comparison, those without room in the figure too."""
    drawn = {id(row) for row in shown_comparisons(rows)}
    return [
        {
            "group": group_of(row),
            "arm": row.arm,
            "other": row.other,
            "bucket": row.bucket,
            "value": row.value,
            "difference": row.estimate,
            "low": row.low,
            "high": row.high,
            "p_value": row.p_value,
            "p_holm": row.p_holm,
            "p_bh": row.p_bh,
            "margin": row.margin,
            "p_equivalent_holm": row.p_equivalent_holm,
            "over": row.over,
            "documents": row.n_documents,
            "seeds": row.n_seeds[0],
            "other_seeds": row.n_seeds[1],
            "paired_seeds": int(row.same_seeds),
            "drawn": int(id(row) in drawn),
        }
        for row in rows
    ]


def group_of(row: Comparison) -> str:
    """Return the group of a comparison: its quantity, or ``early_stopping``."""
    return "early_stopping" if EARLY_STOPPING in row.arm + row.other else row.quantity


def shown_comparisons(rows: Sequence[Comparison], most: int = MOST_LINES) -> list[Comparison]:
    """Return the comparisons that have numbers and that a page has room for, in their order; all if none has any."""
    known = [row for row in rows if math.isfinite(row.estimate)] or list(rows)
    if len(known) <= most:
        return known
    centre = _centre(known)
    with_it = [row for row in known if centre in _arms(row)]
    chosen = {id(row) for row in sorted(with_it, key=lambda row: row.p_value)[:most]}
    return [row for row in with_it if id(row) in chosen]


def _arms(row: Comparison) -> tuple[str, str]:
    return row.arm.removesuffix(EARLY_STOPPING), row.other.removesuffix(EARLY_STOPPING)


def _centre(rows: Sequence[Comparison]) -> str:
    """Return the arm that is stopped early, or the one in most comparisons."""
    names = [name for row in rows for name in (row.arm, row.other)]
    stopped = [name.removesuffix(EARLY_STOPPING) for name in names if name.endswith(EARLY_STOPPING)]
    return stopped[0] if stopped else max(dict.fromkeys(names), key=names.count)


def forest_rows(rows: Sequence[Comparison], width: float) -> list[ForestRow]:
    """Return the lines of the plot.

    Parameters
    ----------
    rows : sequence of Comparison
    width : float
        Of the figure, in points.
    """
    room = _NAMES * width
    long = any(text_width(_pair(row, several=False), END_SIZE) > room for row in rows)
    shown = shown_comparisons(rows, MOST_LINES // 2 if long else MOST_LINES)
    several = len({row.bucket for row in shown}) > 1
    lines: list[ForestRow] = []
    y = 0.0
    for group in dict.fromkeys(map(group_of, rows)):
        members = [row for row in shown if group_of(row) == group]
        if not members:
            continue
        overs = [row.over for row in members]
        one = len(set(overs)) == 1
        lines.append(ForestRow(_title(group, members[0]), _OVER[overs[0]] if one else "", y))
        y += 1.0
        if not several:
            members.sort(key=lambda row: (math.isnan(row.estimate), row.estimate))
        for row in members:
            words = _pair(row, several=several, width=room)
            # Both p-values and what they are over are wider than half of a page.
            between = " " if math.isnan(row.margin) else "\n"
            at_right = _numbers(row) if one else f"{_numbers(row)}{between}{_OVER[row.over]}"
            high = 1.0 + max(words.count("\n"), at_right.count("\n"))
            lines.append(ForestRow(words, at_right, y + (high - 1.0) / 2.0, row))
            y += high
        y += 0.5
    return lines


def draw_comparisons(rows: Sequence[Comparison], ax: Axes) -> Axes:
    """Draw comparisons into a panel, names at its left and numbers at its right."""
    lines = forest_rows(rows, figure_width(ax))
    looks = arm_styles(list(dict.fromkeys(name for row in rows for name in reversed(_arms(row)))))
    margin = rows[0].margin
    ax.axvline(0.0, color=INK, linewidth=0.5, zorder=1)
    if not math.isnan(margin):
        ax.axvspan(-margin, margin, color=FAINT, alpha=0.18, linewidth=0, zorder=0)
    for line in lines:
        row = line.comparison
        if row is None or not math.isfinite(row.estimate):
            continue
        look = looks[_arms(row)[0]]
        ax.plot([row.low, row.high], [line.y, line.y], color=look.color, linewidth=1.2, zorder=2)
        ax.plot(
            row.estimate,
            line.y,
            marker=look.marker,
            color=look.color,
            markerfacecolor=look.color if row.p_holm < _SIGNIFICANT else "white",
            markersize=4.2,
            markeredgewidth=0.9,
            zorder=3,
        )
    _words(ax, lines)
    drawn = [line.comparison for line in lines if line.comparison is not None]
    ends = np.array([(row.low, row.high, row.estimate) for row in drawn] + [(0.0, 0.0, 0.0)])
    ends = np.append(ends[np.isfinite(ends)], [] if math.isnan(margin) else [-margin, margin])
    pad = 0.05 * (ends.max() - ends.min()) or 0.1
    ax.set_xlim(ends.min() - pad, ends.max() + pad)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    unit = "share of tokens" if rows[0].value == "correct" else "nats per token"
    ax.set_xlabel(f"Difference ({unit})")
    # The panel of a figure of ours is narrow between the words; of the user's figure the rest is not ours.
    note_over([ax, ax] if is_ours(root_figure(ax)) else [ax], _notes(rows, drawn))
    return ax


def _words(ax: Axes, lines: Sequence[ForestRow]) -> None:
    """Write names as the labels of the left axis and numbers as those of the right one, which the layout measures."""
    places = [line.y for line in lines]
    ax.set_yticks(places, [line.words for line in lines])
    ax.set_ylim(lines[-1].y + 0.8, -0.8)
    right = ax.secondary_yaxis("right")
    right.set_yticks(places, [line.at_right for line in lines])
    for axis in (ax, right):
        axis.tick_params(axis="y", length=0, labelsize=END_SIZE)
        for label, line in zip(axis.get_yticklabels(), lines, strict=True):
            label.set_parse_math(False)
            if line.comparison is None:
                label.set_color(INK if axis is ax else FAINT)
                label.set_fontweight("bold" if axis is ax else "normal")
    for side in ("left", "right"):
        ax.spines[side].set_visible(False)
    right.spines["right"].set_visible(False)


def _pair(row: Comparison, *, several: bool, width: float = math.inf) -> str:
    """Return the names of both arms, on two lines where they are wider than `width` points."""
    other = f"{row.other}, bucket {row.bucket}" if several else row.other
    words = f"{row.arm} − {other}"
    return words if text_width(words, END_SIZE) <= width else f"{row.arm} −\n{other}"


def _title(group: str, row: Comparison) -> str:
    value = _VALUES[row.value]
    return _TITLES[group].format(value)


def _numbers(row: Comparison) -> str:
    if not math.isfinite(row.estimate):
        return "not known: an arm diverged"
    words = f"{signed(row.estimate, 3)} [{signed(row.low, 3)}, {signed(row.high, 3)}]  {_p(row.p_holm)}"
    return words if math.isnan(row.margin) else f"{words}, less: {_p(row.p_equivalent_holm)}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {min(value, 0.999):.3f}" if value < 0.9995 else "p = 1"


def _notes(rows: Sequence[Comparison], drawn: Sequence[Comparison]) -> list[str]:
    margin = rows[0].margin
    known = [row for row in rows if math.isfinite(row.estimate)]
    finite = {name for row in known for name in _arms(row)}
    diverged = dict.fromkeys(name for row in rows for name in _arms(row) if name not in finite)
    chooses = any(
        n_seeds == 1 and (row.quantity in ("best", "rebound") or name.endswith(EARLY_STOPPING))
        for row in drawn
        for name, n_seeds in zip((row.arm, row.other), row.n_seeds, strict=True)
    )
    better = "right of 0 the first arm is higher" if rows[0].value == "correct" else "left of 0 the first arm is lower"
    return [
        better,
        "line: 95 % interval",
        f"filled: p (Holm, {len(rows)} comparisons) below {_SIGNIFICANT}",
        "" if math.isnan(margin) else f"grey: differences below {margin:g}; less: the test for these",
        "one seed: best epoch chosen by the same model" if chooses else "",
        f"diverged, not compared: {', '.join(diverged)}" if known and diverged else "",
        f"drawn: {len(drawn)} of {len(known)}, those with {_centre(known)}" if len(drawn) < len(known) else "",
    ]
