"""The Triton kernels, in a process of their own.

Whether Triton interprets a kernel or compiles it is settled when Triton is first imported, which TRL does in other
tests of the same process.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ALONE = Path(__file__).with_name("triton_kernels_alone.py")


def test_kernels_and_the_route_of_accelerators() -> None:
    command = [sys.executable, "-m", "pytest", str(ALONE), "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ALONE.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    # Without Triton, on another platform, the route is tested with the torch rows alone.
    least = 150 if importlib.util.find_spec("triton") is not None else 50
    assert passed is not None and int(passed[1]) >= least, done.stdout[-500:]
