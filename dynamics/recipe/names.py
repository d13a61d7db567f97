"""Names and seeds, as all settings write them. Never loads torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from dynamics.validation import shown

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def _safe(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} becomes a folder's name; begin with a letter or digit and use only "
            "letters, digits, '.', '_' and '-', at most 200"
        )
    return name


def require_apart(names: Iterable[str]) -> None:
    """Raise ValueError if two names are the same but for case: some file systems take them for one."""
    by_folder: dict[str, str] = {}
    for name in names:
        other = by_folder.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} differ in case alone; rename one")


Name = Annotated[str, AfterValidator(_safe)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
