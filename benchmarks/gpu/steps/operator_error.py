"""How far are losses, entropies, argmaxes and gradients from float64, at a model's own size?

Half-precision logits are what a model's own head makes, and what recording must not be built on: rounded to bfloat16
they move some tokens' losses by a tenth of a nat. Three ways from the same bfloat16 hidden states and weight: logits
rounded to bfloat16 (the naive way), the operator, and the operator with these inputs as float32. The data is at a
trained head's scale: logits of standard deviation 3, and targets that exceed them by nothing in some rows and are the
clear winner in others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.gpu import exact, route
from benchmarks.gpu.protocol import Check, Found, Where, at_most
from dynamics.ops import linear_token_statistics

LIMIT_NATS = 1e-3  # of the 99th percentile
LIMIT_GRADIENT = 5e-3  # relative: a few roundings to bfloat16, of 1.7e-3 each
OURS = "operator"


class Answer(NamedTuple):
    """What a way makes of a head: values of shape (N,), and gradients of the mean loss."""

    loss: torch.Tensor
    entropy: torch.Tensor
    grad_hidden: torch.Tensor
    grad_weight: torch.Tensor


def run(where: Where) -> Found:
    """Measure every way at hidden sizes of 1,024 and 4,096."""
    shapes = [(96, 32, 1000), (96, 128, 1000)] if where.tiny else [(4096, 1024, 151936), (4096, 4096, 151936)]
    measured: dict[str, Any] = {"mean loss, nats": {}}
    checks: list[Check] = []
    for n_rows, n_hidden, n_vocab in shapes:
        hidden, weight, targets = trained_head(n_rows, n_hidden, n_vocab, where.device)
        want = exact.head(hidden, weight, targets)
        ways: dict[str, Callable[[], tuple[Answer, torch.Tensor]]] = {
            "logits in bfloat16": functools.partial(_rounded, hidden, weight, targets, want.best),
            OURS: functools.partial(_ours, hidden, weight, targets, want.best),
            "operator, float32 inputs": functools.partial(_ours, hidden.float(), weight.float(), targets, want.best),
        }
        with route.of_accelerators(where):
            found = {name: _told(want, *way()) for name, way in ways.items()}
        size = f"N = {n_rows:,}, H = {n_hidden:,}, V = {n_vocab:,}"
        measured[size] = found
        measured["mean loss, nats"][size] = want.total_loss.item()
        checks += _checks(size, found[OURS])
        del want, ways
    return Found(measured, checks)


def _checks(size: str, found: dict[str, Any]) -> list[Check]:
    nats = [
        at_most(f"{size}: the operator's error of {name}, 99th percentile", found[name]["p99"], LIMIT_NATS)
        for name in ("loss, nats", "entropy, nats")
    ]
    gradients = [
        at_most(f"{size}: the operator's error of {name}", found[name], LIMIT_GRADIENT)
        for name in ("gradient of hidden, relative", "gradient of weight, relative")
    ]
    return nats + gradients


def trained_head(
    n_rows: int, n_hidden: int, n_vocab: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden states and a weight in bfloat16, and targets whose logits exceed the rest by 0 to 24 nats."""
    generator = torch.Generator(device).manual_seed(n_hidden)
    weight = torch.randn(n_vocab, n_hidden, device=device, generator=generator).mul_(3 / n_hidden**0.5).bfloat16()
    targets = torch.randint(n_vocab, (n_rows,), device=device, generator=generator)
    towards = weight[targets].float() / 9  # a target's weight has a squared length of 9
    hidden = torch.randn(n_rows, n_hidden, device=device, generator=generator)
    hidden += towards * torch.linspace(0, 24, n_rows, device=device)[:, None]
    return hidden.bfloat16(), weight, targets


def _rounded(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, best: torch.Tensor
) -> tuple[Answer, torch.Tensor]:
    """Return what float32 makes of logits in bfloat16, and where their argmax is not `best`."""
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    logits = F.linear(hidden, weight).float()
    loss = F.cross_entropy(logits, targets, reduction="none")
    loss.mean().backward()
    with torch.no_grad():
        log_p = logits.log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
    return _answer(loss, entropy, hidden, weight), logits.argmax(-1) != best


def _ours(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, best: torch.Tensor
) -> tuple[Answer, torch.Tensor]:
    """Return what the operator makes of the head, and where the argmax is not `best`."""
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    found = linear_token_statistics(hidden, weight, targets)
    found.total_loss.backward()
    with torch.no_grad():
        changed = ~linear_token_statistics(hidden, weight, best).correct
    return _answer(found.loss, found.entropy, hidden, weight), changed


def _answer(loss: torch.Tensor, entropy: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> Answer:
    assert hidden.grad is not None and weight.grad is not None
    return Answer(loss.detach(), entropy, hidden.grad, weight.grad)


def _told(want: exact.Head, found: Answer, changed: torch.Tensor) -> dict[str, Any]:
    nats = {name: (getattr(found, name).double() - getattr(want, name)).abs() for name in ("loss", "entropy")}
    return {
        **{
            f"{name}, nats": {
                "mean": error.mean().item(),
                "p99": error.quantile(0.99).item(),
                "largest": error.amax().item(),
            }
            for name, error in nats.items()
        },
        "share of argmaxes changed": changed.double().mean().item(),
        "gradient of hidden, relative": exact.apart(found.grad_hidden, want.grad_hidden),
        "gradient of weight, relative": exact.apart(found.grad_weight, want.grad_weight),
    }
