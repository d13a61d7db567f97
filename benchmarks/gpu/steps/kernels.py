"""Are the row kernel and the operator right on this device? Each against float64 from the same inputs.

The kernel is compiled anew for every type and option, and neither compiler nor tensor cores can be tried elsewhere. So
every type, vocabularies from a small odd one to Qwen's, every option of a head, and rows that are awkward: equal
maxima, logits that are huge, infinite or NaN, a stride, more than 2**31 logits. Inputs are random, new in each run;
what a call allocates is poisoned beforehand.

On a CPU the route of accelerators is walked, with torch for the rows, and one case goes through Triton's interpreter.
"""

from __future__ import annotations

import importlib.util
import math
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from benchmarks.gpu import exact, route
from benchmarks.gpu.protocol import Found, Where, at_most, holds
from dynamics.ops import linear_token_statistics
from dynamics.ops.head_pass import uses_triton
from dynamics.ops.row_statistics import HeadOptions, RowValues, direct_rows

# Of a case each quantity's largest error over what is allowed is told, and two numbers that must be 0.
WRONG, WRITTEN = "rows whose correctness is wrong", "numbers written where nothing should be"
COUNTS = (WRONG, WRITTEN)
VALUES = ("training_loss", "loss", "entropy", "logsumexp")
BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32

# What float32 arithmetic may do to a row's values, over 10 + max |z|; and the products before them, where those are the
# operator's own. Logits rounded to bfloat16 would be off by a thousand times the first.
ROW_ERROR, OPERATOR_ERROR = 1e-6, 1e-5
# Of one number rounded to the type, relative, and absolute where it is small.
ROUNDING = {BFLOAT16: (2**-8, 1e-37), FLOAT16: (2**-11, 2**-25), FLOAT32: (2**-24, 1e-37)}
# Of a whole gradient, relative: the logits' gradient is rounded, a row's weight times its hidden state, and the result.
GRADIENT_ERROR = {BFLOAT16: 5e-3, FLOAT16: 7e-4, FLOAT32: 1e-5}

PLAIN, SMOOTHED = HeadOptions(), HeadOptions(label_smoothing=0.1)
CAPPED = HeadOptions(softcap=15.0, logit_scale=0.7)
ALL = HeadOptions(softcap=15.0, logit_scale=0.7, label_smoothing=0.1)

# Vocabularies, and what stands for them at tiny sizes.
TINY = {101: 101, 4096: 256, 50257: 1001, 151936: 4099}


class RowCase(NamedTuple):
    """Rows of float32 logits, and the type of their gradient; without `own` it is written over them.

    `gap` is how many numbers lie between one row and the next, of logits and of gradients.
    """

    n_vocab: int
    options: HeadOptions
    gradient: torch.dtype | None
    own: bool = True
    gap: int = 0


ROW_CASES = {
    "V = 151,936, bfloat16": RowCase(151936, PLAIN, BFLOAT16),
    "V = 151,936, all options, bfloat16": RowCase(151936, ALL, BFLOAT16),
    "V = 151,936, no gradient": RowCase(151936, PLAIN, None),
    "V = 50,257, smoothed, bfloat16": RowCase(50257, SMOOTHED, BFLOAT16),
    "V = 50,257, rows apart, float16": RowCase(50257, PLAIN, FLOAT16, gap=15),
    "V = 50,257, capped, float32 in place": RowCase(50257, CAPPED, FLOAT32, own=False),
    "V = 4,096, all options, float16": RowCase(4096, ALL, FLOAT16),
    "V = 4,096, float32 in place": RowCase(4096, PLAIN, FLOAT32, own=False),
    "V = 101, bfloat16": RowCase(101, PLAIN, BFLOAT16),
    "V = 101, all options, rows apart, float32": RowCase(101, ALL, FLOAT32, gap=3),
    "V = 101, capped, no gradient": RowCase(101, CAPPED, None, gap=11),
}
INTERPRETED = "V = 101, all options, rows apart, float32"


class HeadCase(NamedTuple):
    """A head; its weights are a mean's, given, or a function's of loss and entropy. `chunk_rows` are tried in turn."""

    dtype: torch.dtype
    n_vocab: int
    options: HeadOptions
    weights: str = "mean"
    bias: bool = False
    chunk_rows: tuple[int | None, ...] = (None,)


HEAD_CASES = {
    "bfloat16, V = 151,936": HeadCase(BFLOAT16, 151936, PLAIN),
    "bfloat16, V = 50,257, smoothed, weights": HeadCase(
        BFLOAT16, 50257, SMOOTHED, weights="given", chunk_rows=(None, 16, 100, 1 << 20)
    ),
    "float16, V = 4,096, all options, bias, function": HeadCase(
        FLOAT16, 4096, ALL, weights="function", bias=True, chunk_rows=(None, 100)
    ),
    "float32, V = 4,096, bias with -inf, weights": HeadCase(FLOAT32, 4096, PLAIN, weights="given", bias=True),
    "float32, V = 50,257, capped, function": HeadCase(
        FLOAT32, 50257, CAPPED, weights="function", chunk_rows=(None, 100)
    ),
}


