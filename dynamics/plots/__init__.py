"""Figures and tables of runs and studies.

Every figure function takes a study, a run, several of them, or results of `dynamics.analysis`. It draws into your `ax`
or `axes` if you give them, and returns a `Plot`. matplotlib is imported when a name is first used. Styles apply inside
a context, never on import.
"""

from __future__ import annotations

from dynamics.faces import lazy_face

# Type checkers take this name as true. The one in `typing` would cost the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynamics.plots.arm_tables.arm_table import arm_table as arm_table
    from dynamics.plots.arm_tables.text import latex_table as latex_table
    from dynamics.plots.arm_tables.text import markdown_table as markdown_table
    from dynamics.plots.drawing.plot import Plot as Plot
    from dynamics.plots.drawing.style import arm_styles as arm_styles
    from dynamics.plots.drawing.style import load_style as load_style
    from dynamics.plots.drawing.style import venues as venues
    from dynamics.plots.families.calibration import calibration as calibration
    from dynamics.plots.families.calibration import overconfidence as overconfidence
    from dynamics.plots.families.comparisons import comparisons as comparisons
    from dynamics.plots.families.curriculum import curriculum as curriculum
    from dynamics.plots.families.curriculum import outcomes as outcomes
    from dynamics.plots.families.degradation import degradation as degradation
    from dynamics.plots.families.degradation import task_curve as task_curve
    from dynamics.plots.families.distributions import entropy_distribution as entropy_distribution
    from dynamics.plots.families.gap import gap as gap
    from dynamics.plots.families.heat_map import bucket_map as bucket_map
    from dynamics.plots.families.heat_map import rebound_map as rebound_map
    from dynamics.plots.families.rebound import rebound as rebound
    from dynamics.plots.families.token_dynamics import token_dynamics as token_dynamics
    from dynamics.plots.families.trajectories import cartography as cartography
    from dynamics.plots.families.trajectories import class_changes as class_changes
    from dynamics.plots.families.trajectories import trajectory_classes as trajectory_classes
    from dynamics.plots.saving import save_figures as save_figures
else:
    __all__, _load, __dir__ = lazy_face(
        __name__,
        {
            "dynamics.plots.arm_tables.arm_table": ["arm_table"],
            "dynamics.plots.arm_tables.text": ["latex_table", "markdown_table"],
            "dynamics.plots.drawing.plot": ["Plot"],
            "dynamics.plots.drawing.style": ["arm_styles", "load_style", "venues"],
            "dynamics.plots.families.calibration": ["calibration", "overconfidence"],
            "dynamics.plots.families.comparisons": ["comparisons"],
            "dynamics.plots.families.curriculum": ["curriculum", "outcomes"],
            "dynamics.plots.families.degradation": ["degradation", "task_curve"],
            "dynamics.plots.families.distributions": ["entropy_distribution"],
            "dynamics.plots.families.gap": ["gap"],
            "dynamics.plots.families.heat_map": ["bucket_map", "rebound_map"],
            "dynamics.plots.families.rebound": ["rebound"],
            "dynamics.plots.families.token_dynamics": ["token_dynamics"],
            "dynamics.plots.families.trajectories": ["cartography", "class_changes", "trajectory_classes"],
            "dynamics.plots.saving": ["save_figures"],
        },
    )

    def __getattr__(name):
        value = _load(name)
        from dynamics.plots.old_places import MOVED, give_old_names

        if name in MOVED:
            give_old_names(value, name)
        return value
