"""Records on disk: runs, studies and summaries, and what was recorded of every token.

Open them with `dynamics.open_run`, `dynamics.open_study`, `dynamics.open_summary` or `dynamics.open_any`. The classes
here are what these return. A name loads on its first use.

Records do not know what reads them. What a run offers and another room makes, such as the page of `Run.explore`, is a
hook: a variable below, which `dynamics` fills when it is imported.
"""

from __future__ import annotations

from dynamics.faces import lazy_face

# Type checkers take this name as true. The one in `typing` would cost `import dynamics` the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # isort: off
    from dynamics.records.check import CheckReport as CheckReport, Problem as Problem
    from dynamics.records.exporting.run_export import export_run as export_run
    from dynamics.records.reader import Page as Page, Run as Run, Study as Study
    from dynamics.records.summaries.reading import (
        SplitSums as SplitSums,
        Summary as Summary,
        SummaryRecords as SummaryRecords,
        SummaryRun as SummaryRun,
    )
    from dynamics.records.values import Records as Records
else:
    __all__, __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "dynamics.records.check": ["CheckReport", "Problem"],
            "dynamics.records.exporting.run_export": ["export_run"],
            "dynamics.records.reader": ["Page", "Run", "Study"],
            "dynamics.records.summaries.reading": ["SplitSums", "Summary", "SummaryRecords", "SummaryRun"],
            "dynamics.records.values": ["Records"],
        },
    )

#: Returns what makes the picture of a run or a study, for Jupyter and for `repr`. `dynamics` sets it.
load_describer: Callable[[], Any] | None = None
#: Returns what makes `Run.explore`'s page of runs, a budget in bytes and a number of buckets. `dynamics` sets it.
load_page_builder: Callable[[], Any] | None = None