# So many rows have more than 2**31 logits: 10 GiB in float32, as much again of the case's own, and the reference's.
N_LARGE, LARGE_BYTES = 16384, 40 << 30
LARGE_ROWS, LARGE_HEAD = ROW_CASES["V = 151,936, bfloat16"], HEAD_CASES["bfloat16, V = 151,936"]


def run(where: Where) -> Found:
    """Compare every case."""
    seed = secrets.randbits(31)
    generator = torch.Generator(where.device).manual_seed(seed)
    n_rows = 16 if where.tiny else 256
    by_triton = uses_triton(torch.empty(0, 1, device=where.device))
    rows, heads, missing = {}, {}, []
    with route.of_accelerators(where):
        for name, case in HEAD_CASES.items():
            for chunk_rows in case.chunk_rows:
                heads[f"{name}, chunks of {chunk_rows}"] = _head(where, case, 2 * n_rows, chunk_rows, generator)
        for name, case in ROW_CASES.items():
            rows[name] = _rows(where, case, n_rows, by_triton, generator)
        if (problem := _no_room(where)) is None:
            rows["more than 2**31 logits"] = _rows(where, LARGE_ROWS, N_LARGE, by_triton, generator)
            heads["more than 2**31 logits in a chunk"] = _head(where, LARGE_HEAD, N_LARGE, N_LARGE, generator, 64)
        else:
            missing.append(f"more than 2**31 logits: {problem}")
        if where.device == "cpu":
            with interpreter() as interpreted:
                if interpreted:
                    rows["Triton's interpreter"] = _rows(where, ROW_CASES[INTERPRETED], n_rows, True, generator)
                else:
                    missing.append("Triton's interpreter: Triton is not installed, or was imported to compile")
    measured = {
        "seed": seed,
        "rows by": "Triton" if by_triton else "torch",
        "rows": rows,
        "operator": heads,
        "not on a CPU" if where.device == "cpu" else "left out": missing,
    }
    checks = [
        at_most(
            f"{what}, {quantity}" + ("" if quantity in COUNTS else ": error over what is allowed"),
            max(errors[quantity] for errors in cases.values() if quantity in errors),
            0 if quantity in COUNTS else 1.0,
        )
        for what, cases in (("rows", rows), ("operator", heads))
        for quantity in dict.fromkeys(name for errors in cases.values() for name in errors)
    ]
    if where.device == "cuda":
        checks.append(holds("the rows are Triton's", by_triton))
    return Found(measured, checks)


@contextmanager
def interpreter() -> Iterator[bool]:
    """Let kernels that are first imported in here be interpreted; say whether they will be.

    Triton settles that when it is imported. Whoever does it in a process gets no other Triton there.
    """
    if importlib.util.find_spec("triton") is None or "triton" in sys.modules:
        yield False
        return
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield True
    finally:
        del os.environ["TRITON_INTERPRET"]


# Rows. -------------------------------------------------------------------------------------------


def row_values(
    u: torch.Tensor, y: torch.Tensor, options: HeadOptions, gradient: torch.Tensor | None, *, by_triton: bool
) -> RowValues:
    """Run rows as `head_pass` does: return their values, and write their gradient, which may be `u` itself."""
    if by_triton:
        from dynamics.ops import triton_kernels

        return triton_kernels.row_statistics(u, y, options, gradient)
    values, found = direct_rows(u.clone(), y, options, gradient=gradient is not None)
    if gradient is not None:
        gradient.copy_(found)
    return values


def _rows(where: Where, case: RowCase, n_rows: int, by_triton: bool, generator: torch.Generator) -> dict[str, float]:
    n_vocab = TINY[case.n_vocab] if where.tiny else case.n_vocab

    def apart(dtype: torch.dtype) -> torch.Tensor:
        return torch.full((n_rows, n_vocab + case.gap), 7.0, dtype=dtype, device=where.device)

    wide = [apart(FLOAT32)]
    u, y = wide[0][:, :n_vocab], torch.randint(n_vocab, (n_rows,), device=where.device, generator=generator)
    u.normal_(0, 4, generator=generator)
    _make_awkward_(u, y, capped=case.options.softcap is not None)
    gradient = None if case.gradient is None else u
    if case.gradient is not None and case.own:
        wide.append(apart(case.gradient))
        gradient = wide[1][:, :n_vocab].fill_(math.nan)
    before = u.clone()
    with route.poisoned():
        found = row_values(u, y, case.options, gradient, by_triton=by_triton)
    errors = _row_errors(found, gradient, before, y, case.options)
    written = sum((one[:, n_vocab:] != 7.0).sum().item() for one in wide)
    if gradient is not u:
        written += (~((u == before) | (u.isnan() & before.isnan()))).sum().item()
    return errors | {WRITTEN: written}


