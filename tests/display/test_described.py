"""Objects that describe themselves never raise, and read their files once."""

from __future__ import annotations

import warnings

from dynamics.display.described import Described
from dynamics.display.tables import Card


class Broken(Described):
    def _title(self) -> str:
        return "Broken('x')"

    def _described(self) -> Card:
        raise OSError("no <b>file</b>\nsecond line")


class Untitled(Broken):
    def _title(self) -> str:
        raise AttributeError("path")


class Once(Described):
    calls = 0

    def _described(self) -> Card:
        self.calls += 1
        warnings.warn("few documents", UserWarning, stacklevel=1)
        return Card("once", [("a", "1"), ("longer", "2")])


def test_what_is_wrong_stands_in_one_line() -> None:
    assert repr(Broken()) == "Broken('x')\n  cannot be shown  no <b>file</b>"
    assert "<b>" not in Broken()._repr_html_() and "&lt;b&gt;" in Broken()._repr_html_()
    assert repr(Untitled()).startswith("Untitled\n")


def test_it_is_made_once_without_warnings() -> None:
    one = Once()
    assert repr(one) == str(one) == "once\n  a       1\n  longer  2"
    assert one._repr_html_().count("<tr>") == 2 and one.calls == 1
