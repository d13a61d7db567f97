"""Models that are measured next to the trained one, such as weight averages: their run folders and configs."""

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
    """Return the run folder of a method's model. It is next to the run of the trained model in `output`."""
    assert method.beside is not None, "one of methods_beside"
    return run_beside(output, method.beside)


def config_beside(config: Mapping[str, Any], method: Regularizer) -> dict[str, Any]:
    """Return the config of that run. Its hash differs from that of the trained model's run, so epochs cannot mix."""
    return {**config, "averaged": method.settings.model_dump(mode="json")}


def facts_beside(output: Path, name: str, method: Regularizer) -> dict[str, Any]:
    """Return what the manifest of that run says about its origin: the trained run, and the kind of average."""
    # A relative path, so that both folders can be moved together.
    path = Path(os.path.relpath(output, output_beside(output, method))).as_posix()
    return {"averaged": {"run": name, "path": path, **method.settings.model_dump(mode="json")}}
