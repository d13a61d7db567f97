"""Paired timing, peak memory in a process of its own, and results as JSON with the hardware's name.

Other work may share the machine. So competitors run in turn, round by round, and what is reported is the median of
the ratios within rounds, with their quartiles: a disturbance of one round touches all of them or shows in the spread.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dynamics.ops.routes import processor

RESULTS = Path(__file__).parent / "results"
TRIALS = Path(__file__).parents[1] / "build" / "benchmarks"


def interleaved(
    functions: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each function in each round; a first round warms up and is not counted.

    With `time.thread_time` as clock, the processor time of work on one thread: that is not stretched where other work
    takes turns on the same core.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        # Every second round runs backwards, so that no one always follows the same neighbour.
        for name in list(functions)[:: 1 if round_ % 2 else -1]:
            start = clock()
            functions[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(clock() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low": low, "high": high}


def ratios(seconds: dict[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Return the spread of each function's time over the baseline's of the same round."""
    base = seconds[baseline]
    return {name: spread([a / b for a, b in zip(times, base, strict=True)]) for name, times in seconds.items()}


def peak_memory(prepare: Callable[[], Callable[[], Any]], device: str) -> int:
    """Return the bytes that one call needs above what is there before it, in this process.

    On a CPU resident memory is sampled every millisecond, allocator and libraries' buffers included.
    """
    run = prepare()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = peak = _resident()
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _resident())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        result = run()
        peak = max(peak, _resident())
    finally:
        done.set()
        sampler.join()
    del result
    return peak - before


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the function's result, computed in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def hardware(device: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a result must name to mean anything.

    `load` is the system's own, over the last minute: what else ran when the benchmark began. None where a package is
    not installed.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        **versions(packages),
    }


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Return the packages' versions, None where one is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(name: str, result: dict[str, Any], *, quick: bool = False) -> Path:
    """Write a result into benchmarks/results, or build/benchmarks if it is none to quote, and return its path."""
    folder = TRIALS if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
