"""Some of what lies in figures/, made again; `make acceptance` makes all of it."""

from __future__ import annotations

from pathlib import Path

from dynamics import load_example
from dynamics.plots.saving import save_figures

FIGURES = Path(__file__).parents[2] / "figures"


def test_degradation_and_table_are_made_again_byte_for_byte(tmp_path):
    made = save_figures([load_example()], output=tmp_path, only=["degradation", "table"])
    assert len(made) == 7
    for path in made:
        assert path.read_bytes() == (FIGURES / path.name).read_bytes(), path.name
