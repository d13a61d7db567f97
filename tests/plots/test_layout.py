"""The words of all figures in the widths of venues, as a printer would see them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from support.synthetic import make_study

from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.plots import saving as figures
from dynamics.plots.drawing.style import load_style
from dynamics.plots.saving import FIGURES
from dynamics.records.reader import open_study

#: One of each width and size of text; None is the library's own style.
VENUES = [None, "icml2024", "neurips2024", "iclr2024", "acl"]
#: Points. Boxes have room for descenders that most words lack; what touches by less is apart on paper.
_SLACK = 0.5
_SPACE = 2.0
_SMALLEST = 5.5


def complaints(figure: Figure) -> list[str]:
    """Return what is clipped, overlaps, is too small, or hides data; draws the figure as it is saved."""
    drawn: list[Text] = []
    write = Text.draw

    def record(text: Text, renderer: Any) -> None:
        # What is drawn, not what is there: axes keep labels of ticks beyond their limits.
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        write(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    points = 72.0 / figure.dpi
    boxes = [(text.get_text(), _scaled(text.get_window_extent(), points)) for text in drawn]
    page = _scaled(figure.bbox, points)
    found = [f"{text.get_text()!r} has {_size(text):g} points" for text in drawn if _size(text) < _SMALLEST]
    for words, box in boxes:
        outside = _beyond(box, page)
        if outside > 0.0:
            found.append(f"{words!r} is outside of the figure by {outside:.1f} points")
    found += [
        f"{a!r} touches {b!r}"
        for (a, one), (b, other) in combinations(boxes, 2)
        if _common(_wider(one), _wider(other)) > _SLACK
    ]
    panels = [_scaled(ax.bbox, points) for ax in figure.axes]
    for words, box in boxes:
        if any(_common(box, each) > _SLACK and _beyond(box, each) > _SLACK for each in panels):
            found.append(f"{words!r} lies across the frame of a panel")
    for legend in [*figure.legends, *(ax.get_legend() for ax in figure.axes)]:
        if legend is not None and any(
            _common(_scaled(legend.get_window_extent(), points), each) > _SLACK for each in panels
        ):
            found.append("a legend lies over a panel")
    return found


def _size(text: Text) -> float:
    """Return the size of the smallest letters; exponents are 0.7 as large as what they stand at."""
    return float(text.get_fontsize()) * (0.7 if re.search(r"\$.*\^.*\$", text.get_text()) else 1.0)


def _wider(box: Bbox) -> Bbox:
    """Return a box with half of a space on either side: words that are nearer read as one."""
    return Bbox([[box.x0 - _SPACE / 2, box.y0], [box.x1 + _SPACE / 2, box.y1]])


def _scaled(box: Any, by: float) -> Bbox:
    return Bbox(box.get_points() * by)


def _beyond(box: Bbox, frame: Bbox) -> float:
    """Return how far a box reaches out of a frame."""
    return float(max(frame.x0 - box.x0, frame.y0 - box.y0, box.x1 - frame.x1, box.y1 - frame.y1))


def _common(one: Bbox, other: Bbox) -> float:
    """Return the smaller side of what two boxes have in common; 0 or less where that is nothing."""
    return float(min(min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)))


def once(compute: Any) -> Any:
    """Numbers do not depend on the venue: they are worked out once."""
    known: dict[tuple[str, ...], Any] = {}

    def computed(arms: list[Arm], **how: Any) -> Any:
        key = tuple(f"{arm.name} {arm.runs[0].path}" for arm in arms), str(how)
        if key not in known:
            known[key] = compute(arms, **how)
        return known[key]

    return computed


#: Names of 24 to 40 characters, one without a place to break it, each with the method and schedule that it has.
LONG_NAMES: dict[str, tuple[str, str] | None] = {
    "baseline": None,
    "entrodrop_linear_schedule_to_0.15": ("entrodrop", "linear"),
    "random_token_dropout_matched_ratio": ("random_token_dropout", "linear"),
    "inverse_entrodrop_sigmoid_of_low_entropy": ("inverse_entrodrop", "sigmoid"),
    "goldfish_loss_one_of_four_tokens": None,
    "Labelsmoothingwithouranyplacetobreakit": None,
}
DIVERGED = "random_token_dropout_matched_ratio"


def noisy(start: float, rise: float, then: float | None = None) -> Any:
    """Return a loss that falls, rises on validation, and is `then` from epoch 3 on."""

    def loss(epoch: int, split: str, entropy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        curve = start + 0.5**epoch + (rise * max(0, epoch - 3) if split == "validation" else -0.1 * epoch)
        drawn = entropy + curve + 0.3 * rng.standard_normal(entropy.shape)
        return drawn if then is None or epoch < 3 else np.full_like(drawn, then)

    return loss


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Arm]]]:
    """Six arms with long names, three schedules, three seeds: as they are, and with an arm that diverged to NaN, inf."""
    found = {}
    for kind, value in {"finite": None, "nan": np.nan, "inf": np.inf}.items():
        path = tmp_path_factory.mktemp("layout") / kind
        regularizers = {
            arm: {"regularizers": [{"name": method[0], "ratio": 0.15, "schedule": method[1]}]} if method else {}
            for arm, method in LONG_NAMES.items()
        }
        losses = {arm: noisy(0.02 * i, 0.1 / (i + 1)) for i, arm in enumerate(LONG_NAMES)}
        losses[DIVERGED] = noisy(0.04, 0.03, value)
        how: dict[str, Any] = {"seeds": (0, 1, 2), "n_documents": 100, "epochs": [0, 1, 2, 3, 6, 12]}
        make_study(path, arms=regularizers, loss_fns=losses, **how)
        found[kind] = collect_arms(open_study(path))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(figures) if name.startswith("as_")]:
            patch.setattr(figures, name, once(getattr(figures, name)))
        yield found


@pytest.fixture(scope="module")
def arms(studies: dict[str, list[Arm]]) -> list[Arm]:
    return studies["finite"]


def lines_of_words(figure: Figure) -> str:
    """Return all words of a figure, as if no line were broken."""
    texts = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
    return " ".join(text.replace("\n", "") for text in texts)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("name", FIGURES)
def test_words_are_whole_apart_and_legible_at_print_size(arms: list[Arm], name: str, venue: str | None) -> None:
    style = load_style(venue)
    with style.context():
        for shown in (arms, arms[1:2]):
            if FIGURES[name].lacking(shown):
                continue
            figure, _ = FIGURES[name].build(shown, style)
            assert complaints(figure) == []
            assert figure.get_figwidth() in (style.half, style.full)


@pytest.mark.parametrize("venue", [None, "acl"])
@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("name", FIGURES)
def test_an_arm_that_diverged_is_said_to_have(
    studies: dict[str, list[Arm]], name: str, kind: str, venue: str | None
) -> None:
    arms = studies[kind]
    style = load_style(venue)
    with style.context():
        for shown in (arms, arms[2:3]):
            if FIGURES[name].lacking(shown):
                continue
            figure, _ = FIGURES[name].build(shown, style)
            assert complaints(figure) == []
            words = lines_of_words(figure)
            assert not re.search(r"\b(nan|inf)\b", words, flags=re.IGNORECASE), words
            # The two that show no loss but what was dropped, or tokens of training, have nothing to say.
            if name not in ("entropy_distribution", "cartography"):
                assert "diverged" in words


@pytest.mark.parametrize("venue", VENUES)
def test_a_task_has_room_below_the_loss(arms: list[Arm], venue: str | None) -> None:
    """The pattern is longer than its note has room for, and has what matplotlib takes for mathematics."""
    style = load_style(venue)
    mixed = [arms[0], Arm(arms[2].name, arms[2].runs[:1]), arms[3]]
    with style.context():
        for shown in (arms, arms[1:2], mixed):
            figure, rows = FIGURES["degradation"].build(shown, style, task=r"(?:list$|list|$^a)|\b(?:données|über)\b")
            assert complaints(figure) == []
            # Levels and differences where there is a baseline, of the page's width.
            across = 2 if arms[0] in shown else 1
            assert figure.get_figwidth() == (style.full if across == 2 else style.half)
            assert len(figure.axes) == 2 * across
            assert {row["task_documents"] + row["task_documents_left_out"] for row in rows} == {50}


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("name", ["degradation", "token_dynamics", "curriculum", "gap", "overconfidence"])
def test_the_longest_note_on_intervals_has_room_too(arms: list[Arm], name: str, venue: str | None) -> None:
    """Where arms of one seed stand beside arms of several."""
    style = load_style(venue)
    mixed = [arms[0], Arm(arms[2].name, arms[2].runs[:1]), arms[3]]
    with style.context():
        for shown in (mixed, mixed[1:2]):
            figure, rows = FIGURES[name].build(shown, style)
            assert complaints(figure) == []
            overs = {row["over"] for row in rows} - {""}
            assert overs == ({"seeds_and_documents", "documents"} if shown is mixed else {"documents"})


@pytest.mark.parametrize("name", FIGURES)
def test_a_name_without_an_end_is_broken(arms: list[Arm], name: str) -> None:
    style = load_style("acl")
    with style.context():
        figure, _ = FIGURES[name].build([arms[0], Arm("W" * 40, arms[1].runs), arms[2]], style)
        assert complaints(figure) == []


def test_what_the_check_finds() -> None:
    figure = Figure(figsize=(4.0, 3.0), dpi=100)
    ax = figure.add_axes((0.2, 0.2, 0.6, 0.6), xticks=[], yticks=[])
    assert complaints(figure) == []
    figure.text(0.02, 0.1, "$10^2$", fontsize=7.0)
    figure.text(0.02, 0.9, "one")
    figure.text(0.03, 0.91, "other")
    words = figure.text(0.9, 0.05, "outside, by far")
    ax.text(0.5, 0.5, "small", fontsize=5.0)
    ax.text(0.9, 0.2, "across it")
    ax.plot([0, 1], [0, 1], label="line")
    ax.legend(loc="upper left")
    small, exponent, outside, *others = complaints(figure)
    assert exponent == "'$10^2$' has 4.9 points"
    assert small == "'small' has 5 points"
    # It begins at 0.9 of 4 inches, 28.8 points from the edge.
    width = float(re.fullmatch(r"'outside, by far' is outside of the figure by (.*) points", outside)[1])
    assert width == pytest.approx(words.get_window_extent().width * 0.72 - 28.8, abs=1.0)
    assert others == [
        "'one' touches 'other'",
        "'across it' lies across the frame of a panel",
        "a legend lies over a panel",
    ]
