"""The old place of `dynamics.plots.families.heat_map`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
