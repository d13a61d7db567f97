"""The `dynamics` command in a process that kills itself: ``python -m benchmarks.gpu.killed_training STEPS train ...``.

It dies by SIGKILL before the STEPS-th optimiser step after its first checkpoint is whole, which no signal handler,
`finally` or exit hook sees.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

from dynamics import cli
from dynamics.records import schema


class Killer:
    """Counts optimiser steps once a checkpoint of the run in `output` is whole."""

    def __init__(self, output: Path, steps: int) -> None:
        self._checkpoints = output / schema.CHECKPOINTS_FOLDER
        self._left = steps

    def __call__(self, *given: Any) -> None:
        if any(self._checkpoints.glob(f"checkpoint-*/{schema.MANIFEST_FILE}")):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    steps, *rest = sys.argv[1:]
    output = Path(rest[rest.index("--output") + 1])
    register_optimizer_step_pre_hook(Killer(output, int(steps)))
    sys.argv = ["dynamics", *rest]
    cli.main()


if __name__ == "__main__":
    main()
