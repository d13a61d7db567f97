"""The Triton row kernel against the torch rows, under Triton's interpreter where there is no GPU; and the route that
accelerators take, run on a CPU.

Without Triton the kernel's tests are skipped and the route is tested with the torch rows.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys

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
BLOCK = 2048
SEVERAL = 2 * BLOCK + 404  # columns in three blocks, the last not full


@pytest.fixture
def kernels(monkeypatch):
    if not HAS_TRITON:
        pytest.skip("Triton is not installed")
    if not HAS_CUDA:
        # Read when a kernel is made, hence before the import; nothing else imports it on a CPU.
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = importlib.import_module("dynamics.ops.triton_kernels")
    assert found._MAX_BLOCK == BLOCK
    return found


def rows(v, scale=4.0, n=3):
    g = torch.Generator().manual_seed(v)
    u = torch.randn(n, v, generator=g) * scale
    y = torch.randint(v, (n,), generator=g)
    y[0] = u[0].argmax()
    y[1] = v - 1
    return u.to(DEVICE), y.to(DEVICE)


def poisoned(n, v, dtype, gap):
    """Room for n rows, NaN; `gap` numbers lie between one row and the next."""
    return torch.full((n, v + gap), math.nan, dtype=dtype, device=DEVICE)


def compare(kernels, u, y, options, dtype=torch.float32, gap=0):
    """Rows with a gradient of a type, in memory of its own unless that is float32, against plain torch."""
    want, gradient = direct_rows(u.clone(), y, options, gradient=True)
    n, v = u.shape
    rows, room = poisoned(n, v, torch.float32, gap), poisoned(n, v, dtype, gap)
    rows[:, :v] = u
    given = rows[:, :v]
    grad = given if dtype == torch.float32 else room[:, :v]
    got = kernels.row_statistics(given, y, options, grad)
    bound = 1e-6 * (10 + want.logsumexp.abs().max().item())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if a.dtype == torch.bool else bound)
    torch.testing.assert_close(grad.float(), gradient, rtol=ROUNDING[dtype], atol=1e-6)
    assert rows[:, v:].isnan().all() and room[:, v:].isnan().all()
    assert dtype == torch.float32 or torch.equal(given, u)
    return got


@pytest.mark.parametrize("v", [1, 7, 64, 1000, BLOCK, BLOCK + 1, SEVERAL])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_kernel_equals_torch(kernels, v, options, dtype):
    compare(kernels, *rows(v), OPTIONS[options], dtype, gap=v % 3)


def test_kernel_by_hand(kernels):
    # p = (1/2, 1/4, 1/4): entropy 1.5 ln 2.
    u = torch.log(torch.tensor([[2.0, 1.0, 1.0]] * 2, device=DEVICE))
    got = kernels.row_statistics(u, torch.tensor([0, 1], device=DEVICE), HeadOptions(), u)
    assert got.loss.tolist() == pytest.approx([math.log(2), math.log(4)])
    assert got.entropy.tolist() == pytest.approx([1.5 * math.log(2)] * 2)
    assert got.correct.tolist() == [True, False]
    np.testing.assert_allclose(u.cpu().numpy(), [[-0.5, 0.25, 0.25], [0.5, -0.75, 0.25]], atol=1e-6)


def test_kernel_leaves_the_logits_alone_without_gradient(kernels):
    u, y = rows(300)
    before = u.clone()
    kernels.row_statistics(u, y, HeadOptions(), None)
    assert torch.equal(u, before)


def test_kernel_without_statistics(kernels):
    """The same losses and gradients; what is left out is no number."""
    u, y = rows(300)
    grads = torch.empty_like(u), torch.empty_like(u)
    want = kernels.row_statistics(u, y, HeadOptions(), grads[0])
    got = kernels.row_statistics(u, y, HeadOptions(statistics=False), grads[1])
    assert got.entropy.isnan().all() and not got.correct.any()
    for name in ("training_loss", "loss", "logsumexp"):
        assert torch.equal(getattr(got, name), getattr(want, name))
    assert torch.equal(*grads)


def test_kernel_with_masked_blocks_and_large_logits(kernels):
    compare(kernels, *rows(SEVERAL, scale=1e4), HeadOptions())
    u = torch.zeros(1, SEVERAL, device=DEVICE)
    u[0, 4300] = 3.2e38  # times a thread's mass it is infinite
    y = torch.tensor([4300], device=DEVICE)
    got = kernels.row_statistics(u, y, HeadOptions(), u)
    assert got.loss[0] == got.entropy[0] == 0 and got.correct[0] and not u.any()
    u, y = rows(SEVERAL, n=5)
    y[:] = 4300
    u[0, : BLOCK + 100] = -math.inf  # a whole first block
    u[1, BLOCK : 2 * BLOCK + 100] = -math.inf
    u[2] = -math.inf
    u[2, 4300] = -3.0
    u[3, 2 * BLOCK :] = -math.inf  # the target too: a loss that is infinite
    u[4, : 2 * BLOCK] = -math.inf  # all but the last block
    got = compare(kernels, u, y, HeadOptions(), torch.bfloat16)
    assert got.loss[2] == 0 and got.entropy[2] == 0 and got.correct[2] and got.loss[3] == math.inf


@pytest.mark.parametrize("options", [HeadOptions(), HeadOptions(logit_scale=0.7), HeadOptions(softcap=3.0)])
def test_kernel_takes_the_first_of_equals(kernels, options):
    # Columns of one thread in several blocks, neighbours in two blocks, and in a block that is not full.
    y = [17, 17 + BLOCK, 0, 1, BLOCK - 1, BLOCK, 4300, 4400]
    u = torch.zeros(len(y), SEVERAL, device=DEVICE)
    u[:2, [17, 17 + BLOCK, 4300]] = 1.0
    u[4:6, [BLOCK - 1, BLOCK]] = 1.0
    u[6:, [4300, 4400]] = 1.0
    got = kernels.row_statistics(u, torch.tensor(y, device=DEVICE), options, None)
    assert got.correct.tolist() == [True, False] * 4


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_kernel_hides_no_nan(kernels, value):
    columns = [0, BLOCK + 5, 4400]
    u, _ = rows(SEVERAL, n=7)
    top = u.argmax(-1)
    y = top.clone()
    for row, column in enumerate(columns):
        u[row, column] = value
        u[3 + row, column] = value
        y[3 + row] = column
    y[6] = top[6]
    got = kernels.row_statistics(u.clone(), y, HeadOptions(), grad := torch.empty_like(u, dtype=torch.bfloat16))
    for values in (got.training_loss, got.loss, got.entropy, got.logsumexp):
        assert values[:6].isnan().all() and values[6].isfinite()
    assert got.correct.tolist() == [False] * 6 + [True]
    assert grad[:6].isnan().any(-1).all() and grad[6].isfinite().all()


def test_kernel_without_rows(kernels):
    u = torch.zeros(0, 9, device=DEVICE)
    got = kernels.row_statistics(u, torch.zeros(0, dtype=torch.int64, device=DEVICE), HeadOptions(), u)
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


# --- the accelerators' route: ignored rows run along, several chunks

N = 10
HEADS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "all": {"bias": torch.linspace(-1, 1, 100), "softcap": 5.0, "logit_scale": 1.5},
}
KNOWN = torch.linspace(0, 2, N)
WEIGHTS = {
    "mean": None,
    "tensor": torch.linspace(0, 1e-4, N),
    "function": lambda loss, entropy, rows: KNOWN.to(loss.device)[rows] * entropy / (1 + loss),
}


@pytest.fixture(params=["triton", "torch"])
def accelerator_route(request, monkeypatch):
    if request.param == "triton":
        request.getfixturevalue("kernels")
    else:
        monkeypatch.setattr(head_pass, "_has_triton", lambda: False)
        monkeypatch.setattr(head_pass, "_TORCH_ELEMENTS", 300)  # three rows at a time
    monkeypatch.setattr(placement, "host_computes", lambda device: False)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("chunk_rows", [None, 4])
def test_accelerator_route(accelerator_route, head, weighting, dtype, chunk_rows):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, 16, generator=g).to(dtype)
    weight = (torch.randn(100, 16, generator=g) / 4).to(dtype)
    targets = torch.randint(100, (N,), generator=g)
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
    # The values are as exact whatever the type; of half-precision inputs the gradients for the logits are rounded.
    for name in ("total_loss", "loss", "entropy", "logsumexp"):
        a, b = getattr(got, name).detach().cpu(), getattr(want, name).detach()
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=5e-6, atol=2e-5, equal_nan=True)
    assert not got.correct[::5].any() and torch.equal(got.correct.cpu(), want.correct)
    tolerance = 2e-5 if dtype == torch.float32 else 4 * ROUNDING[dtype]
    for a, b in zip(gradients, wanted, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=tolerance * b.abs().max().item())


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

COMPILING = """
import itertools, json, re, subprocess, sys, tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dynamics.ops import triton_kernels

