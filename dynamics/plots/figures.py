"""The old place of `dynamics.plots.saving`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
