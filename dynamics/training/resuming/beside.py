"""Models measured beside the trained one: where the runs of theirs lie, and what stands for their recipes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamics.records.reader import run_beside
from dynamics.regularizers.base import Regularizer


def methods_beside(regularizers: Sequence[Regularizer]) -> list[Regularizer]:
    """Return the methods that keep a model of their own."""
    return [method for method in regularizers if method.beside is not None]


def output_beside(output: Path, method: Regularizer) -> Path:
    """Return where the run of a method's model lies, beside that of the trained model in `output`."""
    assert method.beside is not None, "one of methods_beside"
    return run_beside(output, method.beside)


def config_beside(config: Mapping[str, Any], method: Regularizer) -> dict[str, Any]:
    """Return what stands for the recipe of that run, so that its hash binds no epoch of the trained model's."""
    return {**config, "averaged": method.settings.model_dump(mode="json")}


def facts_beside(output: Path, name: str, method: Regularizer) -> dict[str, Any]:
    """Return what the manifest of that run says of it: from which run it is, and what kind of mean."""
    # Relative, so that both may be moved together.
    path = Path(os.path.relpath(output, output_beside(output, method))).as_posix()
    return {"averaged": {"run": name, "path": path, **method.settings.model_dump(mode="json")}}
