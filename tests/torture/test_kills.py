"""A few of the kills of `make torture`: each resumed run ends in the bits of one that was never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HARNESS = Path(__file__).with_name("kills.py")


def test_killed_runs_resume_bit_for_bit(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    # A process of its own: it forks, and must hold one thread.
    command = [sys.executable, str(HARNESS), "--instants", "8", "--output", str(result)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert found["killed"] == found["identical"] == 8 and found["wrong"] == []
    assert found["events"] > 100
