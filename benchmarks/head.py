"""The fused head against plain and naive ones: time in turns, peak memory in processes of their own.

    python -m benchmarks.head --threads 1
    python -m benchmarks.head --threads 1 --quick    # a minute, into build/benchmarks: does it work?

- `plain`: linear, cross_entropy, backward: what training needs, and no statistics.
- `naive`: the same, and entropy and argmax from the logits.
- `fused`: linear_token_statistics and backward, by the route that this machine chose (`dynamics.ops.routes`).
- `fused, onednn` and `fused, mm`: the same by either route, where there are two.
- `fused, loss only`: the same operator told to keep no statistics: what recording adds.
- `products`: the three products alone, by torch.mm, into memory that is there already: the floor of `plain`.
- `products, fused`: the same by the routines that `fused` uses, chunk by chunk: the floor of `fused`.
- rivals, where they are installed and run: torch's linear_cross_entropy (loss alone), TRL's chunked function (loss,
  entropy, argmax), Liger's linear_cross_entropy (loss alone, GPUs) and its scaled one (loss, entropy; any device), and
  cut-cross-entropy (loss alone, GPUs; it leaves out gradients below what half precision resolves).
  `pip install -c constraints.txt -e '.[benchmarks]'` installs all but the last.
- `validation`: forward alone, statistics included, over linear and cross_entropy.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import timing
from dynamics.ops import linear_statistics, routes
from dynamics.ops.chunking import rows_per_chunk, spans
from dynamics.ops.products import Route, accumulate_outer_, has_onednn, hidden_product, logits_product, weight_slices
from dynamics.ops.row_statistics import HeadOptions

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(rows: int, hidden: int, vocabulary: int, device: str, dtype: torch.dtype) -> Tensors:
    """Hidden states and a weight at the scale of a trained head (logits of a few units), and targets."""
    generator = torch.Generator(device).manual_seed(0)
    h = torch.randn(rows, hidden, device=device, generator=generator)
    w = torch.randn(vocabulary, hidden, device=device, generator=generator) * (3 / hidden**0.5)
    y = torch.randint(vocabulary, (rows,), device=device, generator=generator)
    return h.to(dtype).requires_grad_(), w.to(dtype).requires_grad_(), y


def plain(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
    F.cross_entropy(F.linear(h, w), y).backward()


def naive(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    logits = F.linear(h, w)
    loss = F.cross_entropy(logits, y)
    with torch.no_grad():
        log_p = torch.log_softmax(logits, -1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        correct = logits.argmax(-1) == y
        token_loss = -log_p.gather(1, y[:, None])[:, 0]
    loss.backward()
    return token_loss, entropy, correct


def fused(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    result = linear_statistics.linear_token_statistics(h, w, y)
    result.total_loss.backward()
    return result


def fused_loss_only(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    static = linear_statistics._Static(None, HeadOptions(statistics=False), -100, None, h.dtype)
    outputs = linear_statistics._LinearTokenStatistics.apply(h, w, None, y, static)
    result = linear_statistics.LinearTokenStatistics(*outputs)
    result.total_loss.backward()
    return result


def fused_by(route: Route, h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    with routes.forced(route):
        return fused(h, w, y)


@torch.no_grad()
def fused_products(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    route = routes.head_route(w.shape[1], len(w), w.dtype, w.device)
    slices = weight_slices(w, route)
    grad = torch.empty_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
    logits = factor = None
    for start, stop in spans(len(h), rows_per_chunk(len(w), h.dtype, h.device)):
        logits = None
        logits = logits_product(h[start:stop], slices, None, route)
        if logits.dtype != h.dtype:  # one cast for all chunks: what is in it does not matter to the time
            factor = logits.to(h.dtype) if factor is None else factor
            logits = factor[: stop - start]
        hidden_product(logits, w, route)
        accumulate_outer_(grad, logits, h[start:stop], route, first=start == 0)
    return grad


def bare_products(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
    """The products with their outputs allocated beforehand."""
    h, w = h.detach(), w.detach()
    logits, grad_h, grad_w = h.new_empty(len(h), len(w)), torch.empty_like(h), torch.empty_like(w)

    def run() -> None:
        torch.mm(h, w.t(), out=logits)
        torch.mm(logits, w, out=grad_h)
        torch.mm(logits.t(), h, out=grad_w)

    return run


COMPETITORS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "naive": naive,
    "fused": fused,
    "fused, loss only": fused_loss_only,
    "products, fused": fused_products,
}


def torch_linear_cross_entropy(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
    F.linear_cross_entropy(h, w, y).backward()


def trl_chunked(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    outputs = ("log_probs", "entropy", "is_top1")
    found = _ChunkedLogProbFunction.apply(h, w, None, y, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, outputs)
    (-found[0].mean()).backward()
    return found


def cut_cross_entropy(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    from cut_cross_entropy import linear_cross_entropy

    loss = linear_cross_entropy(h, w, y)
    loss.backward()
    return loss


def liger_fused(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss = liger_fused_linear_cross_entropy(h, w, y)
    loss.backward()
    return loss


def liger_scaled(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction

    loss, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(h, w, y, return_entropy=True)
    loss.mean().backward()
    return loss, entropy.detach()


RIVALS: dict[str, Callable[..., Any]] = {
    "torch linear_cross_entropy": torch_linear_cross_entropy,
    "TRL chunked": trl_chunked,
    "Liger fused": liger_fused,
    "Liger scaled": liger_scaled,
    "cut-cross-entropy": cut_cross_entropy,
}
RIVAL_PACKAGES = ("trl", "liger-kernel", "cut-cross-entropy")


def that_run(
    rivals: dict[str, Callable[..., Any]], device: str, dtype: torch.dtype
) -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
    """Return those that run here, and why others do not."""
    found, not_run = {}, {}
    for name, function in rivals.items():
        try:
            function(*inputs(64, 64, 1024, device, dtype))
        except Exception as error:  # noqa: BLE001 (whatever another library raises where it cannot run)
            not_run[name] = reason(error)
        else:
            found[name] = function
    return found, not_run


def reason(error: Exception) -> str:
    """Return an error in one line."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


