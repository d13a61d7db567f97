"""A newcomer follows README, line by line, in a fresh environment: `make acceptance` runs this.

README's Python runs as cells of a notebook, in a kernel of that environment. Its output must be the one on the page,
and the cells that end in a figure must show it. test_quickstart runs README's `dynamics study quickstart`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import unittest.mock
import venv
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.pages import Block, blocks  # noqa: E402

MINUTES = 5
# What the newcomer has already: a Trainer of their own.
OWN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.own_training import own_training
globals().update(own_training(Path(".")))
"""


def readme() -> list[tuple[Block, str | None]]:
    """Return README's Python blocks, each with the output below it or None."""
    found = blocks(ROOT / "README.md")
    following = [*found[1:], None]
    return [
        (block, after.code if after is not None and after.language == "text" and after.follows else None)
        for block, after in zip(found, following, strict=True)
        if block.language == "python"
    ]


def visited(python: Path, folder: Path, sources: list[str]) -> list[Any]:
    """Run cells in a kernel of another environment; return the outputs of each."""
    spec = folder / "jupyter" / "kernels" / "newcomer"
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "newcomer", "language": "python"}))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    places = {"JUPYTER_PATH": str(folder / "jupyter"), "DYNAMICS_CACHE": str(folder / "cache")}
    with unittest.mock.patch.dict(os.environ, {**places, "HF_HUB_OFFLINE": "1"}):
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, kernel_name="newcomer", timeout=600, resources=resources).execute()
    return [cell.outputs for cell in notebook.cells]


def printed(outputs: Any) -> str:
    return "".join(each.text for each in outputs if each.output_type == "stream" and each.name == "stdout")


def shows_a_figure(outputs: Any) -> bool:
    return any("image/png" in each.get("data", {}) for each in outputs)


def follow(python: Path, folder: Path) -> None:
    """Run README's cells and check their output; then the page that README names."""
    lines = readme()
    assert len(lines) == 3, "README's Python has changed: change what is checked here"
    example, attached, opened = (block.code for block, _ in lines)
    cells = [example, OWN.format(tests=str(ROOT / "tests")), attached, opened]
    figure, _, _, mine = visited(python, folder, cells)
    assert shows_a_figure(figure), "the first cell shows no figure"
    assert printed(mine).strip() == str(lines[2][1]).strip()
    assert shows_a_figure(mine), "the newcomer's own run shows no figure"
    explore = [python.parent / "dynamics", "explore", "runs/mine", "--output", "page.html"]
    done = subprocess.run(explore, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "page.html").read_text().startswith("<!doctype html>")


def test_a_newcomer_sees_a_figure_of_their_own_in_five_minutes(tmp_path: Path) -> None:
    install = next(block for block in blocks(ROOT / "README.md") if block.language == "sh")
    assert install.code.startswith("pip install . "), "README's first line installs the checkout"
    started = time.monotonic()
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    # torch first, at the pinned version: a range could bring another build. A notebook needs a kernel.
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, str(ROOT), "ipykernel"], check=True)
    installed = time.monotonic()
    follow(python, tmp_path)
    minutes = (time.monotonic() - installed) / 60
    print(f"{minutes:.1f} minutes to the figure, after {(installed - started) / 60:.1f} to install")
    # How long pip takes is up to the network.
    assert minutes < MINUTES
