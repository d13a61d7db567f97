"""On the route of accelerators the host never waits: nothing that it asks of a tensor depends on what is in it."""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dynamics.errors import InputError
from dynamics.ops import head_pass, placement
from dynamics.ops.linear_statistics import linear_token_statistics

aten = torch.ops.aten
# Operators that give the host a value, or whose result has a shape that depends on values.
WAITING = {
    aten._local_scalar_dense,
    aten.item,
    aten.is_nonzero,
    aten.equal,
    aten.allclose,
    aten.nonzero,
    aten.nonzero_numpy,
    aten.argwhere,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.bincount,
    aten.repeat_interleave,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}


class Waits(TorchDispatchMode):
    """Counts what makes the host wait."""

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        packet = func.overloadpacket
        masks = packet in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
        if packet in WAITING or masks:
            self.found[func.name() + (" by a mask" if masks else "")] += 1
        return func(*args, **(kwargs or {}))


KNOWN = torch.linspace(0, 2, 48)
WEIGHTS = {
    "mean": None,
    "tensor": KNOWN,
    "function": lambda loss, entropy, rows: KNOWN.to(loss.device)[rows] * entropy,
}
HEADS = {"plain": {}, "all": {"bias": True, "softcap": 5.0, "logit_scale": 1.5, "label_smoothing": 0.1}}


def step(weighting, head, dtype, device, targets, retain=False):
    """Forward and backward, with a gradient that comes in; and the forward pass alone."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(48, 16, generator=g).to(device, dtype).requires_grad_()
    weight = torch.randn(200, 16, generator=g).to(device, dtype).requires_grad_()
    options = dict(HEADS[head])
    if "bias" in options:
        options["bias"] = torch.linspace(-1, 1, 200).to(device, dtype).requires_grad_()
    options |= {"token_weight": WEIGHTS[weighting], "chunk_rows": 20}
    if weighting == "tensor":
        options["token_weight"] = KNOWN.to(device)
    got = linear_token_statistics(hidden, weight, targets.to(device), **options)
    (got.total_loss * 0.5).backward(retain_graph=retain)
    with torch.no_grad():
        linear_token_statistics(hidden, weight, targets.to(device), **options)
    return hidden.grad


@pytest.fixture
def targets():
    y = torch.randint(200, (48,), generator=torch.Generator().manual_seed(1))
    y[::5] = -100
    return y


@pytest.fixture
def accelerator_route(monkeypatch):
    monkeypatch.setattr(placement, "host_computes", lambda device: False)
    monkeypatch.setattr(head_pass, "_has_triton", lambda: False)
    monkeypatch.setattr(head_pass, "_TORCH_ELEMENTS", 1400)  # seven rows at a time


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_host_never_waits(accelerator_route, weighting, head, dtype, targets):
    for retain in (False, True):
        with Waits() as waits:
            step(weighting, head, dtype, "cpu", targets, retain)
        assert not waits.found and waits.calls > 50


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_depends_on_values(accelerator_route, weighting, head, dtype, targets):
    # Tensors without values: whatever asks for one raises, known to the counter or not.
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert step(weighting, head, dtype, "cpu", targets).shape == (48, 16)


def test_on_a_cpu_the_host_looks(targets):
    # The counter counts: ignored rows are left out here by their indices.
    with Waits() as waits:
        step("mean", "plain", torch.float32, "cpu", targets)
    assert waits.found["aten::_local_scalar_dense"] >= 3 and waits.found["aten::nonzero"] == 2


def test_tensors_without_values_refuse_the_route_of_the_host(targets):
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(Exception, match="local_scalar_dense|nonzero"):
        step("mean", "plain", torch.float32, "cpu", targets)


def test_a_wrong_target_fails_on_the_device(accelerator_route, targets):
    targets[7] = 200
    with pytest.raises(RuntimeError, match="nonzero value, but got zero"):
        step("mean", "plain", torch.float32, "cpu", targets)


def test_a_wrong_target_is_named_where_the_host_computes(targets):
    targets[7] = 200
    with pytest.raises(InputError, match="target 200 at row 7"):
        step("mean", "plain", torch.float32, "cpu", targets)
