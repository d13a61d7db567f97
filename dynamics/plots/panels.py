"""The old place of `dynamics.plots.drawing.panels`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
