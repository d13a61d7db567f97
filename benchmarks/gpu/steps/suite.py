"""Do the tests of `tests/gpu` pass on this device?

They hold what no number says: that recording changes no bit, that no wait is ours, that masks are those of a CPU. They
run in a process of their own, with nothing that this one has set.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.protocol import Found, Where, at_most, holds

ROOT = Path(__file__).parents[3]
TESTS = "tests/gpu"
# At tiny sizes one file: the whole directory is part of the test suite, which the tiny run belongs to.
FAST = "tests/gpu/test_landing.py"
LEAST, LEAST_FAST = 50, 4  # tests that must have passed, lest a directory that is empty, or skipped, does
SECONDS = 130.0  # other steps are on the device too, and each kernel is compiled


def run(where: Where) -> Found:
    """Run the tests and count."""
    chosen, least = (FAST, LEAST_FAST) if where.tiny else (TESTS, LEAST)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code, tail = _pytest(where, chosen, report)
        found = counted(report)
    measured = {"ran": f"{chosen} alone: the tests hold the rest" if where.tiny else chosen, "exit code": code, **found}
    if code != 0:
        measured["last lines"] = tail
    return Found(
        measured,
        [
            holds("pytest ends by itself, with nothing that failed", f"exit code {code}", code == 0),
            at_most("tests that failed", found["failed"], 0),
            holds(f"at least {least} tests passed", f"{found['passed']} passed", found["passed"] >= least),
        ],
    )


def _pytest(where: Where, chosen: str, report: Path) -> tuple[int, list[str]]:
    """Return pytest's exit code and its last lines; after `SECONDS` it is interrupted, and tells what it has done."""
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the tests need none
    command = [sys.executable, "-m", "pytest", chosen, f"--junitxml={report}", "-p", "no:cacheprovider"]
    if where.device == "cuda":
        # Another version's warning is no failure of what is tested here.
        command += ["-W", "default"]
        environment["DYNAMICS_GPU"] = "required"
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heeding_interrupts,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return process.returncode, output.splitlines()[-15:]


def _heeding_interrupts() -> None:
    # What a shell runs in the background ignores interrupts, and so does all that it starts.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def counted(report: Path) -> dict[str, Any]:
    """Return how many tests of a JUnit report passed and failed, failures' first lines, and why some were skipped."""
    passed, failures, skipped, seconds = 0, {}, {}, {}
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    for case in cases:
        if case.get("name") is None:
            continue  # in the midst of which pytest was interrupted
        name = f"{case.get('classname')}::{case.get('name')}"
        seconds[name] = float(case.get("time") or 0)
        wrong = [part for kind in ("failure", "error") for part in case.iter(kind)]
        left_out = case.find("skipped")
        if wrong:
            failures[name] = (wrong[0].get("message") or "?").splitlines()[0]
        elif left_out is not None:
            skipped[name] = left_out.get("message")
        else:
            passed += 1
    slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:5]
    return {
        "passed": passed,
        "failed": len(failures),
        "failures": failures,
        "skipped": skipped,
        "slowest, seconds": {name: seconds[name] for name in slowest},
    }
