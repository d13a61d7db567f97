"""Run steps, each in a process of its own with a limit of its own; one JSON file, rewritten after each.

A step that raises, dies, hangs or breaks the device's context is recorded as such and takes no other with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.gpu.one_step import GO, write_whole
from benchmarks.gpu.plan import Step
from benchmarks.gpu.protocol import Where
from dynamics.errors import InputError

ROOT = Path(__file__).parents[2]
FORMAT = 1

# Too short to begin anything in.
_LEAST_S = 5.0
_TOLD = 3000  # characters of what a step that failed has printed last

Result = dict[str, Any]


class StepProcess:
    """A step's process, which imports and then waits.

    Parameters
    ----------
    step : Step
    where : Where
    folder : Path
        Takes what it finds and what it prints.
    """

    def __init__(self, step: Step, where: Where, folder: Path) -> None:
        self._found = folder / f"{step.name}.json"
        self._log = folder / f"{step.name}.log"
        size = "tiny" if where.tiny else "full"
        command = [sys.executable, "-m", "benchmarks.gpu.one_step", step.module, where.device, size, str(self._found)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                # On a CPU nothing is to find a device that may be there.
                env=os.environ
                | {"PYTHONUNBUFFERED": "1"}
                | ({"CUDA_VISIBLE_DEVICES": ""} if where.device == "cpu" else {}),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # lest what it starts outlive it
            )

    def run(self, limit_s: float) -> Result:
        """Let it go, wait for it, and return its entry in the result."""
        began = time.perf_counter()
        timed_out = False
        try:
            self._process.communicate(GO, timeout=limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        self.end()
        entry: Result = {"seconds": round(time.perf_counter() - began, 2), "limit_s": round(limit_s, 1)}
        found: Result = json.loads(self._found.read_text()) if self._found.exists() else {}
        if self._process.returncode == 0 and found:
            broken = any(check["met"] is False and not check["target"] for check in found["checks"])
            return entry | found | {"status": "failed" if broken else "passed"}
        entry |= {"exit status": self._process.returncode, "told": self._log.read_text(errors="replace")[-_TOLD:]}
        # With what it has found before.
        return entry | found | {"status": "timed out" if timed_out else "failed"}

    def end(self) -> None:
        """End it, and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Processes:
    """The processes of steps, begun ahead of their turn; those that are left are ended with the context.

    Parameters
    ----------
    where : Where
    folder : Path
    """

    def __init__(self, where: Where, folder: Path) -> None:
        self._where = where
        self._folder = folder
        self._begun: dict[str, StepProcess] = {}

    def begin(self, steps: Iterable[Step]) -> None:
        """Start those that are not started: they import, and wait."""
        for step in steps:
            if step.name not in self._begun:
                self._begun[step.name] = StepProcess(step, self._where, self._folder)

    def run(self, group: Sequence[Step], left_s: float) -> Iterator[tuple[Step, Result]]:
        """Let steps go side by side, and give each with its entry as it ends."""
        with ThreadPoolExecutor(len(group)) as threads:
            waits = {threads.submit(self._begun[step.name].run, min(step.limit_s, left_s)): step for step in group}
            try:
                for wait in as_completed(waits):
                    del self._begun[waits[wait].name]
                    yield waits[wait], wait.result()
            except BaseException:
                self.end()  # or the threads would wait for them
                raise

    def end(self) -> None:
        """End all that wait or run."""
        for process in self._begun.values():
            process.end()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def run_steps(steps: Sequence[Step], where: Where, path: Path, *, seconds: float) -> Result:
    """Run steps in order, rewriting the result after each.

    Parameters
    ----------
    steps : sequence of Step
    where : Where
    path : Path
        Of the result. Steps that stand in it already and are not among `steps` are kept, if they come from the same
        machine and versions.
    seconds : float
        For all of them. A step that would begin later is recorded as not run.

    Returns
    -------
    dict
        The result, as it was written last.

    Raises
    ------
    InputError
        If what stands at `path` is no result of this benchmark; nothing has been run or written then.
    """
    deadline = time.perf_counter() + seconds
    result: Result = {"benchmark": "gpu", "format": FORMAT, "device": where.device, "tiny": where.tiny}
    result["steps"] = steps_in(path)
    before = result["steps"].get("environment", {})
    sources = sources_hash()
    groups = side_by_side(steps)
    with tempfile.TemporaryDirectory() as temporary, Processes(where, Path(temporary)) as processes:
        for group, following in zip(groups, [*groups[1:], []], strict=True):
            left = deadline - time.perf_counter()
            if left < _LEAST_S:
                nothing: Result = {"status": "not run", "told": f"nothing was left of {seconds:g} s"}
                entries: Iterable[tuple[Step, Result]] = [(step, nothing) for step in group]
            else:
                processes.begin(group)
                processes.begin(following)
                entries = processes.run(group, left)
            for step, entry in entries:
                if step.name == "environment" and entry["status"] == "passed" and machine(before) != machine(entry):
                    result["steps"].clear()  # they are of another machine, or of other versions
                result["steps"][step.name] = entry | {"sources": sources}
                write_whole(path, json.dumps(result, indent=1) + "\n")
                print(line(step.name, entry), flush=True)
    return result


def steps_in(path: Path) -> dict[str, Result]:
    """Return the steps of the result at a path, none where nothing is there."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no result to add steps to ({type(error).__name__}): give another --output"
        ) from error
    steps = found.get("steps") if isinstance(found, dict) and found.get("format") == FORMAT else None
    if not isinstance(steps, dict):
        raise InputError(f"{path} is no result of this benchmark, format {FORMAT}: give another --output")
    return steps


def side_by_side(steps: Sequence[Step]) -> list[list[Step]]:
    """Return the steps in groups: neighbours that measure no time are run together, the others alone."""
    groups: list[list[Step]] = []
    for step in steps:
        if groups and not step.times and not groups[-1][-1].times:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def machine(environment: Result) -> Result:
    """Return what of an environment's entry must be the same for steps to stand in one result."""
    return {name: value for name, value in environment.get("measured", {}).items() if name != "load"}


def line(name: str, entry: Result) -> str:
    """Return what to say of a step: how it ended, and which of its checks do not hold."""
    text = f"{name}: {entry['status']}"
    if "seconds" in entry:
        text += f" in {entry['seconds']:.1f} s"
    missed = [check for check in entry.get("checks", []) if check["met"] is False]
    text += "".join(f"\n  {'missed' if one['target'] else 'BROKEN'}: {claim(one)}" for one in missed)
    if "told" in entry:
        text += "\n  " + entry["told"].strip().replace("\n", "\n  ")
    return text


def claim(check: Result) -> str:
    """Return a check in a line: the claim, what was found, and the limit."""
    value = check["value"]
    found = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{check['what']}: {found}" + ("" if check["limit"] is None else f" (at most {check['limit']:g})")


def sources_hash() -> str:
    """Return a hash of the Python sources that were run, which tells as much where there is no repository."""
    digest = hashlib.sha256()
    for path in sorted(
        path for folder in ("dynamics", "benchmarks", "tests/gpu") for path in (ROOT / folder).rglob("*.py")
    ):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
