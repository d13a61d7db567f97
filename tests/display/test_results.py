"""Results as a list that shows itself: the table of numbers known by hand, its HTML, its data frame, its slices."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pytest

from dynamics.display.layouts import Column, Layout, curve_column, text_column
from dynamics.display.numbers import decimals, epochs_interval, interval, percent, percent_interval, significance, whole
from dynamics.display.results import Results, Shown, summary
from dynamics.display.sparkline import Sparkline


@dataclass(frozen=True, slots=True, repr=False)
class Curve(Shown):
    name: str
    split: str
    epochs: tuple[int, ...]
    labels: tuple[str, ...]
    loss: np.ndarray  # (E, K)
    total: np.ndarray  # (K,)

    layout: ClassVar[Layout | None] = Layout(
        "curves: for a test",
        (
            text_column("name", "name"),
            text_column("bucket", lambda c, k: c.labels[k]),
            Column("last", lambda c, k: c.loss[-1, k], decimals, "nats"),
            curve_column("by epoch", lambda c, k: c.loss[:, k]),
            text_column("split", "split", once=True),
        ),
        rows="labels",
        axes={"epoch": "epochs", "bucket": "labels"},
        arrays={"loss": ("loss", "epoch", "bucket"), "total": ("total", "bucket")},
    )


def curve(name: str, *, split: str = "train", nothing: float = np.nan) -> Curve:
    return Curve(name, split, (0, 2), ("low", "high"), np.array([[1.0, 3.0], [0.5, nothing]]), np.array([7.0, 8.0]))


class Tags(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_table_by_hand() -> None:
    assert repr(Results([curve("a"), curve("bb")])) == (
        "2 curves: for a test\n"
        "split: train\n"
        "name  bucket    last  by epoch\n"
        "              (nats)\n"
        "a     low      0.500  █▁\n"
        "a     high         –  ▁×\n"
        "bb    low      0.500  █▁\n"
        "bb    high         –  ▁×"
    )
    assert repr(curve("a")).splitlines()[0] == "Curve: for a test"
    assert repr(Results([])) == str(Results()) == "no results"


def test_what_differs_has_a_column() -> None:
    lines = repr(Results([curve("a"), curve("b", split="validation")])).splitlines()
    assert lines[1].split() == ["name", "bucket", "last", "by", "epoch", "split"]


def test_names_are_no_markup_and_stay_on_a_line() -> None:
    evil = '<img src=x onerror="alert(1)">\n& more'
    page = Results([curve(evil)])._repr_html_()
    found = Tags(page)
    assert "img" not in found.tags and "script" not in found.tags
    assert '<img src=x onerror="alert(1)"> & more' in found.text
    assert "color: inherit" in page and "#" not in page  # no colour of its own, in either theme
    assert 'stroke="currentColor"' in page
    assert len(repr(Results([curve(evil)])).splitlines()) == 6


def test_long_lists_are_shortened_and_say_so() -> None:
    results = Results(curve(f"arm-{i}") for i in range(50))
    lines = repr(results).splitlines()
    assert len(lines) == 4 + 30 + 1 + 5 and lines[34] == "… 65 more rows; .to_frame() has all"
    assert lines[-1].startswith("arm-49  high")
    assert "65 more rows" in results._repr_html_() and len(results.to_frame()) == 200


def test_the_frame_has_a_row_for_each_place_and_full_precision() -> None:
    frame = Results([curve("a", nothing=1 / 3), curve("b")]).to_frame()
    assert list(frame.columns) == ["name", "split", "epoch", "bucket", "loss", "total"]
    assert frame[frame.name == "a"].values.tolist() == [
        ["a", "train", 0, "low", 1.0, 7.0],
        ["a", "train", 0, "high", 3.0, 8.0],
        ["a", "train", 2, "low", 0.5, 7.0],
        ["a", "train", 2, "high", 1 / 3, 8.0],
    ]
    assert len(Results().to_frame()) == 0
    with pytest.raises(TypeError, match="int has no rows"):
        Results([3]).to_frame()


def test_it_stays_a_list() -> None:
    items = [curve("a"), curve("b"), curve("c")]
    results = Results(items)
    assert results == items and results[0] is items[0] and len(results) == 3
    for part in (results[1:], results[::-1], results + items[:1], items[:1] + results, results.copy()):
        assert isinstance(part, Results) and "split: train" in repr(part)
    assert (results + items[:1])[-1] is items[0] and (items[2:] + results)[0] is items[2]
    assert sorted(results, key=lambda each: each.name, reverse=True)[0] is items[2]
    assert type(copy.copy(results)) is Results and copy.copy(results) == items
    assert pickle.loads(pickle.dumps(Results([1, 2]))) == [1, 2]
    with pytest.raises(TypeError):
        results + (1,)  # type: ignore[operator]


def test_mixed_results_have_a_table_each() -> None:
    text = repr(Results([curve("a"), 3, curve("b")]))
    assert text.count("for a test") == 2 and "\n3\n" in text


def test_numbers() -> None:
    assert [decimals(value) for value in (1.23456, -0.0001, float("nan"), float("inf"), None)] == [
        "1.235",
        "0.000",
        "–",
        "∞",
        "–",
    ]
    assert (significance(0.0004), significance(0.0123), significance(float("nan"))) == ("<0.001", "0.012", "–")
    assert interval((0.3361, 0.3059, 0.3654)) == "0.336 (0.306 to 0.365)"
    assert interval((1.0, float("nan"), float("nan"))) == "1.000" and interval("diverged") == "diverged"
    assert percent_interval((0.5, 0.25, 1.0)) == "50.0 (25.0 to 100.0)" and percent(0.1234) == "12.3"
    inf = float("inf")
    assert epochs_interval((2.5, 2.0, inf)) == "2.5 (2.0 to never)" and epochs_interval((inf, inf, inf)) == "never"
    assert whole(12345) == "12,345" and whole(float("nan")) == "–"


def test_sparklines() -> None:
    assert str(Sparkline([0, 1, float("nan"), 7])) == "▁▂×█"
    assert str(Sparkline([])) == "" and str(Sparkline([float("inf")])) == "×" and str(Sparkline([5, 5])) == "▁▁"
    assert len(str(Sparkline(range(1000)))) == 24
    page = Sparkline([0, 1, float("nan"), 7]).html()
    assert page.count("<polyline") == 2  # a gap where there is no number
    assert Tags(page).tags == ["svg", "polyline", "polyline"]


def test_summaries_of_arrays() -> None:
    assert summary(np.array([1, 2])) == "[1, 2]"
    assert summary(np.zeros((2, 9))) == "float64 of shape (2, 9), 0.000 to 0.000"
    assert summary(np.array([[np.nan, 1.0], [2.0, np.inf]])) == (
        "float64 of shape (2, 2), 1.000 to 2.000, 2 NaN or infinite"
    )
    assert summary(1.9e-6) == "1.9e-06" and summary(decimals) == "decimals"
