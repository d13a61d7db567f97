"""What the project's pages say, so that tests hold their numbers.

A test computes a sentence and asks `says` whether a page has it, wherever its lines break. With DYNAMICS_REFRESH_PAGES=1
in the environment the page's numbers are put right first; its words never are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# With the sign of a comparison before it: p = 0.012, and p < 0.001.
_NUMBER = r"(?:[=<]\s+)?[-−+]?\d+(?:,\d{3})*(?:\.\d+)?"


def says(page: str, sentence: str) -> None:
    """Fail unless a page of the repository has a sentence, or a row of a table."""
    path = ROOT / page
    text = path.read_text()
    if os.environ.get("DYNAMICS_REFRESH_PAGES") and renumbered(text, sentence) != text:
        text = renumbered(text, sentence)
        path.write_text(text)
    assert " ".join(sentence.split()) in " ".join(text.split()), f"{page} does not say:\n{sentence}"


def renumbered(text: str, sentence: str) -> str:
    """Return a text in which the first place that has a sentence's words has its numbers too."""
    words = re.split(_NUMBER, sentence)
    pattern = f"({_NUMBER})".join(re.sub(r"(\\ )+", r"\\s+", re.escape(part)) for part in words)
    found = re.search(pattern, text)
    if found is None:
        return text
    pieces, at = [], 0
    for group, number in enumerate(re.findall(_NUMBER, sentence), start=1):
        pieces += [text[at : found.start(group)], number]
        at = found.end(group)
    return "".join([*pieces, text[at:]])


def percent(share: float) -> str:
    """Return a share as the pages write it: 12.3 %."""
    return f"{100 * share:.1f} %"
