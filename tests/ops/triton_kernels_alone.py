"""The Triton row kernel against the torch rows, under Triton's interpreter where there is no GPU; and the route that
accelerators take, run on a CPU.

Without Triton the kernel's tests are skipped and the route is tested with the torch rows.
"""

import importlib.util
import math
import os

import numpy as np
import pytest
import torch

from dynamics.ops import head_pass, placement
from dynamics.ops.linear_statistics import linear_token_statistics
from dynamics.ops.row_statistics import HeadOptions, direct_rows

HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if HAS_CUDA else "cpu"

OPTIONS = {
    "plain": HeadOptions(),
    "smoothed": HeadOptions(label_smoothing=0.2),
    "all": HeadOptions(softcap=3.0, logit_scale=0.7, label_smoothing=0.1),
}
# Of one number to that type. The interpreter cuts bfloat16 off where the hardware rounds to nearest.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 5e-4}


@pytest.fixture
def kernels(monkeypatch):
    if not HAS_TRITON:
        pytest.skip("Triton is not installed")
    if not HAS_CUDA:
        # Read when a kernel is made, hence before the import; nothing else imports it on a CPU.
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    return importlib.import_module("dynamics.ops.triton_kernels")


def rows(v, dtype, scale=4.0, n=5):
    g = torch.Generator().manual_seed(v)
    u = (torch.randn(n, v, generator=g) * scale).to(dtype)
    y = torch.randint(v, (n,), generator=g)
    y[0] = u[0].argmax()
    y[1] = v - 1
    return u.to(DEVICE), y.to(DEVICE)


def compare(kernels, u, y, options, tolerance=1e-6):
    want, gradient = direct_rows(u.clone(), y, options, gradient=True)
    got = kernels.row_statistics_(u, y, options, gradient=True)
    bound = tolerance * (10 + want.logsumexp.abs().max().item())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if a.dtype == torch.bool else bound)
    torch.testing.assert_close(u.float(), gradient, rtol=ROUNDING[u.dtype], atol=1e-6)
    return got


@pytest.mark.parametrize("v", [1, 7, 64, 1000, 4096, 4097, 9001])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_kernel_equals_torch(kernels, v, options, dtype):
    compare(kernels, *rows(v, dtype), OPTIONS[options])


def test_kernel_by_hand(kernels):
    # p = (1/2, 1/4, 1/4): entropy 1.5 ln 2.
    u = torch.log(torch.tensor([[2.0, 1.0, 1.0]] * 2, device=DEVICE))
    got = kernels.row_statistics_(u, torch.tensor([0, 1], device=DEVICE), HeadOptions(), gradient=True)
    assert got.loss.tolist() == pytest.approx([math.log(2), math.log(4)])
    assert got.entropy.tolist() == pytest.approx([1.5 * math.log(2)] * 2)
    assert got.correct.tolist() == [True, False]
    np.testing.assert_allclose(u.cpu().numpy(), [[-0.5, 0.25, 0.25], [0.5, -0.75, 0.25]], atol=1e-6)


def test_kernel_leaves_the_logits_alone_without_gradient(kernels):
    u, y = rows(300, torch.float32)
    before = u.clone()
    kernels.row_statistics_(u, y, HeadOptions(), gradient=False)
    assert torch.equal(u, before)


def test_kernel_with_masked_blocks_and_large_logits(kernels):
    u, y = rows(9001, torch.float32, scale=1e4)
    compare(kernels, u, y, HeadOptions())
    u, y = rows(9001, torch.float32)
    y[:] = 8500
    u[0, :4500] = -math.inf  # a whole first block
    u[1, 5000:8200] = -math.inf
    u[2] = -math.inf
    u[2, 8500] = -3.0
    got = compare(kernels, u, y, HeadOptions())
    assert got.loss[2] == 0 and got.entropy[2] == 0 and got.correct[2]


def test_kernel_takes_the_first_of_equals(kernels):
    u = torch.zeros(4, 9001, device=DEVICE)
    u[:2, [17, 4999, 9000]] = 1.0
    got = kernels.row_statistics_(u, torch.tensor([17, 4999, 0, 1], device=DEVICE), HeadOptions(), gradient=False)
    assert got.correct.tolist() == [True, False, True, False]


def test_kernel_without_rows(kernels):
    got = kernels.row_statistics_(
        torch.zeros(0, 9, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE), HeadOptions(), gradient=True
    )
    assert all(x.shape == (0,) for x in got)


