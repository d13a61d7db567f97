"""The quickstart at full length, from the wheel, in an environment made for it: `make acceptance` runs this."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
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


def test_the_quickstart_degrades_and_token_dropout_changes_that(elsewhere: Path) -> None:
    command = elsewhere / "venv/bin/dynamics"
    environment = {**os.environ, "DYNAMICS_CACHE": str(elsewhere / "cache")}
    started = time.monotonic()
    done = subprocess.run(
        [command, "study", "quickstart"], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    minutes = (time.monotonic() - started) / 60
    print(done.stdout)
    print(f"{minutes:.1f} minutes")
    assert done.returncode == 0, done.stderr
    assert minutes < 6
    with open(elsewhere / "runs/quickstart/figures/curriculum.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rebound = {row["arm"]: float(row["value"]) for row in rows if row["quantity"] == "rebound"}
    assert rebound["baseline"] >= 0.05
    assert set(rebound) == {"baseline", "entrodrop", "random"}
    subprocess.run([command, "check", "runs/quickstart"], cwd=elsewhere, check=True, stdout=subprocess.DEVNULL)
