"""The operator on the device against float64, a few cases; `benchmarks.gpu.steps.kernels` has the many.

On a CPU it walks the route of accelerators.
"""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.gpu import exact, route
from benchmarks.gpu.protocol import Where
from dynamics.ops import linear_token_statistics
from dynamics.ops.row_statistics import HeadOptions

# Of values, over 10 + max |z|; of gradients, relative.
VALUE_ERROR = 1e-5
GRADIENT_ERROR = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 7e-4}
OPTIONS = {"plain": HeadOptions(), "all": HeadOptions(softcap=15.0, logit_scale=0.7, label_smoothing=0.1)}
N, H, V = 96, 64, 2500


@pytest.fixture(autouse=True)
def accelerator(device):
    with route.of_accelerators(Where(device.type, tiny=True)):
        yield


def head(device, dtype, n=N):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, H, generator=generator)
    weight = torch.randn(V, H, generator=generator) * (3 / math.sqrt(H))
    targets = torch.randint(V, (n,), generator=generator)
    targets[::4] = (hidden @ weight.T).argmax(-1)[::4]
    targets[::5] = -100
    return hidden.to(device, dtype), weight.to(device, dtype), targets.to(device)


def leaves(*tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def assert_values(found, want):
    allowed = VALUE_ERROR * (10 + want.largest)
    for name in ("loss", "entropy", "logsumexp"):
        assert exact.excess(getattr(found, name).detach(), getattr(want, name), allowed) <= 1, name
    assert exact.excess(found.total_loss.detach(), want.total_loss, allowed.amax()) <= 1


def assert_gradients(given, want, dtype):
    for leaf, due in zip(given, (want.grad_hidden, want.grad_weight), strict=True):
        assert leaf.grad.device == leaf.device and exact.apart(leaf.grad, due) <= GRADIENT_ERROR[dtype]


@pytest.mark.parametrize("chunk_rows", [None, 40])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", GRADIENT_ERROR)
def test_values_and_gradients_are_those_of_float64(device, dtype, options, chunk_rows):
    hidden, weight, targets = head(device, dtype)
    given = vars(OPTIONS[options])
    known = torch.linspace(0, 2 / N, N, device=device)
    want = exact.head(hidden, weight, targets, token_weight=known, options=OPTIONS[options])
    hidden, weight = leaves(hidden, weight)
    asked = {name: given[name] for name in ("softcap", "logit_scale", "label_smoothing")}
    found = linear_token_statistics(hidden, weight, targets, token_weight=known, chunk_rows=chunk_rows, **asked)
    found.total_loss.backward()
    assert_values(found, want)
    assert_gradients((hidden, weight), want, dtype)
    assert hidden.grad.dtype == weight.grad.dtype == dtype and found.loss.dtype == torch.float32
    right = (want.best == targets) & (targets != -100)
    near = want.margin <= VALUE_ERROR * (10 + want.largest)
    assert right.sum() >= N // 8 and torch.equal(found.correct[~near], right[~near])


def test_master_weights_in_float32_under_autocast(device):
    """The products are those of the inputs rounded to bfloat16, and the gradients are in float32."""
    hidden, weight, targets = head(device, torch.float32)
    want = exact.head(hidden.bfloat16(), weight.bfloat16(), targets)
    hidden, weight = leaves(hidden, weight)
    with torch.autocast(device.type, torch.bfloat16):
        found = linear_token_statistics(hidden, weight, targets)
    found.total_loss.backward()
    assert_values(found, want)
    assert_gradients((hidden, weight), want, torch.bfloat16)
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


def test_float16_under_a_gradient_scaler(device):
    """A loss scale of 65,536 over a mean of many tokens overflows nothing, and is taken off again."""
    hidden, weight, targets = head(device, torch.float32, n=900)
    want = exact.head(hidden.half(), weight.half(), targets)
    hidden, weight = leaves(hidden, weight)
    optimizer = torch.optim.SGD([hidden, weight], lr=1.0)
    scaler = torch.amp.GradScaler(device.type, init_scale=65536.0)
    with torch.autocast(device.type, torch.float16):
        loss = linear_token_statistics(hidden, weight, targets).total_loss
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    assert_gradients((hidden, weight), want, torch.float16)
    before = weight.detach().clone()
    scaler.step(optimizer)  # which leaves a step out where a gradient is not finite
    scaler.update()
    assert scaler.get_scale() == 65536.0 and not torch.equal(weight, before)


def test_no_gradient_where_none_is_asked(device):
    hidden, weight, targets = head(device, torch.bfloat16)
    want = exact.head(hidden, weight, targets)
    with torch.no_grad():
        found = linear_token_statistics(hidden, weight, targets)
    assert_values(found, want)
    assert not found.total_loss.requires_grad


def test_nothing_predicted(device):
    hidden, weight, targets = head(device, torch.bfloat16)
    hidden, weight = leaves(hidden, weight)
    found = linear_token_statistics(hidden, weight, torch.full_like(targets, -100))
    found.total_loss.backward()
    assert found.total_loss.isnan() and found.loss.isnan().all() and not found.correct.any()
    assert not hidden.grad.any() and not weight.grad.any()