def _make_awkward_(u: torch.Tensor, y: torch.Tensor, *, capped: bool) -> None:
    """Make ten rows such as go wrong easily."""
    n_vocab = u.shape[1]
    first, last = n_vocab // 3, n_vocab - 1
    y[0] = u[0].argmax()
    u[1:3, [first, last]] = u[1:3].amax(-1, keepdim=True) + 1  # equal maxima: the first is the argmax
    y[1], y[2] = first, last
    # A cap turns huge logits into equal ones.
    u[3] *= (30.0 if capped else 1e4) / u[3].abs().amax()
    u[4, : n_vocab // 2] = -math.inf  # whole blocks, the first one among them
    y[4] = last
    u[5], u[5, first], y[5] = -math.inf, -3.0, first  # a certain token
    u[6, first], y[6] = -math.inf, first  # an impossible one
    u[7, first], y[7] = math.nan, last
    y[8], y[9] = 0, last


def _row_errors(
    found: RowValues, gradient: torch.Tensor | None, u: torch.Tensor, y: torch.Tensor, options: HeadOptions
) -> dict[str, float]:
    """The largest errors over what is allowed, some rows at a time."""
    worst: dict[str, float] = {}
    for start in range(0, len(u), 512):
        part = slice(start, start + 512)
        want = exact.rows(u[part], y[part], options)
        allowed = ROW_ERROR * (10 + want.largest)
        errors = {name: exact.excess(getattr(found, name)[part], getattr(want, name), allowed) for name in VALUES}
        # Scaled or capped in float32, two logits that are close may become equal.
        rounded = options.softcap is not None or options.logit_scale != 1.0
        wrong = found.correct[part] != (want.best == y[part])
        errors[WRONG] = (wrong & ~((want.margin <= allowed) & rounded)).sum().item()
        if gradient is not None:
            relative, absolute = ROUNDING[gradient.dtype]
            allowed = relative * want.gradient.abs() + allowed[:, None] * want.share + absolute
            errors["gradient"] = exact.excess(gradient[part], want.gradient, allowed)
        worst = {name: max(value, worst.get(name, 0.0)) for name, value in errors.items()}
    return worst


# The operator. -----------------------------------------------------------------------------------


def _head(
    where: Where, case: HeadCase, n_rows: int, chunk_rows: int | None, generator: torch.Generator, n_hidden: int = 256
) -> dict[str, float]:
    n_vocab = TINY[case.n_vocab] if where.tiny else case.n_vocab

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=where.device, generator=generator)

    hidden, weight = random(n_rows, n_hidden).to(case.dtype), (random(n_vocab, n_hidden) * 0.2).to(case.dtype)
    targets = torch.randint(n_vocab, (n_rows,), device=where.device, generator=generator)
    bias = random(n_vocab).to(case.dtype) if case.bias else None
    # Every third token is predicted, and every fifth has no prediction.
    targets[::3] = exact.head(hidden, weight, targets, bias=bias, options=case.options).best[::3]
    if bias is not None:
        columns = torch.arange(n_vocab, device=where.device)
        bias[(columns % 7 == 0) & ~torch.isin(columns, targets)] = -math.inf
    targets[::5] = -100
    known = torch.rand(n_rows, device=where.device, generator=generator) / n_rows
    token_weight: Any = {"mean": None, "given": known}.get(
        case.weights, lambda loss, entropy, rows: known.to(loss.dtype)[rows] * entropy / (1 + loss)
    )
    want = exact.head(hidden, weight, targets, bias=bias, token_weight=token_weight, options=case.options)
    leaves = {"hidden": hidden, "weight": weight} | ({} if bias is None else {"bias": bias})
    for leaf in leaves.values():
        leaf.requires_grad_()
    with route.poisoned():
        found = linear_token_statistics(
            hidden,
            weight,
            targets,
            bias=bias,
            token_weight=token_weight,
            softcap=case.options.softcap,
            logit_scale=case.options.logit_scale,
            label_smoothing=case.options.label_smoothing,
            chunk_rows=chunk_rows,
        )
        (found.total_loss * 256).backward()  # as a loss scale comes in
    allowed = OPERATOR_ERROR * (10 + want.largest)
    errors = {name: exact.excess(getattr(found, name).detach(), getattr(want, name), allowed) for name in VALUES[1:]}
    errors["total loss"] = exact.excess(found.total_loss.detach(), want.total_loss, allowed.amax())
    wrong = found.correct != ((want.best == targets) & (targets != -100))
    errors[WRONG] = (wrong & ~(want.margin <= allowed)).sum().item()
    for name, leaf in leaves.items():
        assert leaf.grad is not None and leaf.grad.dtype == case.dtype
        apart = exact.apart(leaf.grad.double() / 256, getattr(want, f"grad_{name}"))
        errors[f"gradient of {name}"] = apart / GRADIENT_ERROR[case.dtype]
    return errors


def _no_room(where: Where) -> str | None:
    """Why there are not more logits than 32 bits count, where there are not."""
    if where.tiny or where.device == "cpu":
        return "too large for this run"
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    return None if free >= LARGE_BYTES else f"{free >> 30} GiB are free, and {LARGE_BYTES >> 30} GiB needed"
