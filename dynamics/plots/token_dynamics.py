"""The old place of `dynamics.plots.families.token_dynamics`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
