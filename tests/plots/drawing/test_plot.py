from __future__ import annotations

import struct
from pathlib import Path

import pytest
from matplotlib import pyplot

from dynamics.errors import InputError
from dynamics.plots import degradation

CURVES = {"baseline": [3.0, 2.0, 2.5], "other": [3.0, 2.1, 2.2]}


def png_size(path: Path) -> tuple[int, int]:
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


@pytest.mark.parametrize(("suffix", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_is_saved_as_its_suffix_says_and_drawn_again_alike(suffix: str, begins: bytes, tmp_path: Path) -> None:
    first, again = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    degradation(CURVES).save(first)
    degradation(CURVES).save(str(again))
    assert first.read_bytes().startswith(begins) and first.read_bytes() == again.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, again.name]


def test_dots_per_inch_are_those_asked_for(tmp_path: Path) -> None:
    plot = degradation(CURVES)
    width, height = plot.figure.get_size_inches()
    plot.save(tmp_path / "a.png", dpi=100)
    assert png_size(tmp_path / "a.png") == (int(width * 100), int(height * 100))


@pytest.mark.parametrize("name", ["figure.docx", "figure"])
def test_an_unknown_kind_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.pdf, \.svg"):
        degradation(CURVES).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_plot_says_what_it_is_and_has_the_axes_that_were_given() -> None:
    figure, ax = pyplot.subplots()
    plot = degradation(CURVES, ax=ax)
    assert plot.ax is ax and plot.axes == [ax] and plot.figure is figure
    assert repr(plot).startswith("<dynamics.plots.Plot: 1 panel, ")
