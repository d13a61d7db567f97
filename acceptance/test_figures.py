"""The figures in figures/ are those that the code draws of the example that ships with the package."""

from __future__ import annotations

from pathlib import Path

from dynamics import load_example
from dynamics.plots.saving import save_figures

FIGURES = Path(__file__).parents[1] / "figures"


def test_every_figure_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    made = save_figures([load_example()], output=tmp_path)
    # The folders are of other studies; tests/example/test_study_figures.py makes these again.
    kept = {path.name for path in FIGURES.iterdir() if path.is_file()} - {"README.md"}
    assert {path.name for path in made} == kept and len(kept) >= 40
    assert [path.name for path in made if path.read_bytes() != (FIGURES / path.name).read_bytes()] == []
