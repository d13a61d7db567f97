"""The old place of `dynamics.plots.families.trajectories`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
