"""Old names in old modules work, say the new name, and do not stand in the way of the figures of the same names."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes

import dynamics
from dynamics.plots.old_places import MOVED

CURVES = {"baseline": [3.0, 2.0, 2.5]}


@pytest.fixture(autouse=True)
def face_as_it_was() -> Iterator[None]:
    """An old module that was imported stands in the face in its figure's place; other tests want the figure."""
    yield
    for module in MOVED:
        sys.modules.pop(f"dynamics.plots.{module}", None)
        vars(dynamics.plots).pop(module, None)


@pytest.mark.parametrize("module", MOVED)
def test_every_old_module_forwards(module: str) -> None:
    old = importlib.import_module(f"dynamics.plots.{module}")
    new = importlib.import_module(f"dynamics.plots.{MOVED[module]}")
    name = next(name for name, value in vars(new).items() if getattr(value, "__module__", "") == new.__name__)
    with pytest.warns(DeprecationWarning, match=f"dynamics.plots.{module}.{name} is now dynamics.plots"):
        assert getattr(old, name) is getattr(new, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = old.nothing


def test_an_old_function_returns_axes_of_a_figure_that_pyplot_does_not_know() -> None:
    with pytest.warns(
        DeprecationWarning, match="plots.degradation.plot_degradation is now dynamics.plots.degradation$"
    ):
        from dynamics.plots.degradation import plot_degradation
    assert isinstance(plot_degradation(CURVES), Axes)
    assert pyplot.get_fignums() == []
    figure, ax = pyplot.subplots()
    assert plot_degradation(CURVES, ax=ax) is ax
    assert pyplot.fignum_exists(figure.number)


@pytest.mark.parametrize(
    "imports",
    [
        "import dynamics.plots.degradation\nfrom dynamics.plots import degradation",
        "from dynamics.plots import degradation\nimport dynamics.plots.degradation",
        "from dynamics.plots.degradation import plot_degradation\nfrom dynamics.plots import degradation",
        "import dynamics\ndegradation = dynamics.plots.degradation",
        "import dynamics.plots.degradation as degradation",
    ],
)
def test_a_figure_and_the_old_module_of_its_name_in_any_order(imports: str) -> None:
    code = textwrap.dedent(
        f"""
        import inspect, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        {{imports}}
        curves = {CURVES}
        print(type(degradation(curves)).__name__, type(dynamics.plots.degradation(curves)).__name__)
        print(type(degradation.plot_degradation(curves)).__name__, len(degradation.as_curves(curves)))
        print(list(inspect.signature(degradation).parameters)[0])
        """
    ).replace("{imports}", "import dynamics\n" + imports)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Plot", "Plot", "Axes", "1", "data"]
