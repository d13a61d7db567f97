"""The old place of `dynamics.plots.drawing.style`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
