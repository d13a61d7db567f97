"""Each figure is shown exactly once by a real kernel, in every way in which a cell can hold it."""

from __future__ import annotations

import base64
import os
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

#: What a cell holds, and how many pictures it must show.
CELLS = {
    "the last value": ("degradation(CURVES)", 1),
    "shown again in a later cell": ("kept = degradation(CURVES)", 1),
    "kept before": ("kept", 1),
    "in the middle": ("degradation(CURVES)\nprint('text')", 1),
    "with a semicolon": ("degradation(CURVES);", 1),
    "displayed": ("display(degradation(CURVES))", 1),
    "displayed, and the last value": ("plot = degradation(CURVES)\ndisplay(plot)\nNone", 1),
    "in a loop": ("for _ in range(3):\n    degradation(CURVES)", 3),
    "displayed in a loop": ("for _ in range(2):\n    display(degradation(CURVES))", 2),
    "plt.show": ("plot = degradation(CURVES)\nplt.show()", 1),
    "saved": ("degradation(CURVES).save(FOLDER + '/a.pdf')", 1),
    "the user's ax": ("fig, ax = plt.subplots()\ndegradation(CURVES, ax=ax)", 1),
    "the user's ax, semicolon": ("fig, ax = plt.subplots()\nplot = degradation(CURVES, ax=ax);", 1),
    "the user's ax, in a later cell": ("plot", 1),
    "a figure that pyplot does not know": (
        "from matplotlib.figure import Figure\ndegradation(CURVES, ax=Figure().add_subplot())",
        1,
    ),
    "two in one cell": ("degradation(CURVES)\ndegradation(CURVES)", 2),
    "an error after it": ("fig, ax = plt.subplots()\nplt.close(fig)\nplot = degradation(CURVES, ax=ax)", 0),
    "nothing is left": ("plt.get_fignums(), plt.isinteractive()", 0),
}
FIRST = "from dynamics.plots import degradation\nCURVES = {'baseline': [3.0, 2.0, 2.5]}\ndegradation(CURVES)"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("jupyter")
    code = {"first": FIRST, "pyplot": f"import matplotlib.pyplot as plt\nFOLDER = {str(folder)!r}"}
    code |= {name: source for name, (source, _) in CELLS.items()}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in code.values()])
    environment = {**os.environ, "IPYTHONDIR": str(folder)}
    environment.pop("MPLBACKEND", None)
    NotebookClient(notebook, timeout=120).execute(env=environment)
    return dict(zip(code, notebook.cells, strict=True))


def pictures(cell: Any) -> list[Any]:
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", CELLS)
def test_each_figure_is_shown_exactly_once(cells: dict[str, Any], name: str) -> None:
    assert len(pictures(cells[name])) == CELLS[name][1], cells[name]


def test_the_first_figure_of_a_kernel_is_shown_sharp_and_at_its_size(cells: dict[str, Any]) -> None:
    (picture,) = pictures(cells["first"])
    assert picture.metadata["image/png"] == {"width": 402, "height": 288}
    # A PNG holds its width and height, in pixels, from byte 16 on: twice those of the page.
    header = base64.b64decode(picture.data["image/png"])[16:24]
    assert (int.from_bytes(header[:4]), int.from_bytes(header[4:])) == (804, 576)
    assert picture.data["text/plain"].startswith("<dynamics.plots.Plot: 1 panel")


def test_figures_leave_the_kernel_as_it_was(cells: dict[str, Any]) -> None:
    (output,) = cells["nothing is left"].outputs
    assert output.data["text/plain"] == "([], True)"
