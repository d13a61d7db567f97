from __future__ import annotations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynamics.plots.drawing.notes import note_over, text_width, wrapped
from dynamics.plots.drawing.style import NOTE_SIZE, load_style


def test_a_note_begins_a_line_unless_it_fits_behind_the_one_before() -> None:
    width = text_width("marker: best; band: over seeds", NOTE_SIZE)
    notes = ["marker: best", "", "band: over seeds", "drawn: 3 of 6 arms", "and one that is longer than a line can be"]
    lines = wrapped(notes, width).splitlines()
    assert lines[:2] == ["marker: best; band: over seeds", "drawn: 3 of 6 arms"]
    assert " ".join(lines[2:]) == notes[-1] and len(lines) > 3
    assert all(text_width(line, NOTE_SIZE) <= width for line in lines)
    # A word that is too long has a line of its own, whole.
    assert wrapped(["a", "b" * 80], width).splitlines() == ["a", "b" * 80]
    assert wrapped([], width) == wrapped([""], width) == ""


@pytest.mark.parametrize("venue", [None, "acl"])
def test_widths_are_those_of_the_drawn_text(venue: str | None) -> None:
    with load_style(venue).context():
        figure = Figure(dpi=300)
        words = "entrodrop_linear_schedule − baseline $^a"
        text = figure.text(0.1, 0.5, words, fontsize=7.0, parse_math=False)
        FigureCanvasAgg(figure).draw()
        drawn = text.get_window_extent().width * 72.0 / 300.0
        assert drawn <= text_width(words, 7.0) <= 1.08 * drawn


def test_a_note_is_above_its_panel_or_above_all_panels() -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots(1, 2)
    note_over(axes, ["marker: best epoch"])
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "marker: best epoch"
    note_over(axes, [""])
    assert len(figure.legends) == 1
    (ax,) = [Figure().add_subplot()]
    note_over([ax], ["marker: best epoch"])
    assert ax.get_title(loc="left") == "marker: best epoch"
    titled = Figure(layout="constrained").add_subplot(title="arm")
    note_over([titled], ["marker: best epoch"])
    (note,) = titled.texts
    canvas = FigureCanvasAgg(titled.figure)  # type: ignore[arg-type]
    canvas.draw()
    assert not note.get_window_extent().overlaps(titled.title.get_window_extent())
