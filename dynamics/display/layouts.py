"""What the table of a result says: its columns, their units and digits, and the axes of its arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamics.display.numbers import UNKNOWN
from dynamics.display.sparkline import Sparkline
from dynamics.display.tables import Cell, Table


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result's table.

    Attributes
    ----------
    name : str
        Of the column, without its unit.
    read : str or callable
        An attribute of the result, or a function of the result and the row's number within it.
    show : callable
        From what was read to text or a `Sparkline`.
    unit : str or callable
        Stands in the header; a function of the result where results differ.
    once : bool
        Where every row says the same, say it once above the table instead.
    numeric : bool
        Aligned to the right.
    """

    name: str
    read: str | Callable[[Any, int], Any]
    show: Callable[[Any], Cell] = str
    unit: str | Callable[[Any], str] = ""
    once: bool = False
    numeric: bool = True

    def cell(self, item: Any, row: int) -> Cell:
        """Return what stands in a row."""
        return self.show(getattr(item, self.read) if isinstance(self.read, str) else self.read(item, row))

    def unit_of(self, items: Sequence[Any]) -> str:
        """Return the unit, or the units, of all results."""
        units = dict.fromkeys(self.unit if isinstance(self.unit, str) else self.unit(item) for item in items)
        return " or ".join(unit for unit in units if unit)


def text_column(name: str, read: str | Callable[[Any, int], Any], *, once: bool = False) -> Column:
    """Return a column of text, aligned to the left."""
    return Column(name, read, once=once, numeric=False)


def curve_column(name: str, read: str | Callable[[Any, int], Any]) -> Column:
    """Return a column of small curves."""
    return Column(name, read, Sparkline, numeric=False)


@dataclass(frozen=True, slots=True)
class Layout:
    """How results of a class are shown, and which rows they have in a data frame.

    Attributes
    ----------
    title : str
        What the results are, in the plural; after a colon what is said of them.
    columns : sequence of Column
    rows : str or callable
        The attribute with one entry a row of the table, such as ``labels``, or a function of the result that returns
        one; "" for one row a result.
    axes : mapping of str to (str or callable)
        Names of the axes of a data frame in long form, in order, and where their coordinates are: an attribute, or a
        function of the result. Without axes a result has one row.
    arrays : mapping of str to tuple
        Columns of the data frame that have axes: where the array is (an attribute, or a function of the result), then
        the names of its axes. An axis that is named "" becomes a column for each of its places. What has ``estimate``,
        ``low`` and ``high`` becomes three columns.
    left_out : sequence of str
        Attributes that the data frame does not have.
    notes : callable, optional
        From the results to lines above the table.
    """

    title: str
    columns: Sequence[Column]
    rows: str | Callable[[Any], Sequence[Any]] = ""
    axes: Mapping[str, str | Callable[[Any], Any]] = field(default_factory=dict)
    arrays: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    notes: Callable[[Sequence[Any]], list[str]] | None = None


def read(item: Any, where: str | Callable[[Any], Any]) -> Any:
    """Return an attribute of a result, or what a function makes of it."""
    return getattr(item, where) if isinstance(where, str) else where(item)


def table_of(items: Sequence[Any], layout: Layout) -> Table:
    """Return the table of results of one class."""
    places = [(item, k) for item in items for k in range(len(read(item, layout.rows)) if layout.rows else 1)]
    cells = [[column.cell(item, k) for item, k in places] for column in layout.columns]
    said, kept = [], []
    # What no row has, such as a margin where none was given, is not worth a column.
    for column, values in zip(layout.columns, cells, strict=True):
        if column.once and len(set(map(str, values))) == 1:
            if str(values[0]) != UNKNOWN:
                said.append(" ".join([f"{column.name}: {values[0]}", column.unit_of(items)]).rstrip())
        else:
            kept.append((column, values))
    noun, colon, rest = layout.title.partition(":")
    title = (f"{len(items)} {noun}" if len(items) > 1 else _one_of(noun)) + colon + rest
    notes = ["; ".join(said)] if said else []
    return Table(
        title=title[:1].upper() + title[1:],
        notes=[*notes, *(layout.notes(items) if layout.notes is not None else [])],
        header=[column.name for column, _ in kept],
        units=[column.unit_of(items) for column, _ in kept],
        rows=list(zip(*(values for _, values in kept), strict=True)),
        numeric=[column.numeric for column, _ in kept],
    )


def _one_of(nouns: str) -> str:
    return nouns.removesuffix("ies") + "y" if nouns.endswith("ies") else nouns.removesuffix("s")
