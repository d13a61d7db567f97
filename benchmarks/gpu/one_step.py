"""One step, in the process that runs this: imports first, and then waits to be told to go.

The next step's process is started while the last one measures, so that importing torch and transformers costs the
device no time. It holds no device until it is told.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from benchmarks.gpu.plan import load
from benchmarks.gpu.protocol import Found, Where

GO = "go\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that who reads it meanwhile, or after a kill, finds the last whole one."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text)
    os.replace(aside, path)


def main(module: str, device: str, size: str, path: str) -> None:
    """Run a step and write what it found to a file, each time whole."""
    what, run = load(module)
    if sys.stdin.readline() != GO:
        return  # whoever started this is gone

    def keep(found: Found) -> None:
        result = {"what": what, "measured": found.measured, "checks": [dataclasses.asdict(one) for one in found.checks]}
        write_whole(Path(path), json.dumps(result))

    keep(run(Where(device, tiny=size == "tiny", keep=keep)))


if __name__ == "__main__":
    main(*sys.argv[1:])
    # What was found stays found, though a device that a kernel broke may abort the interpreter's own end.
    sys.stdout.flush()
    os._exit(0)
