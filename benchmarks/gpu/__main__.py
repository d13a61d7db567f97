"""Prove and measure, on this machine's CUDA device, all that is claimed of one.

    python -m benchmarks.gpu                        # at most eight minutes on one H100 or H200
    python -m benchmarks.gpu --only resume suite    # these anew; the result keeps its other steps
    python -m benchmarks.gpu --device cpu --tiny    # a minute or two: does the script run?

The result is one JSON file, benchmarks/results/gpu-DEVICE.json (build/benchmarks/ for a trial), rewritten after every
step; `python -m benchmarks.report` makes docs/gpu.md from it. Exit status 1 if a step failed; a speed that misses its
target is told, and is no failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import timing
from benchmarks.gpu.plan import STEPS, Step
from benchmarks.gpu.protocol import Where
from benchmarks.gpu.runner import run_steps, steps_in
from dynamics.errors import InputError


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [step.name for step in STEPS]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU; no result to quote")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP", help=", ".join(names))
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (8)")
    parser.add_argument("--output", type=Path, help="the JSON file")
    found = parser.parse_args(given)
    if found.device == "cpu" and not found.tiny:
        parser.error("on a CPU the full sizes take hours: add --tiny")
    if not (math.isfinite(found.minutes) and found.minutes > 0):
        parser.error(f"--minutes is {found.minutes:g}: give a positive number")
    if found.output is not None and found.output.is_dir():
        parser.error(f"--output {found.output} is a folder: give the name of a file, gpu-DEVICE.json")
    return found


def device_name(device: str) -> str:
    """Return the device's name, asked in another process: this one shall hold nothing on the device."""
    if device == "cpu":
        return device
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        sys.exit(f"torch sees no CUDA device here ({reason}): run where there is one, or with --device cpu --tiny")
    return done.stdout.strip()


def default_path(where: Where, name: str) -> Path:
    """Return where a result lies: by the device's name, and apart if it is none to quote."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (timing.TRIALS if where.tiny else timing.RESULTS) / f"gpu-{slug}.json"


def selected(names: list[str]) -> list[Step]:
    """Return steps in the plan's order; the environment always, so that the result's machine is this one."""
    return [step for step in STEPS if step.name in names or step.name == "environment"]


def main() -> None:
    given = arguments()
    where = Where(given.device, given.tiny)
    name = device_name(given.device)
    path = given.output or default_path(where, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = selected(given.only)
    if where.tiny:  # no device is held up, and a CPU that others use may take long
        steps = [dataclasses.replace(step, limit_s=10 * step.limit_s) for step in steps]
    try:
        steps_in(path)  # what is no result is left alone
        if len(steps) == len(STEPS):
            path.unlink(missing_ok=True)
        result = run_steps(steps, where, path, seconds=60 * given.minutes)
    except InputError as error:
        sys.exit(str(error))
    print(path)
    sys.exit(any(entry["status"] != "passed" for entry in result["steps"].values()))


if __name__ == "__main__":
    main()
