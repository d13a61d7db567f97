"""What a checkpoint keeps of the loop: the pass under way, what methods have learned, and what the pass has seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.records.tensors import write_tensors
from dynamics.training.environment.processes import rank, wait_for_all, world_size
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.loop.training_pass import PassTables

#: In a checkpoint's folder: facts of the whole training, the tables of each process, and the tensors of a method.
STATE_FILE = "dynamics.json"
_TABLES = "dynamics-{rank:05d}-of-{world:05d}.safetensors"
_OF_METHOD = "dynamics-{key}.safetensors"
# What the first version wrote, at the end of epochs alone.
_FIRST_VERSION = "regularizers.json"


@dataclass(frozen=True, kw_only=True)
class LoopState:
    """What a checkpoint holds of the loop.

    Attributes
    ----------
    facts : mapping
        ``epoch``, ``under_way``, ``step``, ``losses``, ``methods``.
    parts : list of mapping of str to ndarray
        What this process takes up of the tables.
    tensors : mapping of str to mapping of str to Tensor
        By the key of the method that must have them.
    """

    facts: Mapping[str, Any]
    parts: list[Mapping[str, np.ndarray]]
    tensors: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def recorded(self) -> int:
        """The last epoch whose records belong to the past of the checkpoint."""
        return int(self.facts["epoch"]) - bool(self.facts["under_way"])

    def share_visited(self, predicted: np.ndarray) -> float:
        """Return the share of the sequences with predicted tokens that the pass under way had seen.

        Parameters
        ----------
        predicted : ndarray of bool, shape (n_sequences, n_positions)
        """
        tables = PassTables(predicted.shape, dropped=False, values=False)
        tables.load_state(self.parts)
        return tables.share_visited(predicted)


def write_loop_state(loop: TrainingLoop, folder: Path) -> None:
    """Write the loop's state into a checkpoint's folder; every process calls it."""
    facts, tables = loop.state()
    name = _TABLES.format(rank=rank(), world=world_size())
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(_TABLES.format(rank=rank(), world=0).replace("00000.safetensors", "*.safetensors")):
        old.unlink()
    if tables:
        write_tensors(folder / name, tables, {"step": loop.step})
    if rank() == 0:
        held = loop.methods.tensors()
        for key, tensors in held.items():
            file = folder / _OF_METHOD.format(key=key)
            aside = file.with_name(file.name + schema.TEMPORARY_SUFFIX)
            save_tensors(tensors, aside, metadata={"step": str(loop.step)})
            os.replace(aside, file)
        facts = {"format_version": schema.FORMAT_VERSION, "world": world_size() if tables else 0, **facts}
        if held:
            facts["tensors"] = sorted(held)
        schema.atomic_write_json(folder / STATE_FILE, facts)
    wait_for_all()


def read_loop_state(folder: Path, *, step: int | None, epoch: float, stateful: bool) -> LoopState:
    """Read what `write_loop_state` wrote.

    Parameters
    ----------
    folder : Path
        Of the checkpoint.
    step : int, optional
        That the trainer resumes after; None takes what the folder holds.
    epoch : float
        Passes over the data at that step.
    stateful : bool
        Whether a method must have its own state.

    Raises
    ------
    InputError
        There is none, or it is another step's, or tables or tensors are missing.
    """
    remedy = "resume from a checkpoint that was written while the same parts were attached, or start anew"
    file = folder / STATE_FILE
    if not file.is_file():
        return _without(folder, step=step, epoch=epoch, stateful=stateful, remedy=remedy)
    facts = json.loads(file.read_text())
    if step is not None and facts["step"] != step:
        raise InputError(f"{file} is of step {facts['step']}, and the trainer resumes after step {step}; {remedy}")
    names = [_TABLES.format(rank=r, world=facts["world"]) for r in range(facts["world"])]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} has lost {', '.join(missing)}, in which the pass under way is kept; {remedy}")
    # Each table is taken up by one process, whatever their number is now.
    mine = names[rank() :: world_size()]
    parts: list[Mapping[str, np.ndarray]] = [load_file(folder / name) for name in mine]
    tensors = {key: _read_tensors(folder, key, step=facts["step"], remedy=remedy) for key in facts.get("tensors", [])}
    return LoopState(facts=facts, parts=parts, tensors=tensors)


def _read_tensors(folder: Path, key: str, *, step: int, remedy: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a method, on the host."""
    file = folder / _OF_METHOD.format(key=key)
    try:
        with safe_open(file, framework="pt") as opened:
            found = (opened.metadata() or {}).get("step")
        tensors = load_tensors(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}, which holds what {key} has learned, cannot be read ({error}); {remedy}") from None
    if found != str(step):
        raise InputError(f"{file} is of step {found}, and the checkpoint beside it of step {step}; {remedy}")
    return tensors


def _without(folder: Path, *, step: int | None, epoch: float, stateful: bool, remedy: str) -> LoopState:
    """Return the state at the end of an epoch of which nothing, or the first version's file, was kept."""
    first = folder / _FIRST_VERSION
    if step is None or epoch != round(epoch) or (stateful and not first.is_file()):
        raise InputError(f"{folder} has no {STATE_FILE}, in which the pass under way is kept; {remedy}")
    methods = json.loads(first.read_text()) if first.is_file() else {}
    facts: dict[str, Any] = {"epoch": round(epoch), "under_way": False, "step": step, "losses": [], "methods": methods}
    return LoopState(facts=facts, parts=[])
