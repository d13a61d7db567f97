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
from dynamics.ops.chunking import rows_per_chunk

DTYPE = torch.bfloat16
CHUNK_ROWS = (2048, 4096, 8192)
FLOOR, OURS, WITHOUT = "products", "fused", "fused, loss only"
# No size, and no competitor, is begun after so many seconds: the rest of the time is for what is under way.
ENOUGH_SECONDS = 60.0
NOT_TINY = "TRL chunked"

Shape = tuple[int, int, int]  # rows, hidden size, vocabulary
Rows = dict[str, dict[str, Any]]  # what is told of each competitor


def run(where: Where) -> Found:
    """Time every competitor and measure its peak memory, ours at all sizes and then others."""
    begin = time.monotonic()
    shapes: list[Shape] = [(8192, 4096, 151936), (8192, 1024, 151936), (16384, 4096, 151936), (16384, 1024, 151936)]
    if where.tiny:
        shapes = [(96, 32, 512)]
    ours = head.COMPETITORS | {f"fused, chunks of {rows:,}": functools.partial(in_chunks, rows) for rows in CHUNK_ROWS}
    sizes: dict[Shape, Rows] = {}
    pairs: Rows = {}
    with route.of_accelerators(where):
        for shape in shapes:
            sizes[shape], pairs[_named(shape)] = _measure(where, shape, ours, begin)
        asked = {name: rival for name, rival in head.RIVALS.items() if not (where.tiny and name == NOT_TINY)}
        rivals, not_run = head.that_run(asked, where.device, DTYPE)
        if where.tiny:
            not_run[NOT_TINY] = "its import takes longer than all the rest at tiny sizes"
        for shape in shapes:
            try:
                found, _ = _measure(where, shape, {OURS: head.fused} | rivals, begin)
            except Exception as error:  # noqa: BLE001 (the device's context is gone: ours are kept)
                found = {name: {"not run": head.reason(error)} for name in rivals}
            sizes[shape] |= {
                name if name in rivals else f"{name}, beside libraries": row for name, row in found.items()
            }
            sizes[shape] |= {name: {"not run": why} for name, why in not_run.items()}
        chosen = rows_per_chunk(shapes[0][2], DTYPE, where.torch_device)
    measured: dict[str, Any] = timing.versions(head.RIVAL_PACKAGES) | {"rows in a chunk of `fused`": chosen}
    measured |= {_named(shape): rows for shape, rows in sizes.items()}
    measured["operator over operator without statistics"] = pairs
    checks = [check for shape in shapes for check in _checks(where, shape, sizes[shape], pairs[_named(shape)])]
    return Found(measured, checks)


def in_chunks(rows: int, h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
    linear_token_statistics(h, w, y, chunk_rows=rows).total_loss.backward()


def _named(shape: Shape) -> str:
    return "N = {:,}, H = {:,}, V = {:,}".format(*shape)


def _checks(where: Where, shape: Shape, rows: Rows, pair: dict[str, Any]) -> list[Check]:
    size, ours = _named(shape), rows[OURS]
    checks = [holds(f"{size}: the operator runs", ours.get("not run", True), "not run" not in ours)]
    if "over products" in ours and (where.tiny or shape[1] == 4096):
        checks.append(speed(f"{size}: operator over three bare products", ours["over products"], 1.3, where))
    if "median" in pair:
        checks.append(speed(f"{size}: operator over operator without statistics", pair["median"], 1.02, where))
    return checks


def _measure(
    where: Where, shape: Shape, competitors: dict[str, Callable[..., Any]], begin: float
) -> tuple[Rows, dict[str, Any]]:
    """Return peak memory and time of competitors at one size, and of ours with statistics over ours without."""
    late = f"begun too late: {ENOUGH_SECONDS:.0f} s were over"
    if time.monotonic() - begin > ENOUGH_SECONDS:
        return {name: {"not run": late} for name in competitors}, {"not run": late}
    rounds = 3 if where.tiny else 5
    tensors = head.inputs(*shape, where.device, DTYPE)

    def cleared(function: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> None:
            tensors[0].grad = tensors[1].grad = None
            function(*tensors)

        return run

    rows: Rows = {}
    functions = {}
    for name, function in competitors.items():
        if time.monotonic() - begin > ENOUGH_SECONDS:
            rows[name] = {"not run": late}
            continue
        tensors[0].grad = tensors[1].grad = None  # the last one's would count as there before
        try:
            peak = timing.peak_memory(lambda function=function: cleared(function), where.device)
        except Exception as error:  # noqa: BLE001 (whatever another library raises, or torch without memory)
            rows[name] = {"not run": head.reason(error)}
            _free_all(where, tensors)
        else:
            rows[name] = {"peak, GiB above what is there": peak / 2**30}
            functions[name] = cleared(function)
    functions[FLOOR] = head.bare_products(*tensors)
    seconds = timing.interleaved(functions, rounds)
    for name, ratio in timing.ratios(seconds, FLOOR).items():
        spread = {f"ms, {what}": 1e3 * value for what, value in timing.spread(seconds[name]).items()}
        rows[name] = spread | {"over products": ratio["median"]} | rows.get(name, {})
    if not {OURS, WITHOUT} <= set(functions):
        return rows, {}
    both = timing.interleaved({name: functions[name] for name in (OURS, WITHOUT)}, 3 * rounds)
    return rows, dict(timing.ratios(both, WITHOUT)[OURS])


def _free_all(where: Where, tensors: head.Tensors) -> None:
    """Free what a competitor that failed has left."""
    tensors[0].grad = tensors[1].grad = None
    gc.collect()
    if where.device == "cuda":
        torch.cuda.empty_cache()
