"""What does the operator cost, in time and memory, beside plain heads and other libraries' operators?

In bfloat16 at Qwen's vocabulary and two hidden sizes. The floor is three products and nothing else; the operator with
all its statistics should stay within 1.3 of it. Which rows of logits to hold at a time was never tuned on a GPU, so it
is tried. Competitors are those of `benchmarks.head`, run in turn. One that is missing or runs out of memory is told by
name. Other libraries come last, since a kernel of theirs that fails would take the device's context with it.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import head, timing
from benchmarks.gpu import route
from benchmarks.gpu.protocol import Check, Found, Where, holds, speed
from dynamics.ops import linear_token_statistics

DTYPE = torch.bfloat16
CHUNK_ROWS = (2048, 4096, 8192)
FLOOR, OURS, WITHOUT = "products", "fused", "fused, loss only"
# No size, and no competitor, is begun after so many seconds: the rest of the time is for what is under way.
ENOUGH_SECONDS = 60.0
LATE = f"begun too late: {ENOUGH_SECONDS:.0f} s were over"
NOT_TINY = "TRL chunked"

Shape = tuple[int, int, int]  # rows, hidden size, vocabulary


def run(where: Where) -> Found:
    """Time every competitor and measure its peak memory, ours at all sizes and then others."""
    begin = time.monotonic()
    shapes: list[Shape] = [(8192, 4096, 151936), (8192, 1024, 151936), (16384, 4096, 151936), (16384, 1024, 151936)]
    if where.tiny:
        shapes = [(96, 32, 512)]
    ours = head.COMPETITORS | {f"fused, chunks of {rows:,}": functools.partial(in_chunks, rows) for rows in CHUNK_ROWS}
    measured: dict[str, Any] = {"libraries": timing.versions(head.RIVAL_PACKAGES), "sizes": {}}
    checks: list[Check] = []
    with route.of_accelerators(where):
        for shape in shapes:
            found = measured["sizes"][_named(shape)] = _measure(where, shape, ours, begin, pair=True)
            checks += _checks(where, shape, found)
        asked = {name: rival for name, rival in head.RIVALS.items() if not (where.tiny and name == NOT_TINY)}
        rivals, measured["not run"] = head.that_run(asked, where.device, DTYPE)
        if where.tiny:
            measured["not run"][NOT_TINY] = "its import takes longer than all the rest at tiny sizes"
        for shape in shapes:
            found = _measure(where, shape, {OURS: head.fused} | rivals, begin)
            measured["sizes"][_named(shape)]["libraries"] = found
    return Found(measured, checks)


def in_chunks(rows: int, h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
    linear_token_statistics(h, w, y, chunk_rows=rows).total_loss.backward()


def _named(shape: Shape) -> str:
    return "N = {:,}, H = {:,}, V = {:,}".format(*shape)


def _checks(where: Where, shape: Shape, found: dict[str, Any]) -> list[Check]:
    if "left out" in found:
        return []
    size, ratios = _named(shape), found["over products"]
    checks = [holds(f"{size}: the operator runs", OURS in ratios)]
    if OURS in ratios and (where.tiny or shape[1] == 4096):
        checks.append(speed(f"{size}: operator over three bare products", ratios[OURS]["median"], 1.3, where))
    if "fused over fused, loss only" in found:
        value = found["fused over fused, loss only"]["median"]
        checks.append(speed(f"{size}: operator over operator without statistics", value, 1.02, where))
    return checks


def _measure(
    where: Where, shape: Shape, competitors: dict[str, Callable[..., Any]], begin: float, *, pair: bool = False
) -> dict[str, Any]:
    """Peak memory and time of competitors at one size; with `pair`, more rounds of ours with and without statistics."""
    if time.monotonic() - begin > ENOUGH_SECONDS:
        return {"left out": LATE}
    rounds = 3 if where.tiny else 5
    tensors = head.inputs(*shape, where.device, DTYPE)

    def cleared(function: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> None:
            tensors[0].grad = tensors[1].grad = None
            function(*tensors)

        return run

    functions, peaks, not_run = {}, {}, {}
    for name, function in competitors.items():
        if time.monotonic() - begin > ENOUGH_SECONDS:
            not_run[name] = LATE
            continue
        try:
            peaks[name] = timing.peak_memory(lambda function=function: cleared(function), where.device)
            functions[name] = cleared(function)
        except Exception as error:  # noqa: BLE001 (whatever another library raises, or torch without memory)
            not_run[name] = head.reason(error)
        _tidy(where, tensors)
    functions[FLOOR] = head.bare_products(*tensors)
    seconds = timing.interleaved(functions, rounds)
    rows, hidden, vocabulary = shape
    found: dict[str, Any] = {
        "operations": 6 * rows * hidden * vocabulary,
        "seconds": {name: timing.spread(values) for name, values in seconds.items()},
        "over products": timing.ratios(seconds, FLOOR),
        "peak bytes above what is there": peaks,
        "not run": not_run,
    }
    if pair and {OURS, WITHOUT} <= set(functions):
        if leaves_statistics_out(where):
            both = timing.interleaved({name: functions[name] for name in (OURS, WITHOUT)}, 3 * rounds)
            found["fused over fused, loss only"] = timing.ratios(both, WITHOUT)[OURS]
        else:
            found["statistics"] = "the row kernel computes them in the reading that the loss needs, asked or not"
    return found


def leaves_statistics_out(where: Where) -> bool:
    """Whether the operator that is told to keep no statistics computes none here."""
    found = head.fused_loss_only(*head.inputs(16, 16, 64, where.device, DTYPE))
    return bool(found.entropy.isnan().all())


def _tidy(where: Where, tensors: head.Tensors) -> None:
    """Free what a competitor left, one that failed most of all."""
    tensors[0].grad = tensors[1].grad = None
    gc.collect()
    if where.device == "cuda":
        torch.cuda.empty_cache()
