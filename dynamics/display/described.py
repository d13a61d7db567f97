"""Objects whose picture is costly or can fail: runs, studies and records on disk. Showing one never raises."""

from __future__ import annotations

import warnings
from typing import Any

from dynamics.display.tables import Card, Table


class Described:
    """The base of what describes itself from files that may be missing, damaged or not finished.

    A class says what it is in one line (`_title`, from what is in memory) and in full (`_described`). What goes wrong
    in the second is said in one line under the first. The picture is made once.
    """

    def _title(self) -> str:
        raise NotImplementedError

    def _described(self) -> Table | Card:
        raise NotImplementedError

    def __repr__(self) -> str:
        return _shown(self).text()

    def _repr_html_(self) -> str:
        return _shown(self).html()


def _shown(self: Described) -> Table | Card:
    kept: Table | Card | None = vars(self).get("_kept_picture")
    if kept is None:
        kept = _made(self)
        vars(self)["_kept_picture"] = kept
    return kept


def _made(self: Described) -> Table | Card:
    try:
        with warnings.catch_warnings():
            # Who asks for an estimate is warned. Who looks at an object did not ask.
            warnings.simplefilter("ignore")
            return self._described()
    except Exception as error:  # noqa: BLE001 - a notebook shows an object whatever state its files are in
        return Card(_title_of(self), [("cannot be shown", first_line(error))])


def _title_of(self: Described) -> str:
    try:
        return self._title()
    except Exception:  # noqa: BLE001 - an object that was not fully made has no title
        return type(self).__name__


def first_line(error: Any) -> str:
    """Return what an error says, in one line."""
    lines = str(error).splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__
