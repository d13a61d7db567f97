"""The modules that held the figures before `dynamics.plots` had its public names. They forward, and say so."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

#: Where each old module's code is now, by the name of the module in `dynamics.plots`.
MOVED = {
    "bucket_lines": "drawing.bucket_lines",
    "calibration": "families.calibration",
    "class_rows": "drawing.class_rows",
    "curriculum": "families.curriculum",
    "degradation": "families.degradation",
    "distributions": "families.distributions",
    "figures": "saving",
    "gap": "families.gap",
    "heat_map": "families.heat_map",
    "labels": "drawing.labels",
    "panels": "drawing.panels",
    "style": "drawing.style",
    "table_parts": "arm_tables.parts",
    "table_text": "arm_tables.text",
    "tables": "arm_tables.arm_table",
    "token_dynamics": "families.token_dynamics",
    "trajectories": "families.trajectories",
}

#: The old figure functions that returned one axes; the others returned a list.
ONE_AXES = ("plot_calibration", "plot_curriculum", "plot_degradation", "plot_outcomes", "plot_task_curve")


class OldPlace(ModuleType):
    """A module whose names have moved.

    Importing a submodule makes it an attribute of its package. A module that is called like a figure can be called
    like the figure, so that ``dynamics.plots.degradation(study)`` works in any order of imports.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return moved(self.__name__.rpartition(".")[2], name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._figure(*args, **kwargs)

    @property
    def _figure(self) -> Callable[..., Any]:
        name = self.__name__.rpartition(".")[2]
        figure: Callable[..., Any] | None = getattr(_new_module(name), name, None)
        if figure is None:
            raise TypeError(f"module {self.__name__!r} is not callable")
        return figure

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._figure)


def forward(name: str) -> None:
    """Make the module of this name, which is being imported, one that forwards."""
    sys.modules[name].__class__ = OldPlace


def moved(module: str, name: str) -> Any:
    """Return what an old module held under this name, with a DeprecationWarning that says the new name."""
    new = _new_module(module)
    public = name.removeprefix("plot_")
    if name.startswith("plot_") and hasattr(new, public):
        face = "dynamics.plots" if public in _public() else new.__name__
        warnings.warn(f"dynamics.plots.{module}.{name} is now {face}.{public}", DeprecationWarning, stacklevel=3)
        return _returning_axes(getattr(new, public), name)
    if not hasattr(new, name):
        raise AttributeError(f"module 'dynamics.plots.{module}' has no attribute {name!r}")
    place = "dynamics.plots" if name in _public() else new.__name__
    warnings.warn(f"dynamics.plots.{module}.{name} is now {place}.{name}", DeprecationWarning, stacklevel=3)
    return getattr(new, name)


def give_old_names(figure: Any, module: str) -> None:
    """Let a figure function be used like the old module of its name: ``degradation.plot_degradation(study)``."""
    new = vars(_new_module(module))
    names = [f"plot_{name}" for name in _public() if name in new]
    names += [name for name in new if name.startswith("as_") or name.endswith("_rows")]
    for name in names:
        setattr(figure, name, _deprecated(module, name))


def _deprecated(module: str, name: str) -> Callable[..., Any]:
    def old(*args: Any, **kwargs: Any) -> Any:
        return moved(module, name)(*args, **kwargs)

    return old


def _public() -> list[str]:
    names: list[str] = vars(sys.modules["dynamics.plots"])["__all__"]
    return names


def _new_module(module: str) -> ModuleType:
    return importlib.import_module(f"dynamics.plots.{MOVED[module]}")


def _returning_axes(figure: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function of the old name: it returns axes, and makes figures that pyplot does not know."""

    @wraps(figure)
    def old(*args: Any, **kwargs: Any) -> Any:
        from dynamics.plots.drawing.plot import release

        plot = figure(*args, **kwargs)
        if not ({"ax", "axes"} & {key for key, value in kwargs.items() if value is not None}):
            release(plot.figure)
        return plot.ax if name in ONE_AXES else plot.axes

    old.__name__ = old.__qualname__ = name
    return old
