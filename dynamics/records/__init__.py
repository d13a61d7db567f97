"""Records on disk: the formats, writing, reading, checking and exporting; nothing here knows who reads them.

Rooms on the right make two things that a run offers: the page of `Run.explore`, and the picture that Jupyter shows.
They are not imported here: the package's face, which knows every room, says what makes each.
"""

from __future__ import annotations

# Type checkers take this name as true. The one in `typing` would cost `import dynamics` the import of that module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Returns what makes the picture of a run or a study, for Jupyter and for `repr`. `dynamics` sets it.
load_describer: Callable[[], Any] | None = None
#: Returns what makes `Run.explore`'s page of runs, a budget in bytes and a number of buckets. `dynamics` sets it.
load_page_builder: Callable[[], Any] | None = None
