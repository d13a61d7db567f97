"""What the project's pages say, so that a test can hold their numbers."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def prose(page: str) -> str:
    """Return a page of the repository with every break of a line as a space: sentences are found wherever they break."""
    return " ".join((ROOT / page).read_text().split())


def percent(share: float) -> str:
    """Return a share as the pages write it: 12.3 %."""
    return f"{100 * share:.1f} %"
