"""The picture of a run or a study, which `dynamics.records` asks for through the package's face."""

from __future__ import annotations

from dynamics.analysis.cards.run_card import run_card
from dynamics.analysis.cards.study_table import study_table
from dynamics.display.tables import Card, Table
from dynamics.records.reader import Run, Study


def describe(source: Run | Study) -> Table | Card:
    """Return the card of a run, or the table of a study's arms.

    Raises
    ------
    InputError, DamagedRecordError
        If its files cannot be read; `dynamics.display.described` says so in a line.
    """
    return run_card(source) if isinstance(source, Run) else study_table(source)
