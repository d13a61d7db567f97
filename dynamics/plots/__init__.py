"""Figures and tables of runs and studies.

Every figure function takes a study, a run, several of them, or numbers of `dynamics.analysis`, draws into your `ax`
or `axes` if you give them, and returns a `Plot`. A name loads matplotlib on its first use. Styles apply inside a
context, never on import.
"""

from __future__ import annotations

# Type checkers take this name as true. The one in `typing` would cost the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynamics.plots.arm_tables.arm_table import arm_table
    from dynamics.plots.arm_tables.text import latex_table, markdown_table
    from dynamics.plots.drawing.plot import Plot
    from dynamics.plots.drawing.style import arm_styles, load_style, venues
    from dynamics.plots.families.calibration import calibration, overconfidence
    from dynamics.plots.families.comparisons import comparisons
    from dynamics.plots.families.curriculum import curriculum, outcomes
    from dynamics.plots.families.degradation import degradation, task_curve
    from dynamics.plots.families.distributions import entropy_distribution
    from dynamics.plots.families.gap import gap
    from dynamics.plots.families.heat_map import bucket_map, rebound_map
    from dynamics.plots.families.rebound import rebound
    from dynamics.plots.families.token_dynamics import token_dynamics
    from dynamics.plots.families.trajectories import cartography, class_changes, trajectory_classes
    from dynamics.plots.saving import save_figures

__all__ = [
    "Plot",
    "arm_styles",
    "arm_table",
    "bucket_map",
    "calibration",
    "cartography",
    "class_changes",
    "comparisons",
    "curriculum",
    "degradation",
    "entropy_distribution",
    "gap",
    "latex_table",
    "load_style",
    "markdown_table",
    "outcomes",
    "overconfidence",
    "rebound",
    "rebound_map",
    "save_figures",
    "task_curve",
    "token_dynamics",
    "trajectory_classes",
    "venues",
]

_MODULES = {
    "Plot": "dynamics.plots.drawing.plot",
    "arm_styles": "dynamics.plots.drawing.style",
    "arm_table": "dynamics.plots.arm_tables.arm_table",
    "bucket_map": "dynamics.plots.families.heat_map",
    "calibration": "dynamics.plots.families.calibration",
    "cartography": "dynamics.plots.families.trajectories",
    "class_changes": "dynamics.plots.families.trajectories",
    "comparisons": "dynamics.plots.families.comparisons",
    "curriculum": "dynamics.plots.families.curriculum",
    "degradation": "dynamics.plots.families.degradation",
    "entropy_distribution": "dynamics.plots.families.distributions",
    "gap": "dynamics.plots.families.gap",
    "latex_table": "dynamics.plots.arm_tables.text",
    "load_style": "dynamics.plots.drawing.style",
    "markdown_table": "dynamics.plots.arm_tables.text",
    "outcomes": "dynamics.plots.families.curriculum",
    "overconfidence": "dynamics.plots.families.calibration",
    "rebound": "dynamics.plots.families.rebound",
    "rebound_map": "dynamics.plots.families.heat_map",
    "save_figures": "dynamics.plots.saving",
    "task_curve": "dynamics.plots.families.degradation",
    "token_dynamics": "dynamics.plots.families.token_dynamics",
    "trajectory_classes": "dynamics.plots.families.trajectories",
    "venues": "dynamics.plots.drawing.style",
}


def __getattr__(name: str) -> object:
    """Import the module that holds a public name when it is first asked for (PEP 562)."""
    import importlib

    if name not in _MODULES:
        message = f"module 'dynamics.plots' has no attribute {name!r}"
        if not name.startswith("_"):
            from dynamics.errors import nearest

            message += nearest(name, __all__)
        raise AttributeError(message)
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
