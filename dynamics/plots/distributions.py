"""The old place of `dynamics.plots.families.distributions`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
