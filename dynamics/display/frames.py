"""Results as a pandas data frame in long form, with full precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.display.layouts import Layout, read

if TYPE_CHECKING:
    import pandas

_PLAIN = (str, int, float, bool, np.generic, type(None))


def frame_of(items: Sequence[tuple[Any, Layout]]) -> pandas.DataFrame:
    """Return a data frame of results: a row a result, or one for each place on the axes of its arrays."""
    import pandas

    if not items:
        return pandas.DataFrame()
    return pandas.concat([pandas.DataFrame(_columns(item, layout)) for item, layout in items], ignore_index=True)


def _columns(item: Any, layout: Layout) -> dict[str, Any]:
    """Return the columns of one result by name, all of one length."""
    coordinates = {axis: list(read(item, where)) for axis, where in layout.axes.items()}
    shape = tuple(len(values) for values in coordinates.values())
    n = int(np.prod(shape)) if shape else 1
    columns: dict[str, Any] = {}
    for each in fields(item):
        value = getattr(item, each.name)
        # Axes and arrays come after what is the same in all rows.
        if isinstance(value, (*_PLAIN, tuple)) and each.name not in {*layout.arrays, *_used(layout)}:
            columns[each.name] = [value] * n
    for a, (axis, values) in enumerate(coordinates.items()):
        columns[axis] = [values[place[a]] for place in np.ndindex(*shape)]
    for name, (where, *axes) in layout.arrays.items():
        for column, array in _parts(name, read(item, where)):
            columns |= _spread(column, array, axes, list(coordinates), shape)
    return columns


def _used(layout: Layout) -> set[str]:
    """Return the attributes that are left out, or stand in other columns already."""
    places = (*layout.left_out, *layout.axes.values(), *(each[0] for each in layout.arrays.values()))
    return {where for where in places if isinstance(where, str)}


def _parts(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return an interval as three named arrays, any other array as one; nothing for None."""
    if value is None:
        return []
    if hasattr(value, "estimate") and hasattr(value, "low"):
        return [(name, value.estimate), (f"{name}_low", value.low), (f"{name}_high", value.high)]
    return [(name, value)]


def _spread(name: str, value: Any, axes: list[str], of: list[str], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return an array as columns with a row for each place on all axes `of`."""
    array = np.asarray(value)
    if axes[:1] == [""]:
        found: dict[str, Any] = {}
        for i, part in enumerate(array):
            found |= _spread(f"{name}_{i + 1}", part, axes[1:], of, shape)
        return found
    missing = tuple(a for a, axis in enumerate(of) if axis not in axes)
    return {name: np.broadcast_to(np.expand_dims(array, missing), shape).reshape(-1)}
