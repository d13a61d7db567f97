"""How often intervals cover the truth and tests find what is not there, in simulated studies.

    python -m benchmarks.coverage                    # 1,000 studies of every kind; a quarter of an hour on two cores
    python -m benchmarks.coverage --studies 100      # a trial, written to build/benchmarks

Every kind of seeds, documents, variances, distributions, lengths and pairing has random numbers of its own. Where a
thousand studies come out below the bound that is promised, twenty times as many new ones say whether that was chance.
Results: benchmarks/results/coverage.json, and docs/coverage.md by benchmarks.report. They depend on no other work on
the machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.coverage.kinds import done, kinds

FOLDER = Path(__file__).parents[1]
FULL = 1000


def written(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON, a line for each kind of study."""
    lines = []
    for name, value in results.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f"{json.dumps(name)}: [\n  {rows}\n ]")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n " + ",\n ".join(lines) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=FULL, help=f"of every kind; fewer than {FULL} make a trial")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="where to write the results instead")
    given = parser.parse_args()
    if given.studies < 2:
        parser.error("--studies must be at least 2")
    folder = FOLDER / "results" if given.studies >= FULL else FOLDER.parent / "build" / "benchmarks"
    start = time.perf_counter()
    results: dict[str, Any] = {
        "studies": given.studies,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "scipy")}},
    }
    todo = kinds(given.studies)
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for n, (part, result) in enumerate(pool.imap(done, todo), start=1):
            results.setdefault(part, []).append(result)
            if n % 100 == 0 or n == len(todo):
                print(f"{n} of {len(todo)} after {time.perf_counter() - start:,.0f} s", flush=True)
    path = given.output or folder / "coverage.json"
    written(results, path)
    print(path)


if __name__ == "__main__":
    main()