POINTERS = {"u_ptr": "fp32", "target_ptr": "i64", "correct_ptr": "i1"}
NAMES = triton_kernels.row_kernel.arg_names
# A loop's body: from a label to the branch back to it.
LOOP = re.compile(r"^(\\$L__BB\\w+):(?:(?!^\\$L__BB).)*?bra(?:\\.uni)?[ \\t]+\\1;", re.MULTILINE | re.DOTALL)


def built(capability, n_vocab, gradient, flags, statistics=True):
    constants = {"N_VOCAB": n_vocab, "CAPPED": flags, "SMOOTHED": flags, "GRADIENT": gradient is not None}
    constants |= {"STATISTICS": statistics, "BLOCK": triton_kernels._MAX_BLOCK}
    signature, divisible = {}, {}
    for i, name in enumerate(NAMES):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*" + (gradient or "fp32" if name == "grad_ptr" else POINTERS.get(name, "fp32"))
        else:
            signature[name] = "i32" if name.endswith("_stride") else "fp32"
        if name.endswith(("_ptr", "_stride")):
            divisible[(i,)] = [["tt.divisibility", 16]]  # as torch allocates, and head_pass lays out
    source = ASTSource(fn=triton_kernels.row_kernel, signature=signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": triton_kernels._WARPS, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    ptx = compiled.asm["ptx"]
    return {
        "usage": {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\\d+)", usage)},
        "loops": [match[0] for match in LOOP.finditer(ptx)],
    }


print(json.dumps([built(*case) for case in json.loads(sys.argv[1])]))
"""
VARIANTS = [
    # compute capability, V, type of the gradient, capped and smoothed
    (90, 151936, "bf16", False),
    (90, 151936, "fp32", False),
    (90, 151936, None, False),
    (90, 50257, "bf16", False),
    (90, 151936, "bf16", True),
    (80, 151936, "bf16", False),
    (100, 151936, "bf16", False),
    (90, 151936, "bf16", False, False),
]


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton's compiler")
def test_kernel_compiled():
    # In a process of its own: here the module may have been imported for the interpreter.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "error", "-c", COMPILING, json.dumps(VARIANTS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    compiled = json.loads(done.stdout)
    # Without statistics the loop has less to do: no sum for the entropy, no first column.
    with_statistics, without = (len(compiled[i]["loops"][0].splitlines()) for i in (0, -1))
    assert without < with_statistics - 8 * 4, (without, with_statistics)
    for variant, found in zip(VARIANTS, compiled, strict=True):
        usage, loops, gradient = found["usage"], found["loops"], variant[2]
        # Nothing is spilled. 64 registers let four programs run on a multiprocessor, 96 two.
        assert usage["STACK"] == usage["LOCAL"] == 0 and 32 < usage["REG"] <= 96, (variant, usage)
        assert len(loops) == (1 if gradient is None else 2), variant
        for loop in loops:
            # Per thread 8 logits by 16 bytes, whatever the vocabulary; nobody waits for another thread.
            assert loop.count("ld.global.v4.b32") == 2 and loop.count("ld.global") == 2, variant
            assert not re.search(r"bar\.|shfl|\.shared", loop), variant
        stores = [re.findall(r"st\.global\S*", loop) for loop in loops]
        expected = {None: 0, "bf16": 1, "fp32": 2}[gradient]
        assert stores[0] == [] and stores[1:] == ([["st.global.v4.b32"] * expected] if gradient else []), variant
