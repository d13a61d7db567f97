"""The state of the loop in a checkpoint: the current pass, what methods have learned, and what the pass has seen."""

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

#: Files in a checkpoint's folder: facts of the whole training, the tables of each rank, and each method's tensors.
STATE_FILE = "dynamics.json"
_TABLES = "dynamics-{rank:05d}-of-{world:05d}.safetensors"
_OF_METHOD = "dynamics-{key}.safetensors"
# Written by the first version, and only at the end of epochs.
_FIRST_VERSION = "regularizers.json"


@dataclass(frozen=True, kw_only=True)
class LoopState:
    """The loop's state in a checkpoint.

    Attributes
    ----------
    facts : mapping
        ``epoch``, ``under_way``, ``step``, ``losses``, ``methods``.
    parts : list of mapping of str to ndarray
        The tables that this rank loads.
    tensors : mapping of str to mapping of str to Tensor
        Tensors by the key of the method that they belong to.
    """

    facts: Mapping[str, Any]
    parts: list[Mapping[str, np.ndarray]]
    tensors: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def recorded(self) -> int:
        """The last epoch that was recorded before the checkpoint."""
        return int(self.facts["epoch"]) - bool(self.facts["under_way"])

    def share_visited(self, predicted: np.ndarray) -> float:
        """Return the share of the sequences with predicted tokens that the current pass had visited.

        Parameters
        ----------
        predicted : ndarray of bool, shape (S, P)
        """
        tables = PassTables(predicted.shape, dropped=False, values=False)
        tables.load_state(self.parts)
        return tables.share_visited(predicted)


def write_loop_state(loop: TrainingLoop, folder: Path) -> None:
    """Write the loop's state into a checkpoint's folder. Every rank must call it."""
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
        The checkpoint's folder.
    step : int, optional
        The step after which the trainer resumes. None accepts the step in the folder.
    epoch : float
        Passes over the data at that step.
    stateful : bool
        Whether a method has state that must be restored.

    Raises
    ------
    InputError
        There is no state, it belongs to another step, or tables or tensors are missing.
    """
    remedy = "resume from a checkpoint that was written with the same parts attached, or start from the beginning"
    file = folder / STATE_FILE
    if not file.is_file():
        return _without(folder, step=step, epoch=epoch, stateful=stateful, remedy=remedy)
    facts = json.loads(file.read_text())
    if step is not None and facts["step"] != step:
        raise InputError(f"{file} belongs to step {facts['step']}, but the trainer resumes after {step}; {remedy}")
    names = [_TABLES.format(rank=r, world=facts["world"]) for r in range(facts["world"])]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}, which hold the state of the current pass; {remedy}")
    # Each table is loaded by one rank, however many ranks there are now.
    mine = names[rank() :: world_size()]
    parts: list[Mapping[str, np.ndarray]] = [load_file(folder / name) for name in mine]
    tensors = {key: _read_tensors(folder, key, step=facts["step"], remedy=remedy) for key in facts.get("tensors", [])}
    return LoopState(facts=facts, parts=parts, tensors=tensors)


def _read_tensors(folder: Path, key: str, *, step: int, remedy: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a method, on the CPU."""
    file = folder / _OF_METHOD.format(key=key)
    try:
        with safe_open(file, framework="pt") as opened:
            found = (opened.metadata() or {}).get("step")
        tensors = load_tensors(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}, which holds the state of {key}, cannot be read ({error}); {remedy}") from None
    if found != str(step):
        raise InputError(f"{file} belongs to step {found}, but its checkpoint to step {step}; {remedy}")
    return tensors


def _without(folder: Path, *, step: int | None, epoch: float, stateful: bool, remedy: str) -> LoopState:
    """Return the state at the end of an epoch for which no state file, or only the first version's, exists."""
    first = folder / _FIRST_VERSION
    if step is None or epoch != round(epoch) or (stateful and not first.is_file()):
        raise InputError(f"{folder} has no {STATE_FILE}, which holds the state of the current pass; {remedy}")
    methods = json.loads(first.read_text()) if first.is_file() else {}
    facts: dict[str, Any] = {"epoch": round(epoch), "under_way": False, "step": step, "losses": [], "methods": methods}
    return LoopState(facts=facts, parts=[])
