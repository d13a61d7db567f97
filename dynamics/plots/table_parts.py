"""The old place of `dynamics.plots.arm_tables.parts`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
