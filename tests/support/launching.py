"""Two processes that train together on a CPU, as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def launch(tmp_path: Path, command: list[str]) -> list[str]:
    """Run Python with `command` twice, in `tmp_path`, and return what each wrote; AssertionError if one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LOCAL_WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        # One that fails leaves the other waiting, as a launcher would not.
        failed = next((p for p in started if p.wait(timeout=120) != 0), None)
        assert failed is None, "".join(failed.communicate())
        return [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
