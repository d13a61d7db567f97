"""The route of accelerators: what it multiplies, in which types, on which device; and how exact that is."""

from types import SimpleNamespace

import pytest
import torch
from support.fake_cuda import fake_cuda
from torch.utils._python_dispatch import TorchDispatchMode

import dynamics.ops
from dynamics.ops import head_pass, linear_statistics, placement, products
from dynamics.ops.linear_statistics import linear_token_statistics
from dynamics.ops.row_statistics import HeadOptions, RowValues

aten = torch.ops.aten
FLOAT32 = torch.float32

# --- on CUDA, as far as types, shapes and devices tell

N, H, V = 50, 24, 70
HEADS = {
    "plain": (HeadOptions(), False),
    "bias": (HeadOptions(), True),
    "all": (HeadOptions(softcap=5.0, logit_scale=1.5, label_smoothing=0.1), True),
}


class Products(TorchDispatchMode):
    """Writes down every matrix product: its name, its factors' shapes and type, and the result's type."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::")
        if name.split(".")[0] not in ("mm", "addmm", "addmm_", "mv", "addmv_", "bmm", "baddbmm"):
            return func(*args, **kwargs)
        a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
        if name == "addmm.dtype_out":  # which FakeTensorMode of torch 2.11 cannot run
            out = kwargs["out"]
            assert args[0] is out and args[3] == out.dtype == FLOAT32 and out.shape == (len(a), b.shape[1])
        else:
            out = func(*args, **kwargs)
        assert a.dtype == b.dtype and a.device == b.device == out.device == torch.device("cuda:0")
        assert a.shape[1] == b.shape[0]
        self.found.append((name, (*a.shape, *b.shape[1:]), a.dtype, out.dtype))
        return out


class Context(SimpleNamespace):
    """What autograd hands to a function: autograd itself needs a torch that is built with CUDA."""

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors

    def set_materialize_grads(self, value):
        pass

    def mark_non_differentiable(self, *tensors):
        pass


def weights(kind):
    known = torch.linspace(0, 2, N, device="cuda")
    return {"mean": None, "tensor": known, "function": lambda loss, entropy, rows: known[rows] * entropy}[kind]


@pytest.fixture(params=["triton", "torch"])
def rows(request, monkeypatch):
    """Rows by plain torch, in several pieces; or by what stands for the kernel, which needs a device to be launched."""
    seen = []

    def kernel(u, y, options, grad):
        assert u.dtype == FLOAT32 and u.device == y.device == torch.device("cuda:0") and y.shape == (len(u),)
        assert u.stride() == (128, 1)  # 70 columns in a multiple of 64: loads of 16 bytes
        assert grad is None or (grad.shape == u.shape and grad.device == u.device and grad.stride() == (128, 1))
        seen.append(None if grad is None else "in place" if torch._C._is_alias_of(u, grad) else grad.dtype)
        floats = torch.empty(4, len(u), device=u.device)
        return RowValues(floats[0], floats[1], floats[2], torch.zeros_like(y, dtype=torch.bool), floats[3])

    monkeypatch.setattr(head_pass, "_has_triton", lambda: request.param == "triton")
    monkeypatch.setattr(head_pass, "_TORCH_ELEMENTS", 7 * V)
    monkeypatch.setattr(dynamics.ops, "triton_kernels", SimpleNamespace(row_statistics=kernel), raising=False)
    return SimpleNamespace(kernel=request.param == "triton", seen=seen)


def on_cuda(head, weighting, dtype, compute_type, needs=(True, True, True)):
    """Forward and backward; the products of both, and the gradients."""
    options, has_bias = HEADS[head]
    with fake_cuda(), torch.no_grad():
        tensors = [torch.empty(shape, dtype=dtype, device="cuda") for shape in ((N, H), (V, H), (V,))]
        bias = tensors[2] if has_bias else None
        targets = torch.zeros(N, dtype=torch.int64, device="cuda")
        linear_statistics._check_inputs(tensors[0], tensors[1], bias, targets, None, -100, 20)
        static = linear_statistics._Static(weights(weighting), options, -100, 20, compute_type)
        context = Context(needs_input_grad=needs)
        function = linear_statistics._LinearTokenStatistics
        with Products() as mode:
            total, *values = function.forward(context, tensors[0], tensors[1], bias, targets, static)
            gradients = function.backward(context, torch.ones((), device="cuda"), None, None, None, None)
        assert total.shape == () and all(x.shape == (N,) for x in values)
        assert {x.dtype for x in (total, *values)} == {FLOAT32, torch.bool}
        for gradient, tensor, needed in zip(gradients, tensors, needs, strict=False):
            assert (gradient is not None) == needed
            if needed:
                assert gradient.shape == tensor.shape and gradient.dtype == dtype and gradient.device == tensor.device
    return mode.found


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weighting", ["mean", "tensor", "function"])
@pytest.mark.parametrize(
    ("half", "inputs"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, FLOAT32),
        (torch.float16, torch.float16),
    ],  # autocast's: float32
)
def test_products_of_half_precision_are_float32(rows, head, weighting, half, inputs):
    has_bias = HEADS[head][1]
    found = on_cuda(head, weighting, inputs, half, (True, True, has_bias))
    want = []
    for n in (20, 20, 10):
        weight = "addmm.dtype_out" if want else "mm.dtype_out"
        want += [("mm.dtype_out", (n, H, V)), ("mm.dtype", (n, V, H)), (weight, (V, n, H))]
        want += [("mm.dtype", (1, n, V))] if has_bias else []
    assert found == [(*product, half, FLOAT32) for product in want]
    assert rows.seen == ([half] * 3 if rows.kernel else [])


@pytest.mark.parametrize("head", HEADS)
def test_products_of_float32(rows, head):
    has_bias = HEADS[head][1]
    found = on_cuda(head, "mean", FLOAT32, FLOAT32, (True, True, has_bias))
    want = []
    for n in (20, 20, 10):
        weight = "addmm_" if want else "mm.out"
        want += [("addmm.out" if has_bias else "mm.out", (n, H, V)), ("mm", (n, V, H)), (weight, (V, n, H))]
        want += [("mv", (V, n))] if has_bias else []
    assert found == [(*product, FLOAT32, FLOAT32) for product in want]
    assert rows.seen == (["in place"] * 3 if rows.kernel else [])


def test_without_gradients_there_is_one_product(rows):
    found = on_cuda("plain", "mean", torch.bfloat16, torch.bfloat16, (False, False, False))
    assert found == [("mm.dtype_out", (n, H, V), torch.bfloat16, FLOAT32) for n in (20, 20, 10)]
    assert rows.seen == ([None] * 3 if rows.kernel else [])


def test_autocast_on_cuda_settles_the_type(rows):
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)  # the context manager looks for a device
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with fake_cuda(), Products() as mode:
            hidden, weight = (torch.empty(n, H, device="cuda") for n in (N, V))
            linear_token_statistics(hidden, weight, torch.zeros(N, dtype=torch.int64, device="cuda"))
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)
    assert mode.found == [("mm.dtype_out", (N, H, V), torch.bfloat16, FLOAT32)]


def test_devices_are_not_mixed(rows):
    with fake_cuda(), pytest.raises(Exception, match="device"):
        linear_token_statistics(
            torch.empty(N, H, device="cuda"),
            torch.empty(V, H, device="cuda"),
            torch.zeros(N, dtype=torch.int64, device="cuda"),
            token_weight=lambda loss, entropy, rows: loss * torch.ones(N)[rows],
        )


# --- its numbers, walked by a CPU


@pytest.fixture
def accelerator_route(monkeypatch):
    monkeypatch.setattr(placement, "host_computes", lambda device: False)
    monkeypatch.setattr(head_pass, "_has_triton", lambda: False)


def exact(hidden, weight, bias, targets, kept, options):
    """Loss, entropy, logsumexp and the logits' gradient in float64, by hand."""
    u = hidden.double() @ weight.double().T + bias.double()
    z = options.logit_scale * u
    slope = torch.ones_like(z)
    if options.softcap is not None:
        z = options.softcap * torch.tanh(z / options.softcap)
        slope = 1 - (z / options.softcap) ** 2
    log_p = torch.log_softmax(z, -1)
    loss = -log_p.gather(1, targets[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    q = torch.full_like(z, options.label_smoothing / z.shape[1])
    q.scatter_add_(1, targets[:, None], torch.full_like(z[:, :1], 1 - options.label_smoothing))
    grad = (log_p.exp() - q) * slope * kept[:, None]
    return loss, entropy, torch.logsumexp(z, -1), grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [HeadOptions(), HeadOptions(softcap=4.0, logit_scale=0.7, label_smoothing=0.1)])
@pytest.mark.parametrize("chunk_rows", [None, 8])
def test_half_precision_is_rounded_once(accelerator_route, dtype, options, chunk_rows):
    n, h, v = 200, 64, 500
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, h, generator=g).to(dtype)
    weight = (torch.randn(v, h, generator=g) * 3 / h**0.5).to(dtype)
    bias = torch.randn(v, generator=g).to(dtype)
    targets = torch.randint(v, (n,), generator=g)
    kept = torch.arange(n) % 5 > 0
    found = head_pass.head_pass(
        hidden,
        weight,
        bias,
        targets.where(kept, -100),
        None,
        options,
        ignore_index=-100,
        chunk_rows=chunk_rows,
        needs=(True, True, True),
    )
    loss, entropy, lse, grad = exact(hidden, weight, bias, targets, kept, options)
    # Logits in half precision would be off by up to 0.03 in bfloat16.
    for got, want in ((found.values.loss, loss), (found.values.entropy, entropy), (found.values.logsumexp, lse)):
        assert (got - want)[kept].abs().max() < 1e-5

    # Rounded are the logits' gradient, hidden states times their rows' factor where that is not 1, and at the end the
    # gradient for the hidden states: nothing else.
    rounded, scale = grad.to(dtype).double(), options.logit_scale
    h64, w64 = hidden.double(), weight.double()
    weighted = (h64 * scale).to(dtype).double() / scale
    gradients = {
        "weight": (found.grad_weight, grad.T @ h64, rounded.T @ weighted),
        "bias": (found.grad_bias, grad.sum(0), rounded.sum(0)),
        "hidden": (found.grad_hidden, grad @ w64, (rounded @ w64 * scale).to(dtype).double() / scale),
    }
    for name, (got, want, once) in gradients.items():
        assert got.dtype == (dtype if name == "hidden" else FLOAT32)
        error, least = (got.double() / scale - want).norm(), (once - want).norm()
        # One more rounding, of each chunk's products say, would make it up to 1.4 times as large.
        assert 0.9 * least < error < 1.05 * least


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_device_without_float32_output_multiplies_the_same_numbers(half):
    g = torch.Generator().manual_seed(0)
    a, w, d = (torch.randn(*shape, generator=g).to(half) for shape in ((30, 40), (70, 40), (30, 70)))
    bias, c = torch.randn(70, generator=g).to(half), torch.rand(30, generator=g).to(half)
    bias[3] = -torch.inf

    def near(got, want):
        assert got.dtype == FLOAT32
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5)

    room = torch.full((30, 128), torch.nan)
    out = products.logits_product(a, (w,), bias, "mm", room.narrow(1, 0, 70))
    near(out, a.double() @ w.double().T + bias.double())
    assert out.data_ptr() == room.data_ptr() and room[:, 70:].isnan().all()
    near(products.logits_product(a, (w,), None, "mm"), a.double() @ w.double().T)
    near(products.hidden_product(d, w, "mm"), d.double() @ w.double())
    total = torch.full((70, 40), torch.nan)
    products.accumulate_outer_(total, d, a, "mm", first=True)
    for _ in range(2):
        products.accumulate_outer_(total, d, a, "mm", first=False)
    near(total, 3 * d.double().T @ a.double())
    sums = torch.ones(70)
    products.accumulate_rows_(sums, d, c, 0.5)
    near(sums, 1 + 0.5 * d.double().T @ c.double())
