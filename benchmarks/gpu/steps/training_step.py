"""What a whole training step with recording costs, against transformers' own Trainer, at Qwen3-0.6B's shape.

The claim is that recording every token costs nothing: the fused head saves at least what statistics, masks and metrics
take. So short trainings take turns, round by round, in one process, with the same batches, optimiser and random
weights; what is timed goes from the end of one step to the end of another, so that nothing beside a step is left out.
And the host must not wait for the device anywhere in our part of a step: a wait costs what the host could have queued
meanwhile, which on a fast device is most of a step. Waits are attributed to whose code called, by torch's own debug
mode, and counted once more by the profiler, ours less plain.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from benchmarks.gpu.protocol import Check, Found, Where, at_most, speed
from benchmarks.trainings import StepTimes, arguments, n_parameters, qwen3, release, sequences
from benchmarks.waits import Wait, counting_waits_on
from dynamics import DynamicsTrainer, EntroDrop, TokenRecorder
from dynamics.ops import linear_statistics
from dynamics.ops.row_statistics import HeadOptions
from dynamics.recipe.named_sizes import NAMED_SIZES

PLAIN, OURS, DROPPING, NOTHING = "plain Trainer", "recording", "recording, EntroDrop", "without statistics"


@dataclasses.dataclass(frozen=True)
class Scale:
    """The model and its batches; `rounds` of each kind where weights are float32 and where they are bfloat16."""

    size: str
    vocabulary: int
    block: int
    every: int
    steps: int
    rounds: tuple[int, int]
    changes: dict[str, Any]


_FULL = Scale("qwen3-0.6b", 151_936, block=1024, every=3, steps=11, rounds=(3, 2), changes={})
_TINY = Scale("nano", 512, block=32, every=1, steps=4, rounds=(1, 1), changes={"num_hidden_layers": 1})

# What the profiler calls the runtime's waits, and copies for which the host waits whatever it asked for.
_RUNTIME_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_PAGEABLE = "(Device -> Pageable)"


def run(where: Where) -> Found:
    """Time steps with float32 weights under autocast and with bfloat16 weights; count waits."""
    scale = _TINY if where.tiny else _FULL
    batch = _batch(where, scale)
    measured: dict[str, Any] = {
        "model": scale.size,
        "batch": [batch, scale.block],
        "steps between looks at the clock": scale.every,
    }
    # Speeds come last: where time is short, some of their rounds are missing, and no claim is.
    measured["host waits"], checks = _waits(Subject(where, scale, batch, torch.float32))
    where.keep(Found(measured, checks))
    given = {
        "float32 weights": (torch.float32, (PLAIN, OURS, DROPPING, NOTHING), scale.rounds[0]),
        "bfloat16 weights": (torch.bfloat16, (PLAIN, OURS, DROPPING), scale.rounds[1]),
    }
    for weights, (dtype, kinds, rounds) in given.items():
        subject = Subject(where, scale, batch, dtype)
        times, peaks = _in_turns(subject, kinds, rounds)
        measured[weights] = {
            "step, ms": {kind: 1e3 * statistics.median(times[kind]) for kind in kinds},
            "peak memory, GiB": peaks or "not shown: a CPU's memory is not counted by torch",
        }
        over = {kind: _ratio(times, kind, PLAIN) for kind in kinds if kind != PLAIN}
        measured[weights]["step over plain"] = over
        checks += [speed(f"{weights}: {kind}, step over plain", over[kind], 1.0, where) for kind in (OURS, DROPPING)]
        if NOTHING in kinds:
            share = _ratio(times, OURS, NOTHING) - 1
            checks.append(speed(f"{weights}: statistics, share of a step", share, 0.02, where))
        where.keep(Found(measured, checks))
    return Found(measured, checks)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is trained, the same each time."""

    where: Where
    scale: Scale
    batch: int
    weights: torch.dtype

    def trainer(self, kind: str, folder: Path, *callbacks: TrainerCallback, steps: int | None = None) -> Trainer:
        """Return a trainer of that kind, with a new model."""
        scale, device = self.scale, self.where.device
        model = qwen3(scale.size, scale.vocabulary, device=device, dtype=self.weights, **scale.changes)
        args = arguments(folder, self.batch, device, bf16=self.weights == torch.float32)
        train = sequences(self.batch * (steps or scale.steps), scale.block, scale.vocabulary, 0)
        make: Callable[..., Trainer] = Trainer
        if kind != PLAIN:
            recorder = None if kind == NOTHING else TokenRecorder(folder / "run", training_pass=True)
            methods = [EntroDrop(ratio=0.15)] if kind == DROPPING else []
            make = functools.partial(DynamicsTrainer, recorder=recorder, regularizers=methods)
        trainer = make(model, args, train_dataset=train, callbacks=list(callbacks))
        trainer.remove_callback(PrinterCallback)
        return trainer


