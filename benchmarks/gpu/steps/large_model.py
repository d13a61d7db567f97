"""How far Qwen3-8B's shape goes on one device with recording, and how far without.

Weights, gradients and AdamW's states are bfloat16, activations are computed again in the backward pass, and there are
as many layers as fit. Then the batch grows fourfold, until memory runs out: whole logits of 151,936 columns are what a
plain Trainer holds and the fused head does not. Nothing is promised here but that it runs; ratios are told.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from benchmarks.gpu.protocol import Check, Found, Where, holds
from benchmarks.trainings import CHECKPOINTING, StepTimes, arguments, n_parameters, qwen3, release, sequences
from dynamics import DynamicsTrainer, EntroDrop, TokenRecorder
from dynamics.recipe.named_sizes import NAMED_SIZES

PLAIN, OURS = "plain Trainer", "recording, EntroDrop"

# Bytes a weight: itself, its gradient, and two states of AdamW.
_WEIGHT_BYTES = 8
# Bytes a logit of a plain Trainer: bfloat16, float32, the latter's logarithms and their gradient.
_LOGIT_BYTES = 14
# Kernels, libraries, and what the allocator cannot use.
_SPARE = 4 << 30


@dataclasses.dataclass(frozen=True)
class Scale:
    """The shape, and the sequences a step with which growing begins and ends."""

    size: str
    vocabulary: int
    block: int
    first: int
    last: int


_FULL = Scale("qwen3-8b", 151_936, block=1024, first=1, last=16)
_TINY = Scale("nano", 512, block=32, first=2, last=2)


def run(where: Where) -> Found:
    """Train both at growing batches, until neither goes on."""
    scale = _TINY if where.tiny else _FULL
    layers = 1 if where.device == "cpu" else layers_that_fit(scale, torch.cuda.mem_get_info()[0])
    measured: dict[str, Any] = {
        "model": scale.size,
        "layers": layers,
        "parameters": n_parameters(scale.size, scale.vocabulary, layers=layers),
        "tokens a sequence": scale.block,
        "by sequences a step": {},
    }
    checks: list[Check] = []
    going = [PLAIN, OURS]
    batch = scale.first
    while going and batch <= scale.last:
        found = {kind: one_training(kind, scale, layers, batch, where) for kind in going}
        measured["by sequences a step"][str(batch)] = found
        if all(found.get(kind) for kind in (PLAIN, OURS)):
            measured[f"step over plain, {batch} sequences"] = found[OURS]["step, s"] / found[PLAIN]["step, s"]
        for kind, told in found.items():
            if told is None:
                going.remove(kind)
            elif batch == scale.first:
                loss = told["loss, nats"]
                checks.append(holds(f"large model: {kind}: finite loss", f"{loss:.2f} nats", math.isfinite(loss)))
        where.keep(Found(measured, checks))
        batch *= 4
    for kind in (PLAIN, OURS):
        largest = [int(n) for n, told in measured["by sequences a step"].items() if told.get(kind)]
        measured[f"{kind}: most sequences a step"] = max(largest, default=0)
        if not largest:
            checks.append(holds(f"large model: {kind}: a step fits", False))
    if where.device == "cpu":
        measured["peak memory, and what runs out of it first"] = "not shown: a CPU's memory is not counted by torch"
    return Found(measured, checks)


def layers_that_fit(scale: Scale, free: int) -> int:
    """Return the most layers, up to the shape's own, with which a plain step of the first batch fits in `free` bytes.

    8 bytes a weight, 14 a logit of the batch, and 4 GiB to spare.
    """
    whole = NAMED_SIZES[scale.size]["num_hidden_layers"]
    logits = scale.first * scale.block * scale.vocabulary * _LOGIT_BYTES
    tables = n_parameters(scale.size, scale.vocabulary, layers=0)
    layer = n_parameters(scale.size, scale.vocabulary, layers=1) - tables
    return max(1, min(whole, int(((free - _SPARE - logits) / _WEIGHT_BYTES - tables) // layer)))


class Losses(TrainerCallback):
    """Keeps the mean loss that the Trainer tells at the end."""

    loss = math.nan

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.loss = (logs or {}).get("train_loss", self.loss)


def one_training(kind: str, scale: Scale, layers: int, batch: int, where: Where) -> dict[str, float] | None:
    """Train three steps; return seconds of the last, the loss and, on CUDA, peak memory; None if memory ran out."""
    release()
    if where.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock, losses = StepTimes(), Losses()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _trainer(kind, scale, layers, batch, where, Path(folder), [clock, losses]).train()
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return None
    finally:
        release()
    found = {"step, s": clock.median(), "loss, nats": losses.loss}
    if where.device == "cuda":
        found["peak memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def ran_out(error: RuntimeError) -> bool:
    """Whether the device's memory ran out: torch's allocator says so, or cuBLAS, or who loads a kernel, in words."""
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in words)


def _trainer(
    kind: str, scale: Scale, layers: int, batch: int, where: Where, folder: Path, callbacks: list[TrainerCallback]
) -> Trainer:
    model = qwen3(scale.size, scale.vocabulary, device=where.device, dtype=torch.bfloat16, num_hidden_layers=layers)
    args = arguments(folder, batch, where.device, bf16=False, learning_rate=1e-5, **{CHECKPOINTING: True})
    train = sequences(3 * batch, scale.block, scale.vocabulary, 0)
    if kind == PLAIN:
        trainer = Trainer(model, args, train_dataset=train, callbacks=callbacks)
    else:
        trainer = DynamicsTrainer(
            model,
            args,
            train_dataset=train,
            callbacks=callbacks,
            recorder=TokenRecorder(folder / "run", training_pass=True),
            regularizers=[EntroDrop(ratio=0.15)],
        )
    trainer.remove_callback(PrinterCallback)
    return trainer
