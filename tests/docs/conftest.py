"""What the snippets of the pages start from: a folder with runs, and a small training of the reader's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pages import ROOT


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that has the packaged study as runs/quickstart, and the summaries of the repository."""
    from dynamics import load_example

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "runs").mkdir()
    os.symlink(load_example().path, tmp_path / "runs" / "quickstart")
    os.symlink(ROOT / "studies", tmp_path / "studies")
    os.symlink(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


@pytest.fixture
def own(desk: Path) -> Callable[[], dict[str, Any]]:
    """A function that makes what a reader brings: a model, its data, a Trainer, and the parts of a loop."""

    def make() -> dict[str, Any]:
        from support.own_training import own_training

        return own_training(desk)

    return make
