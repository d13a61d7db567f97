"""docs/findings.md, with every number computed from the studies in this repository.

    python -m recipes.study.findings            # writes the page
    python -m recipes.study.findings --check    # changes nothing; exit status 1 if the page is out of date

The words are in recipes/study/findings.md, with a field for each number: ``{{STUDY/arm/baseline/rebound|range}}`` is a
path into the result of `recipes.study.numbers` and, after the bar, the format of the number (`FORMS`). Paragraphs are
wrapped after the fields are filled in.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynamics import load_example, open_summary
from recipes.study.numbers import study_numbers

ROOT = Path(__file__).parents[2]
TEMPLATE = Path(__file__).with_suffix(".md")
PAGE = ROOT / "docs" / "findings.md"
# By study, the task whose results its text holds.
TASKS = {"mathematics": "gsm8k"}
WIDTH = 100
FIELD = re.compile(r"\{\{([^{}|]+)(?:\|([^{}|]+))?\}\}")


def range_of(interval: Mapping[str, float]) -> str:
    """Return an estimate with its interval: 0.343 (0.288 to 0.401)."""
    return f"{interval['is']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def difference(row: Mapping[str, float]) -> str:
    """Return a difference with its interval and p-value: +0.065 (+0.039 to +0.092, p = 0.03)."""
    return f"{row['is']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}, p {p_value(row['p'])})"


def p_value(p: float) -> str:
    """Return a p-value with its sign: = 0.03, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"= {p:.1g}" if p < 0.1 else f"= {p:.2f}"


FORMS: dict[str, Callable[[Any], str]] = {
    "range": range_of,
    "difference": difference,
    "percent": lambda share: f"{100 * share:.1f} %",
    "number": lambda value: f"{value:.3f}",
    "signed": lambda value: f"{value:+.3f}",
    "short": lambda value: f"{value:.2f}",
    "count": lambda value: f"{value:,}",
    "p": p_value,
}


def written(text: str, numbers: Mapping[str, Any]) -> str:
    """Return a text with its fields filled in.

    Raises
    ------
    KeyError, ValueError
        A field names what is not there, or cannot be written so; the message has the field.
    """

    def value(match: re.Match[str]) -> str:
        path, form = match[1].strip(), (match[2] or "number").strip()
        found: Any = numbers
        for key in path.split("/"):
            if not isinstance(found, Mapping) or key not in found:
                there = ", ".join(map(str, found)) if isinstance(found, Mapping) else repr(found)
                raise KeyError(f"{match[0]}: there is no {key!r}; there is {there}")
            found = found[key]
        if form not in FORMS:
            raise ValueError(f"{match[0]}: unknown form {form!r}; use {', '.join(FORMS)}")
        return FORMS[form](found)

    return FIELD.sub(value, text)


def all_numbers() -> dict[str, Any]:
    """Return the numbers of the packaged example, of every study under studies/, and of the model's exposure."""
    numbers: dict[str, Any] = {"example": study_numbers(load_example())}
    for folder in sorted(path.parent for path in (ROOT / "studies").glob("*/study.json")):
        numbers[folder.name] = study_numbers(open_summary(folder), task=TASKS.get(folder.name))
    exposure = ROOT / "studies" / "exposure.json"
    if exposure.exists():
        numbers["exposure"] = json.loads(exposure.read_text())
    return numbers


def page() -> str:
    """Return the whole of docs/findings.md."""
    return "\n\n".join(map(_wrapped, written(TEMPLATE.read_text(), all_numbers()).split("\n\n")))


def _wrapped(block: str) -> str:
    """Return a paragraph or a list in lines of at most `WIDTH` characters. Tables, code and headings do not change."""
    if block.lstrip().startswith(("|", "#", "```", "![", "[reference]")):
        return block
    items = re.split(r"\n(?=- )", block.rstrip("\n"))
    lines = [
        textwrap.fill(
            " ".join(item.split()),
            WIDTH,
            subsequent_indent="  " if item.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    ]
    return "\n".join(lines) + block[len(block.rstrip("\n")) :]


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--numbers", action="store_true", help="print every number as JSON and write nothing")
    args = parser.parse_args()
    if args.numbers:
        print(json.dumps(all_numbers(), indent=1))
        return 0
    found = page()
    if PAGE.exists() and PAGE.read_text() == found:
        return 0
    print(f"{PAGE.relative_to(ROOT)} {'is not what the studies give' if args.check else 'written'}")
    if not args.check:
        PAGE.write_text(found)
    return int(args.check)


if __name__ == "__main__":
    sys.exit(main())