def test_which_rows_triton_takes(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not head_pass.uses_triton(torch.zeros(1, 1))
    monkeypatch.setattr(head_pass, "_has_triton", lambda: True)
    assert not head_pass.uses_triton(torch.zeros(1, 1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert head_pass.uses_triton(torch.zeros(1, 1)) and not head_pass.uses_triton(torch.zeros(1, 1).double())
    monkeypatch.setattr(head_pass, "_has_triton", lambda: False)
    assert not head_pass.uses_triton(torch.zeros(1, 1))


# --- the accelerators' route: logits in the inputs' type, ignored rows run along, several chunks

HEADS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "all": {"bias": torch.linspace(-1, 1, 100), "softcap": 5.0, "logit_scale": 1.5},
}
KNOWN = torch.linspace(0, 2, 48)
WEIGHTS = {
    "mean": None,
    "tensor": torch.linspace(0, 1e-4, 48),
    "function": lambda loss, entropy, rows: KNOWN.to(loss.device)[rows] * entropy / (1 + loss),
}


@pytest.fixture(params=["triton", "torch"])
def accelerator_route(request, monkeypatch):
    if request.param == "triton":
        request.getfixturevalue("kernels")
    else:
        monkeypatch.setattr(head_pass, "_has_triton", lambda: False)
        monkeypatch.setattr(head_pass, "_UPCAST_ELEMENTS", 700)  # seven rows at a time
    monkeypatch.setattr(placement, "host_computes", lambda device: False)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("chunk_rows", [None, 20])
def test_accelerator_route(accelerator_route, head, weighting, dtype, chunk_rows):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(48, 16, generator=g).to(dtype)
    weight = (torch.randn(100, 16, generator=g) / 4).to(dtype)
    targets = torch.randint(100, (48,), generator=g)
    targets[::5] = -100
    options = {k: x.to(dtype) if isinstance(x, torch.Tensor) else x for k, x in HEADS[head].items()}
    scale = 256.0  # as a loss scale comes in

    def on(device):
        leaves = [t.to(device).requires_grad_() for t in (hidden.clone(), weight.clone())]
        head_options = {k: x.clone().to(device) if isinstance(x, torch.Tensor) else x for k, x in options.items()}
        token_weight = WEIGHTS[weighting]
        if isinstance(token_weight, torch.Tensor):
            token_weight = token_weight.to(device)
        if "bias" in head_options:
            leaves.append(head_options["bias"].requires_grad_())
        got = linear_token_statistics(
            *leaves[:2], targets.to(device), token_weight=token_weight, chunk_rows=chunk_rows, **head_options
        )
        (got.total_loss * scale).backward()
        return got, [leaf.grad for leaf in leaves]

    got, gradients = on(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "host_computes", lambda device: True)
        want, wanted = on("cpu")
    # Logits of half precision are rounded to it on this route and not on the other.
    tolerance = 5e-6 if dtype == torch.float32 else 4 * ROUNDING[dtype]
    for name in ("total_loss", "loss", "entropy", "logsumexp"):
        a, b = getattr(got, name).detach().cpu(), getattr(want, name).detach()
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=tolerance, atol=4 * tolerance, equal_nan=True)
    assert not got.correct[::5].any()
    if dtype == torch.float32:
        assert torch.equal(got.correct.cpu(), want.correct)
    for a, b in zip(gradients, wanted, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=4 * tolerance * b.abs().max().item())


def test_accelerator_route_without_predictions(accelerator_route):
    hidden = torch.randn(3, 4, device=DEVICE).bfloat16().requires_grad_()
    weight = torch.randn(6, 4, device=DEVICE).bfloat16().requires_grad_()
    got = linear_token_statistics(hidden, weight, torch.full((3,), -100, device=DEVICE))
    assert got.total_loss.isnan() and got.loss.isnan().all() and not got.correct.any()
    got.total_loss.backward()
    assert not hidden.grad.any() and not weight.grad.any()


def test_float64_never_goes_to_triton(accelerator_route):
    hidden = torch.randn(3, 4, dtype=torch.float64, device=DEVICE)
    got = linear_token_statistics(hidden, hidden, torch.tensor([0, 1, 2], device=DEVICE))
    log_p = torch.log_softmax(hidden @ hidden.T, -1)
    torch.testing.assert_close(got.loss, -log_p.diag(), rtol=0, atol=1e-13)


# --- compiling needs no GPU


@pytest.mark.skipif(not HAS_TRITON or os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton's compiler")
@pytest.mark.parametrize("flags", [True, False])
def test_kernel_compiles_for_hopper(flags):
    # In a process of its own: here the module may have been imported for the interpreter.
    import subprocess
    import sys

    script = f"""
import warnings
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dynamics.ops import triton_kernels

outputs = ("training_loss_ptr", "loss_ptr", "entropy_ptr", "logsumexp_ptr")
numbers = ("logit_scale", "softcap", "label_smoothing")
constants = {{"N_VOCAB": 151936, "CAPPED": {flags}, "SMOOTHED": {flags}, "GRADIENT": True, "BLOCK": 4096}}
signature = {{name: "constexpr" for name in constants}}
signature |= {{"u_ptr": "*bf16", "target_ptr": "*i64", "correct_ptr": "*i1", "row_stride": "i32"}}
signature |= {{name: "*fp32" for name in outputs}} | {{name: "fp32" for name in numbers}}
names = triton_kernels.row_kernel.arg_names
source = ASTSource(
    fn=triton_kernels.row_kernel, signature={{n: signature[n] for n in names}}, constexprs=constants
)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={{"num_warps": 8}})
assert len(compiled.asm["cubin"]) > 0
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
