"""Results that show themselves: a list of them as one table, and a single one as a table or a card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex, TypeVar, overload

import numpy as np

from dynamics.display.frames import frame_of
from dynamics.display.layouts import Layout, table_of
from dynamics.display.numbers import decimals
from dynamics.display.tables import Card, Table

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")


class Results(list[T]):
    """The results of one call: a list that shows itself as a table.

    It is equal to a list with the same results. Slices and sums of results are results again; ``Results(...)`` makes
    one of any others, such as those that a comprehension leaves.

    Parameters
    ----------
    iterable : iterable, optional
        The results.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n\n".join(table.text() for table in self._tables()) or "no results"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self._tables()) or "no results"

    def to_frame(self) -> pandas.DataFrame:
        """Return all results as a pandas data frame in long form, with full precision.

        A comparison or a summary has one row. A curve has one row for each epoch and bucket. ``NAME_low`` and
        ``NAME_high`` are the ends of the interval of ``NAME``.

        Raises
        ------
        TypeError
            For a list of something else than results of an analysis.
        """
        for item in self:
            if not isinstance(item, Shown) or item.layout is None:
                raise TypeError(f"{type(item).__name__} has no rows of a data frame")
        return frame_of([(item, item.layout) for item in self])  # type: ignore[attr-defined]

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> T: ...
    @overload
    def __getitem__(self, index: slice, /) -> Results[T]: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> T | Results[T]:
        return Results(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def __add__(self, other: Iterable[Any], /) -> Results[Any]:
        if not isinstance(other, list):
            return NotImplemented
        return Results([*self, *other])

    def __radd__(self, other: Iterable[Any], /) -> Results[Any]:
        if not isinstance(other, list):
            return NotImplemented
        return Results([*other, *self])

    def copy(self) -> Results[T]:
        """Return the same results in another list."""
        return Results(self)

    def _tables(self) -> list[Table | Card]:
        """Return a table for each run of results of one class."""
        tables: list[Table | Card] = []
        for kind, group in groupby(self, type):
            items = list(group)
            layout = getattr(kind, "layout", None)
            if isinstance(layout, Layout):
                tables.append(table_of(items, layout))
            else:
                tables += [_card(item) for item in items]
        return tables


class Shown:
    """The base of dataclasses that show themselves: by their `layout`, else as a card of their fields."""

    __slots__ = ()

    layout: ClassVar[Layout | None] = None

    def __repr__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def to_frame(self) -> pandas.DataFrame:
        """Return this result as a pandas data frame in long form, with full precision; as `Results.to_frame`."""
        return Results([self]).to_frame()

    def _shown(self) -> Table | Card:
        return _card(self) if self.layout is None else table_of([self], self.layout)


def _card(item: Any) -> Card:
    """Return the fields of a dataclass, arrays by their shapes and what they hold; of anything else its text."""
    if not is_dataclass(item):
        return Card(repr(item), [])
    return Card(type(item).__name__, _facts(item))


def _facts(item: Any) -> list[tuple[str, Any]]:
    return [(each.name, summary(getattr(item, each.name))) for each in fields(item) if each.repr]


def summary(value: Any) -> str:
    """Return a value in a few words: an array by its shape and range, a number with sensible digits."""
    if isinstance(value, np.ndarray) and value.ndim:
        return _of_array(value)
    if isinstance(value, (float, np.floating)) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return _digits(float(value))
    if isinstance(value, (list, tuple)):
        shown = ", ".join(summary(each) for each in value[:8])
        return shown + (f", … ({len(value)})" if len(value) > 8 else "")
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(f'{name} {text}' for name, text in _facts(value))})"
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return str(value)


def _of_array(array: Any) -> str:
    if array.ndim == 1 and array.size <= 8:
        return f"[{', '.join(summary(each) for each in array.tolist())}]"
    what = f"{array.dtype} of shape ({', '.join(map(str, array.shape))})"
    if array.dtype.kind not in "fiu" or not array.size:
        return what
    finite = array[np.isfinite(array)]
    gone = array.size - finite.size
    spread = f", {_digits(finite.min())} to {_digits(finite.max())}" if finite.size else ""
    return what + spread + (f", {gone:,} NaN or infinite" if gone else "")


def _digits(value: Any) -> str:
    """Return a number with three decimals, or three digits where that would be 0 or is far from 1."""
    if isinstance(value, (int, np.integer)):
        return str(value)
    value = float(value)
    if value and np.isfinite(value) and not 0.001 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return decimals(value)
