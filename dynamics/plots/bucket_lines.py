"""The old place of `dynamics.plots.drawing.bucket_lines`; deprecated."""

from dynamics.plots.old_places import forward

forward(__name__)
