"""The code on README and in the handbook: Python runs and prints what the page shows, commands are known.

- ``python`` blocks of a page run in order, in one namespace. A ``text`` block right after one is its output.
- ``python sketch`` blocks need what a test cannot have. They compile, and what they name of this package is there.
- ``sh`` blocks: every ``dynamics`` command, option, recipe, make target, module and script that they name is there.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.pages import PAGES, ROOT, Block, blocks, named
from typer.main import get_command
from typer.testing import CliRunner

from dynamics.cli import app

MAKEFILE = (ROOT / "Makefile").read_text()
WITH_PYTHON = [page for page in PAGES if any(each.language == "python" for each in blocks(page))]
WITH_SHELL = [page for page in PAGES if any(each.language == "sh" for each in blocks(page))]
#: Commands of these that read the packaged study alone are run as well.
QUICK = ("check", "explore", "export", "summarize", "figures")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_python_runs_and_prints_what_the_page_shows(page: Path, own: Callable[[], dict[str, Any]]) -> None:
    names: dict[str, Any] = {"__name__": "snippet"}
    found = blocks(page)
    if any(needs_own(each.code) for each in found if each.language == "python"):
        names.update(own())
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.language != "python":
            continue
        if block.info == "sketch":
            check_sketch(block)
            continue
        printed = run(block, names)
        if following is not None and following.language == "text" and following.follows:
            if os.environ.get("DYNAMICS_REFRESH_PAGES"):
                following = refreshed(page, following, printed)
            assert lines(printed) == lines(following.code), f"{block.page}:{block.line} prints\n{printed}"


def refreshed(page: Path, block: Block, printed: str) -> Block:
    """Put what was printed in the place of a page's output, as `make example` does for the numbers of pages."""
    output = "\n".join(lines(printed)) + "\n"
    text = page.read_text()
    before = "".join(text.splitlines(keepends=True)[: block.line - 1])
    page.write_text(before + output + text[len(before) + len(block.code) :])
    return replace(block, code=output)


def needs_own(code: str) -> bool:
    """Whether a snippet starts from a reader's own model or Trainer."""
    return re.search(r"\b(trainer|model|loader)\b", code) is not None


def run(block: Block, names: dict[str, Any]) -> str:
    """Run a block in a namespace; return what it prints."""
    code = "\n" * (block.line - 1) + block.code
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, block.page, "exec"), names)  # noqa: S102
    return printed.getvalue()


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def check_sketch(block: Block) -> None:
    """Fail where a sketch does not compile, or names something of this package that is not there."""
    tree = ast.parse(block.code)
    faces: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.split(".")[0] == "dynamics":
                    faces[each.asname or each.name] = importlib.import_module(each.name)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dynamics":
            for each in node.names:
                value = getattr(importlib.import_module(str(node.module)), each.name)
                faces[each.asname or each.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in faces:
            assert hasattr(faces[node.value.id], node.attr), f"{block.page}:{block.line}: {node.value.id}.{node.attr}"


@pytest.mark.parametrize("page", WITH_SHELL, ids=named)
def test_shell_lines_name_what_is_there(page: Path) -> None:
    for block in blocks(page):
        for line in commands(block) if block.language == "sh" else ():
            check_command(line)


def commands(block: Block) -> Iterator[list[str]]:
    """Return the commands of a block, in words, without comments and without NAME=VALUE before them."""
    joined = re.sub(r"\\\n\s*", " ", block.code)
    for line in joined.splitlines():
        for part in re.split(r"\s&&\s|\s\|\s", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


def check_command(words: list[str]) -> None:
    """Fail where a command names an option, a target, a module or a script that is not there."""
    name, *rest = words
    if name == "torchrun":
        assert "-m" in rest and rest[rest.index("-m") + 1] == "dynamics", words
        return check_command(["dynamics", *rest[rest.index("-m") + 2 :]])
    if name == "dynamics":
        parsed(rest)
    elif name == "make":
        for target in rest:
            assert "=" in target or re.search(rf"^{re.escape(target)}:", MAKEFILE, re.M), f"make has no {target}"
    elif name in ("python", "python3") and rest[0] == "-m":
        with_root = [str(ROOT), *sys.path]
        assert in_repository(rest[1], with_root), f"there is no module {rest[1]}"
    elif name in ("python", "python3"):
        assert (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"
    else:
        assert name in ("pip", "wc", "git", "cd", "mount", "source"), f"unknown command: {' '.join(words)}"
    for word in rest:
        if re.match(r"(recipes|examples|benchmarks|tests)/", word):
            assert (ROOT / word).exists(), f"there is no {word}"
    return None


def in_repository(module: str, places: list[str]) -> bool:
    before, sys.path[:] = list(sys.path), places
    try:
        return importlib.util.find_spec(module) is not None
    finally:
        sys.path[:] = before


def parsed(words: list[str]) -> None:
    """Parse the words of a `dynamics` command as the command line does, without running it."""
    group: Any = get_command(app)
    if words[0].startswith("--"):
        assert any(words[0] in option.opts for option in group.params), words
        return
    command = group.commands[words[0]]
    context = command.context_class(command, info_name=words[0])
    _, left, _ = command.make_parser(context).parse_args(list(words[1:]))
    assert not left, f"dynamics {' '.join(words)}: {left}"


def quick_lines() -> list[str]:
    found = [
        words for page in WITH_SHELL for block in blocks(page) if block.language == "sh" for words in commands(block)
    ]
    quick = [
        words
        for words in found
        if words[0] == "dynamics" and words[1] in QUICK and words[2].startswith(("runs/quickstart", "studies/"))
    ]
    return list(dict.fromkeys(shlex.join(words[1:]) for words in quick))


@pytest.mark.parametrize("line", quick_lines())
def test_quick_commands_run_on_the_packaged_study(line: str, desk: Path) -> None:
    words = shlex.split(line)
    if words[0] == "figures":
        words += ["--only", "degradation"] if "--only" not in words else []
        words += ["--output", str(desk / "figures")] if "--output" not in words else []
    if words[0] == "export":
        pytest.importorskip("pyarrow" if "parquet" in words else "zarr")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"dynamics {line}\n{done.output}"


def test_what_a_page_gets_wrong_is_found() -> None:
    """The checks above can fail."""
    block = Block("page.md", 1, "python", "sketch", "from dynamics import plots\nplots.no_such_figure()\n", False)
    with pytest.raises(AssertionError, match="plots.no_such_figure"):
        check_sketch(block)
    for wrong in (["dynamics", "figures", "x", "--no-such-option", "1"], ["make", "nothing-like-it"], ["pythn", "x"]):
        with pytest.raises(Exception, match="(?i)no such option|has no|unknown command"):
            check_command(wrong)
    with pytest.raises(AssertionError):
        check_command(["dynamics", "train", "recipes/none.yaml"])
