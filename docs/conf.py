"""Settings of the documentation's site: `make docs` builds it into build/docs with Sphinx.

The handbook is docs/*.md. The reference in docs/api is made from the docstrings of the public faces.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from dynamics.version import __version__  # noqa: E402

project = "Learning dynamics"
author = "the authors of learning-dynamics"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
root_doc = "index"
html_theme = "furo"
html_title = f"Learning dynamics {__version__}"

myst_heading_anchors = 4

# Single backticks in docstrings are names: they become links where the reference has the name.
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "alphabetical"
numpydoc_show_class_members = False

# `[a folder](../examples)`: the repository's folders and its pages outside docs are not part of the site.
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>\.\./[^)\s#]*)\)")


# The rows of the index's tables of pages.
_ROW = re.compile(r"^\| \[[^\]]+\]\((?P<page>[\w-]+)\.md\) \|", re.M)
_API = ("dynamics", "plots", "analysis", "records", "notebook")


def _for_the_site(app: Any, name: str, source: list[str]) -> None:
    """Leave links that lead out of the site as plain text, and give the index a menu, in the order of its tables."""

    def text(found: re.Match[str]) -> str:
        outside = (ROOT / "docs" / found["target"]).is_dir() or found["target"].endswith(".md")
        return found["text"] if outside else found[0]

    source[0] = _LINK.sub(text, source[0])
    if name == root_doc:
        guide = _ROW.findall(source[0])
        api = [f"api/{each}" for each in _API]
        for caption, pages in (("Handbook", guide), ("Reference of names", api)):
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


# Docstrings are plain text. A shape such as (S, *Q) and an absolute value |z| are no markup.
_NO_MARKUP = re.compile(r"(?<=[(,\s])(\*{1,2})(?=[A-Za-z]\w*\b(?!\*))|(?<=[\s(])\|(?=\S)")


def _without_markup(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Escape characters that reStructuredText would read as emphasis or as a substitution."""
    lines[:] = [_NO_MARKUP.sub(lambda mark: "".join(f"\\{sign}" for sign in mark[0]), line) for line in lines]


def setup(app: Any) -> None:
    """Register the hooks with Sphinx. The second must come before numpydoc's, which has priority 500."""
    app.connect("source-read", _for_the_site)
    app.connect("autodoc-process-docstring", _without_markup, priority=400)
