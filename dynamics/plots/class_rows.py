"""The old place of `dynamics.plots.drawing.class_rows`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
