"""The old place of `dynamics.plots.arm_tables.arm_table`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
