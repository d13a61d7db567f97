"""Small real runs: a nano model on a few sections of the language reference."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from dynamics.recipe.settings import Recipe
from dynamics.records.reader import Run, open_run
from dynamics.reporting import Reporter
from dynamics.validation import validated


def tiny_recipe(**changes: Any) -> Recipe:
    """A recipe that runs in a second or two."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "corpus": {"source": "builtin:python-reference", "documents": 16},
        "tokenizer": {"train": {"vocab_size": 300}},
        "model": {"name": "nano"},
        "block_size": 32,
        "validation": {"fraction": 0.3},
        "recording": {"train_sequences": 40, "validation_sequences": 30},
        "training": {"num_train_epochs": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
    }
    return validated(Recipe, {**fields, **changes}, where="tiny")


def quiet() -> Reporter:
    """A reporter that writes nowhere."""
    return Reporter(Console(file=io.StringIO()))


def run_tiny(path: Path, **changes: Any) -> Run:
    """Train a tiny recipe into `path` and open it."""
    from dynamics.training.recipe_run import train

    train(tiny_recipe(**changes), path, reporter=quiet())
    return open_run(path)