def _batch(where: Where, scale: Scale) -> int:
    """Return the most sequences, up to 8, whose plain training surely fits.

    Per token some 18 bytes for each logit (bfloat16, float32, its logarithms, the gradient, one to spare) and 64 KiB of
    activations a layer; per weight 16 bytes.
    """
    if where.device != "cuda":
        return 2
    free, _ = torch.cuda.mem_get_info()
    token = 18 * scale.vocabulary + (1 << 16) * NAMED_SIZES[scale.size]["num_hidden_layers"]
    weights = 16 * n_parameters(scale.size, scale.vocabulary)
    return max(1, min(8, int((0.9 * free - weights) / (token * scale.block))))


# Time and memory. --------------------------------------------------------------------------------


def _in_turns(subject: Subject, kinds: tuple[str, ...], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of a step of each kind in each round, and on CUDA each kind's peak memory in GiB."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    peaks: dict[str, float] = {}
    for round_ in range(rounds):
        for kind in kinds[:: 1 if round_ % 2 else -1]:
            clock = StepTimes(subject.scale.every)
            release()
            if subject.where.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with tempfile.TemporaryDirectory() as folder, _told_to_keep(kind):
                subject.trainer(kind, Path(folder), clock).train()
            times[kind].append(clock.median())
            if subject.where.device == "cuda":
                peaks[kind] = torch.cuda.max_memory_allocated() / 2**30
    release()
    return times, peaks


def _told_to_keep(kind: str) -> AbstractContextManager[Any]:
    """Where no statistics are wanted, have the head keep none in training; its check needs them."""

    def options(**given: Any) -> HeadOptions:
        return HeadOptions(**given, statistics=not torch.is_grad_enabled())

    return nullcontext() if kind != NOTHING else mock.patch.object(linear_statistics, "HeadOptions", options)


def _ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median over rounds of one kind's time over another's."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


# Waits. ------------------------------------------------------------------------------------------


class Window(TrainerCallback):
    """Opens a context at one step's end and closes it some steps later, so that whole periods lie in it."""

    def __init__(self, context: Callable[[], AbstractContextManager[Any]], steps: int) -> None:
        self._context = context
        self._steps = steps
        self._stack = ExitStack()
        self.given: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            self.given = self._stack.enter_context(self._context())
        elif state.global_step == 2 + self._steps:
            self._stack.close()


def _waits(subject: Subject, steps: int = 2) -> tuple[dict[str, Any], list[Check]]:
    """Return what was counted a step, and the check that none is ours."""
    device = subject.where.device
    kinds = (PLAIN, OURS, DROPPING)
    found = {kind: _window(subject, kind, functools.partial(counting_waits_on, device), steps) for kind in kinds}
    ours = {kind: [wait for wait in found[kind] if wait.ours] for kind in kinds}
    measured: dict[str, Any] = {
        "by torch's debug mode" if device == "cuda" else "by operation": {
            "a step": {kind: len(found[kind]) / steps for kind in kinds},
            "ours a step": {kind: len(ours[kind]) / steps for kind in kinds},
            "places": {kind: _places(found[kind]) for kind in kinds},
        }
    }
    checks = [
        at_most(f"{kind}: host waits of ours a step", len(ours[kind]) / steps, 0) for kind in kinds if kind != PLAIN
    ]
    if device != "cuda":
        measured["by the profiler"] = "not shown: a CPU has no runtime to wait for"
        return measured, checks
    profile = functools.partial(torch.profiler.profile, activities=[torch.profiler.ProfilerActivity.CUDA])
    profiles = {kind: _window(subject, kind, profile, steps).key_averages() for kind in kinds}
    if not any("LaunchKernel" in event.key for event in profiles[PLAIN]):
        measured["by the profiler"] = "not shown: it recorded no call of the CUDA runtime"
        return measured, checks
    counts = {kind: runtime_waits(events) for kind, events in profiles.items()}
    measured["by the profiler"] = {
        kind: {name: n / steps for name, n in found.items()} for kind, found in counts.items()
    }
    for kind in (OURS, DROPPING):
        more = (sum(counts[kind].values()) - sum(counts[PLAIN].values())) / steps
        checks.append(at_most(f"{kind}: host waits a step by the profiler, less plain's", more, 0))
    return measured, checks


def _window(subject: Subject, kind: str, context: Callable[[], AbstractContextManager[Any]], steps: int) -> Any:
    """Return what a context gave that was open for some steps of a training."""
    window = Window(context, steps)
    release()
    with tempfile.TemporaryDirectory() as folder:
        subject.trainer(kind, Path(folder), window, steps=2 + steps).train()
    return window.given


def _places(waits: list[Wait]) -> dict[str, int]:
    return dict(Counter(f"{wait.op} at {' < '.join(wait.stack[:3])}" for wait in waits).most_common(20))


def runtime_waits(events: Iterable[Any]) -> dict[str, int]:
    """Return how often each waiting call of the CUDA runtime, and each copy to pageable memory, was recorded.

    Parameters
    ----------
    events : iterable
        What `key_averages` of a profile returns: each with a `key` and a `count`.
    """
    return {event.key: event.count for event in events if event.key in _RUNTIME_WAITS or _PAGEABLE in event.key}
