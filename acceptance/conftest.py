"""A fresh environment that the tests at full length share."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    install = [folder / "venv/bin/python", "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    # torch first, at the pinned version: a range could bring another build.
    subprocess.run([*install, "torch"], check=True)
    subprocess.run([*install, str(wheel)], check=True)
    return folder