@torch.no_grad()
def forward_loss_only(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    return F.cross_entropy(F.linear(h, w), y, reduction="none")


@torch.no_grad()
def forward_fused(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Any:
    return linear_statistics.linear_token_statistics(h, w, y)


def _memory(
    name: str, shape: tuple[int, int, int], device: str, dtype: torch.dtype, threads: int, chosen: dict[str, str]
) -> int:
    torch.set_num_threads(threads)
    routes.restore_routes(chosen)  # measuring is none of the call's memory

    def prepare() -> Callable[[], Any]:
        small = inputs(64, 64, 1024, device, dtype)
        COMPETITORS[name](*small)  # libraries load and set up their buffers
        tensors = inputs(*shape, device, dtype)
        return lambda: COMPETITORS[name](*tensors)

    return timing.peak_memory(prepare, device)


def measure(
    shape: tuple[int, int, int], device: str, dtype: torch.dtype, rounds: int, threads: int, memory: bool
) -> dict[str, Any]:
    """Time, and peak memory over that of `naive`, of all competitors on one shape (rows, hidden, vocabulary)."""
    rows, hidden, vocabulary = shape
    tensors = inputs(*shape, device, dtype)

    def cleared(function: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> None:
            tensors[0].grad = tensors[1].grad = None
            function(*tensors)

        return run

    route = routes.head_route(hidden, vocabulary, dtype, torch.device(device))
    either = routes.ROUTES if has_onednn(dtype, torch.device(device)) else ()
    by_route = {f"fused, {name}": functools.partial(fused_by, name) for name in either}
    rivals, not_run = that_run(RIVALS, device, dtype)
    for name, why in not_run.items():
        print(f"{name}: not run ({why})")
    everyone = COMPETITORS | by_route | rivals
    functions = {name: cleared(function) for name, function in everyone.items()}
    functions["products"] = bare_products(*tensors)
    seconds = timing.interleaved(functions, rounds)
    result: dict[str, Any] = {
        "rows": rows,
        "hidden": hidden,
        "vocabulary": vocabulary,
        "dtype": str(dtype),
        "route": route,
        "operations": 6 * rows * hidden * vocabulary,
        "seconds": {name: timing.spread(values) for name, values in seconds.items()},
        "over plain": timing.ratios(seconds, "plain"),
        "over fused, loss only": timing.ratios(seconds, "fused, loss only"),
        "over products, fused": timing.ratios(seconds, "products, fused"),
    }
    forward = {"loss only": cleared(forward_loss_only), "fused": cleared(forward_fused)}
    result["validation, over loss only"] = timing.ratios(timing.interleaved(forward, rounds), "loss only")["fused"]
    if device == "cpu" and threads == 1:
        # A few percent drown in a shared machine's noise on the wall clock.
        pair = {name: functions[name] for name in ("fused, loss only", "fused")}
        times = timing.interleaved(pair, 3 * rounds, time.thread_time)
        result["recording, processor time"] = timing.ratios(times, "fused, loss only")["fused"]
    if memory:
        peaks = {
            name: timing.in_own_process(_memory, name, shape, device, dtype, threads, routes.chosen_routes())
            for name in ("naive", "plain", "fused")
        }
        result["peak bytes"] = peaks
        result["peak over naive"] = {name: value / peaks["naive"] for name, value in peaks.items()}
    return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default=None, help="float32 on a CPU, bfloat16 on CUDA")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32000])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds, one hidden size; no result to quote")
    parser.add_argument("--output", default=None, help="name of the result, head-DEVICE-Nthreads by default")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.hidden, given.rounds = 512, [128], 3
    return given


def main() -> None:
    a = arguments()
    torch.set_num_threads(a.threads)
    dtype = getattr(torch, a.dtype or ("float32" if a.device == "cpu" else "bfloat16"))
    hardware = timing.hardware(a.device, RIVAL_PACKAGES)
    print(hardware)
    results = []
    for hidden in a.hidden:
        for vocabulary in a.vocabulary:
            shape = (a.rows, hidden, vocabulary)
            result = measure(shape, a.device, dtype, a.rounds, a.threads, not a.no_memory)
            results.append(result)
            over = {name: round(s["median"], 3) for name, s in result["over plain"].items()}
            print(f"{shape}: route {result['route']}; plain {result['seconds']['plain']['median']:.3f} s; ", end="")
            print(f"over plain {over}", flush=True)
            recording = result.get("recording, processor time", result["over fused, loss only"]["fused"])
            print(f"  recording {recording['median']:.3f} [{recording['low']:.3f}, {recording['high']:.3f}]", end="")
            print(f"; validation {result['validation, over loss only']['median']:.3f}", end="")
            print(f"; memory over naive { ({k: round(v, 3) for k, v in result.get('peak over naive', {}).items()}) }")
    name = a.output or f"head-{a.device}-{a.threads}threads"
    result = {"benchmark": "head", "hardware": hardware, "rounds": a.rounds, "results": results}
    print(timing.write(name, result | {"routes": routes.chosen_routes()}, quick=a.quick))


if __name__ == "__main__":
    main()
