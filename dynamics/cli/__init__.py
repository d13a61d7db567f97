"""The `dynamics` command.

Heavy imports are inside the commands, so that --help is quick and needs no torch.
"""

from __future__ import annotations

import os
import signal

# Importing them registers their commands, which stand in --help in the order in which they were imported.
from dynamics.cli import training  # isort: skip
from dynamics.cli import records  # isort: skip
from dynamics.cli.command import app, run

__all__ = ["app", "main", "records", "training"]


def main() -> None:
    """Run the command."""
    # A scheduler's SIGTERM ends a command as Ctrl-C does, wherever training does not finish its step first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Workers are forked after the tokenizer has been used; this is what it would warn about.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run()
