"""The fused operator against float64 oracles: values, gradients, what must raise, and that chunks change nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.errors import InputError
from dynamics.ops import head_pass, placement
from dynamics.ops.head_pass import IDENTITY_BOUND
from dynamics.ops.linear_statistics import linear_token_statistics
from dynamics.ops.row_statistics import HeadOptions, first_argmax

IGNORED = -100

pytestmark = pytest.mark.usefixtures("each_route")


def logits64(hidden, weight, bias=None, softcap=None, logit_scale=None):
    """Cohere's and Gemma's order: product with bias, scale, cap."""
    z = hidden.double() @ weight.double().T
    z = z if bias is None else z + bias.double()
    z = z if logit_scale is None else z * logit_scale
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def oracle(hidden, weight, targets, *, token_weight=None, label_smoothing=0.0, ignore_index=IGNORED, **head):
    """Values by float64 numpy, row by row."""
    z_all = logits64(hidden, weight, **head).detach().numpy()
    n, v = z_all.shape
    loss, entropy, lse, training = (np.full(n, np.nan) for _ in range(4))
    correct = np.zeros(n, dtype=bool)
    for i, y in enumerate(targets.tolist()):
        if y == ignore_index:
            continue
        z = z_all[i]
        top = z.max()
        lse[i] = top + math.log(np.exp(z - top).sum())
        p = np.exp(z - lse[i])
        loss[i] = lse[i] - z[y]
        entropy[i] = sum(q * (lse[i] - x) for q, x in zip(p, z, strict=True) if q > 0)
        correct[i] = z.argmax() == y
        training[i] = (1 - label_smoothing) * loss[i]
        if label_smoothing:
            training[i] += label_smoothing * (lse[i] - z).mean()
    kept = targets.numpy() != ignore_index
    if token_weight is None:
        total = training[kept].mean() if kept.any() else math.nan
    else:
        w = (
            token_weight(torch.tensor(loss), torch.tensor(entropy), slice(None))
            if callable(token_weight)
            else token_weight
        )
        total = (w.double().numpy()[kept] * training[kept]).sum()
    return total, loss, entropy, correct, lse


def oracle_gradients(hidden, weight, targets, *, bias=None, token_weight=None, label_smoothing=0.0, **head):
    """Gradients by autograd in float64, of the loss written with log_softmax."""
    leaves = [t.detach().double().requires_grad_() for t in (hidden, weight) + (() if bias is None else (bias,))]
    log_p = torch.log_softmax(logits64(*leaves[:2], bias=leaves[2] if bias is not None else None, **head), -1)
    kept = (targets != IGNORED).nonzero()[:, 0]
    log_p = log_p[kept]
    loss = -log_p[torch.arange(len(kept)), targets[kept]]
    per_row = (1 - label_smoothing) * loss - (label_smoothing * log_p.mean(-1) if label_smoothing else 0.0)
    if token_weight is None:
        w = torch.full_like(per_row, 1 / max(1, len(kept)))
    elif callable(token_weight):
        entropy = -(log_p.exp() * log_p).sum(-1)
        w = token_weight(loss.detach(), entropy.detach(), kept).double()
    else:
        w = token_weight.double()[kept]
    return torch.autograd.grad((w.detach() * per_row).sum(), leaves)


def case(n=60, h=16, v=150, scale=1.0, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, h, generator=g)
    weight = torch.randn(v, h, generator=g) * (scale / math.sqrt(h))
    targets = torch.randint(v, (n,), generator=g)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    targets[::3] = (hidden.double() @ weight.double().T).argmax(-1)[::3]  # enough correct ones
    targets[::7] = IGNORED
    return hidden, weight, targets


def check(hidden, weight, targets, *, tolerance=1e-6, gradient_tolerance=1e-5, exact_argmax=True, **options):
    """Values and gradients of a call against the oracles; returns the result."""
    bias = options.get("bias")
    leaves = [t.detach().clone().requires_grad_() for t in (hidden, weight) + (() if bias is None else (bias,))]
    if bias is not None:
        options = options | {"bias": leaves[2]}
    got = linear_token_statistics(leaves[0], leaves[1], targets, **options)
    plain = {k: x for k, x in options.items() if k != "chunk_rows"} | ({} if bias is None else {"bias": bias})
    total, loss, entropy, correct, lse = oracle(hidden, weight, targets, **plain)
    head = {k: plain[k] for k in ("bias", "softcap", "logit_scale") if k in plain}
    z = logits64(hidden, weight, **head)
    bound = tolerance * (10 + z[z.isfinite()].abs().max().item())
    np.testing.assert_allclose(got.loss.detach().numpy(), loss, rtol=0, atol=bound)
    np.testing.assert_allclose(got.entropy.detach().numpy(), entropy, rtol=0, atol=bound)
    np.testing.assert_allclose(got.logsumexp.detach().numpy(), lse, rtol=0, atol=bound)
    assert got.correct.dtype == torch.bool
    if exact_argmax:
        assert np.array_equal(got.correct.numpy(), correct)
    np.testing.assert_allclose(got.total_loss.item(), total, rtol=10 * tolerance, atol=bound)
    got.total_loss.backward()
    # p - q rounds at about 1e-7 whatever is left of it; the gradients are that times hidden or weight.
    small = 0.02 * max(1.0, hidden.abs().max().item(), weight.abs().max().item())
    for leaf, want in zip(leaves, oracle_gradients(hidden, weight, targets, **plain), strict=True):
        assert leaf.grad.dtype == leaf.dtype and leaf.grad.shape == leaf.shape
        atol = gradient_tolerance * max(want.abs().max().item(), small)
        np.testing.assert_allclose(leaf.grad.double().numpy(), want.numpy(), rtol=0, atol=atol)
    return got


def weights(n, seed=1):
    w = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    w[::4] = 0.0
    return w


def ADAPTIVE(loss, entropy, rows):
    return entropy / (1 + loss)


HEADS = {
    "plain": {},
    "bias": {"bias": torch.linspace(-2, 2, 150)},
    "softcap": {"softcap": 2.5},
    "scale": {"logit_scale": 0.0625},
    "all": {"bias": torch.linspace(-2, 2, 150), "softcap": 2.5, "logit_scale": 1.7},
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighting", ["mean", "tensor", "function"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(head, smoothing, weighting, dtype):
    hidden, weight, targets = case(scale=3.0, dtype=dtype)
    options = {k: x.to(dtype) if isinstance(x, torch.Tensor) else x for k, x in HEADS[head].items()}
    token_weight = {"mean": None, "tensor": weights(60), "function": ADAPTIVE}[weighting]
    exact = dtype == torch.float64
    got = check(
        hidden,
        weight,
        targets,
        token_weight=token_weight,
        label_smoothing=smoothing,
        tolerance=1e-12 if exact else 1e-6,
        gradient_tolerance=1e-10 if exact else 1e-5,
        **options,
    )
    assert got.total_loss.dtype == got.loss.dtype == got.entropy.dtype == got.logsumexp.dtype == dtype
    assert 5 < got.correct.sum() < 50


def test_by_hand():
    # W = log of (2, 1, 1) and h = 1: p = (1/2, 1/4, 1/4), entropy 1.5 ln 2.
    weight = torch.log(torch.tensor([[2.0], [1.0], [1.0]])).requires_grad_()
    hidden = torch.ones(3, 1, requires_grad=True)
    targets = torch.tensor([0, 1, IGNORED])
    got = linear_token_statistics(hidden, weight, targets, token_weight=torch.tensor([1.0, 3.0, math.nan]))
    assert got.loss[:2].tolist() == pytest.approx([math.log(2), math.log(4)])
    assert got.entropy[:2].tolist() == pytest.approx([1.5 * math.log(2)] * 2)
    assert got.logsumexp[:2].tolist() == pytest.approx([math.log(4)] * 2)
    assert got.correct.tolist() == [True, False, False]
    for values in (got.loss, got.entropy, got.logsumexp):
        assert values[2].isnan()
    assert got.total_loss.item() == pytest.approx(math.log(2) + 3 * math.log(4))
    got.total_loss.backward()
    # Row 0: p - onehot = (-1/2, 1/4, 1/4); row 1, times 3: (3/2, -9/4, 3/4).
    assert weight.grad[:, 0].tolist() == pytest.approx([1.0, -2.0, 1.0])
    assert hidden.grad[:, 0].tolist() == pytest.approx([-0.5 * math.log(2), 1.5 * math.log(2), 0.0])


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    h=st.integers(1, 40),
    v=st.integers(1, 300),
    scale=st.sampled_from([0.1, 1.0, 10.0, 60.0, 1e4]),
    rows=st.one_of(st.none(), st.integers(1, 50)),
    seed=st.integers(0, 10**6),
    smoothing=st.sampled_from([0.0, 0.2]),
    weighted=st.booleans(),
)
def test_any_shape(n, h, v, scale, rows, seed, smoothing, weighted):
    hidden, weight, targets = case(n, h, v, scale, seed)
    got = check(
        hidden,
        weight,
        targets,
        chunk_rows=rows,
        label_smoothing=smoothing,
        token_weight=weights(n) if weighted else None,
        exact_argmax=False,  # float32 may see a tie where float64 sees none
        gradient_tolerance=max(1e-5, 1e-6 * scale),  # exp turns an absolute error of z into a relative one
    )
    kept = targets != IGNORED
    values = got.entropy.detach()[kept]
    assert (values >= 0).all() and (values <= math.log(v) + 1e-6 * (10 + 10 * scale)).all()
    assert (got.loss.detach()[kept] >= 0).all()


@pytest.mark.parametrize("head", ["plain", "all"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradcheck(head, smoothing):
    hidden, weight, targets = case(9, 5, 11, dtype=torch.float64)
    bias = torch.linspace(-1, 1, 11).double().requires_grad_() if head == "all" else None
    options = {"softcap": 2.0, "logit_scale": 1.3} if head == "all" else {}

    def total(hidden, weight, bias):
        return linear_token_statistics(
            hidden,
            weight,
            targets,
            bias=bias,
            token_weight=weights(9),
            label_smoothing=smoothing,
            chunk_rows=4,
            **options,
        ).total_loss

    assert torch.autograd.gradcheck(total, (hidden.requires_grad_(), weight.requires_grad_(), bias))


@pytest.mark.parametrize("head", HEADS)
def test_chunks_change_nothing(head):
    hidden, weight, targets = case(scale=3.0)
    results = []
    for rows in (1, 7, 59, 60, 1000, None):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        got = linear_token_statistics(h, w, targets, chunk_rows=rows, token_weight=ADAPTIVE, **HEADS[head])
        got.total_loss.backward()
        results.append([*(x.detach().double() for x in got), h.grad, w.grad])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("hidden_size", [512, 513, 700, 1024])
@pytest.mark.parametrize("head", ["plain", "bias"])
def test_wide_hidden_states_come_in_slices(hidden_size, head):
    check(*case(30, hidden_size, 150, scale=3.0), **HEADS[head])


# --- numerics


@pytest.mark.parametrize("v", [4_096, 20_000])
@pytest.mark.parametrize(
    ("kind", "largest"),
    # At larger logits the rounding of a float32 product with an outlier or a common part alone is above the tolerance.
    [(kind, largest) for kind in ("outlier", "common") for largest in (1.0, 16.0, IDENTITY_BOUND)]
    + [(kind, x) for kind in ("random", "peaked", "wide") for x in (1.0, 16.0, IDENTITY_BOUND, 64.0, 1e3, 1e4)],
)
def test_accuracy_over_a_large_vocabulary(largest, kind, v):
    g = torch.Generator().manual_seed(3)
    h = 600 if kind == "wide" else 128
    hidden, weight = torch.randn(64, h, generator=g), torch.randn(v, h, generator=g)
    targets = torch.randint(v, (64,), generator=g)
    if kind == "peaked":  # one large probability and a long tail: where a sum in order loses the tail
        hidden = weight[targets] + 0.7 * hidden
    elif kind == "outlier":  # one large channel
        hidden[:, 3] = 30.0
        weight[:, 3] *= 3.0
    elif kind == "common":  # all logits share a large part
        weight += 5 * torch.randn(hidden.shape[1], generator=g)
    weight *= 0.999 * largest / (hidden @ weight.T).abs().max()
    z = logits64(hidden, weight)
    log_p = torch.log_softmax(z, -1)
    loss, entropy = -log_p[torch.arange(64), targets], -(log_p.exp() * log_p).sum(-1)
    tolerance = 1e-6 * (10 + largest)
    # with the gradient by the identity below the bound, without it directly
    for needs in (True, False):
        got = linear_token_statistics(hidden.clone().requires_grad_(needs), weight, targets)
        assert (got.loss.detach() - loss).abs().max() < tolerance
        assert (got.entropy.detach() - entropy).abs().max() < tolerance


@pytest.mark.parametrize(
    ("options", "scale", "expected"),
    [
        ({}, 0.99, "identity"),
        ({}, 1.01, "direct"),
        ({"softcap": 30.0}, 0.99, "direct"),
        ({"bias": torch.zeros(3)}, 0.99, "direct"),
        ({"logit_scale": 0.5}, 1.9, "identity"),
        ({"logit_scale": 0.5}, 2.1, "direct"),
    ],
)
@pytest.mark.parametrize("target", [0, 1])
def test_where_entropy_is_read_off_the_gradient(options, scale, expected, target, monkeypatch):
    # Logits (+b, -b, 0): the largest counts, and so does a target far below it.
    weight = torch.tensor([[1.0], [-1.0], [0.0]]) * IDENTITY_BOUND * scale
    if target == 1:
        weight[0] = 0.0
    used = []
    for name in ("identity_entropy", "direct_rows"):
        original = getattr(head_pass, name)
        monkeypatch.setattr(head_pass, name, lambda *a, f=original, n=name, **k: used.append(n) or f(*a, **k))
    hidden = torch.ones(1, 1, requires_grad=True)
    linear_token_statistics(hidden, weight, torch.tensor([target]), **options)
    assert used == ["identity_entropy" if expected == "identity" else "direct_rows"]
    used.clear()
    with torch.no_grad():
        linear_token_statistics(hidden, weight, torch.tensor([target]), **options)
    assert used == ["direct_rows"]


def test_identity_and_direct_agree(monkeypatch):
    hidden, weight, targets = case(scale=8.0, v=5_000)
    hidden.requires_grad_()
    for smoothing in (0.0, 0.3):
        by_identity = linear_token_statistics(hidden, weight, targets, label_smoothing=smoothing)
        with monkeypatch.context() as patch:
            patch.setattr(head_pass, "IDENTITY_BOUND", -1.0)
            direct = linear_token_statistics(hidden, weight, targets, label_smoothing=smoothing)
        for a, b in zip(by_identity, direct, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=3e-5, equal_nan=True)


def test_zero_weights_leave_the_entropy_alone():
    hidden, weight, targets = case(scale=3.0)
    hidden.requires_grad_()
    unweighted = linear_token_statistics(hidden, weight, targets)
    got = linear_token_statistics(hidden, weight, targets, token_weight=torch.zeros(60))
    assert got.total_loss.item() == 0.0
    assert torch.equal(got.entropy.nan_to_num(), unweighted.entropy.nan_to_num())


def test_underflowed_probabilities_keep_their_loss():
    weight = torch.tensor([[1e4], [0.0], [-1e4]])
    got = linear_token_statistics(torch.ones(3, 1, requires_grad=True), weight, torch.tensor([0, 1, 2]))
    assert got.loss.tolist() == [0.0, 1e4, 2e4] and got.entropy.tolist() == [0.0] * 3
    assert not got.loss.signbit().any()


@pytest.mark.parametrize("grad", [True, False])
def test_masked_columns(grad):
    hidden, weight, targets = case(v=150)
    targets = torch.where(targets >= 50, targets % 50, targets)
    bias = torch.zeros(150)
    bias[50:] = -math.inf
    h, w, b = hidden.clone().requires_grad_(grad), weight.clone().requires_grad_(grad), bias.requires_grad_(grad)
    got = linear_token_statistics(h, w, targets, bias=b)
    cut = linear_token_statistics(hidden, weight[:50], targets)
    for a, c in zip(got, cut, strict=True):
        torch.testing.assert_close(a.detach(), c, equal_nan=True)
    if grad:
        got.total_loss.backward()
        assert w.grad[50:].abs().max() == 0 and b.grad[50:].abs().max() == 0
        want = oracle_gradients(hidden, weight[:50], targets)
        torch.testing.assert_close(h.grad.double(), want[0], rtol=1e-4, atol=1e-7)
    # A masked target has probability 0.
    assert linear_token_statistics(hidden[:1], weight, torch.tensor([60]), bias=bias).loss.item() == math.inf


@pytest.mark.parametrize("v", [1, 5, 128, 200, 64 * 3, 64 * 3 + 1])
def test_first_argmax(v):
    g = torch.Generator().manual_seed(v)
    z = torch.randint(3, (300, v), generator=g).float()  # many ties
    z[0] = -math.inf
    value, index = first_argmax(z)
    assert np.array_equal(index.numpy(), z.numpy().argmax(axis=1)) and torch.equal(value, z.amax(-1))


def test_ties_go_to_the_first_column():
    got = linear_token_statistics(torch.zeros(3, 4), torch.ones(200, 4), torch.tensor([0, 1, 199]))
    assert got.correct.tolist() == [True, False, False]


def test_nan_is_not_hidden():
    hidden, weight, targets = case()
    hidden[1] = math.nan
    for h in (hidden, hidden.clone().requires_grad_()):
        got = linear_token_statistics(h, weight, targets)
        assert got.total_loss.isnan() and got.entropy[1].isnan() and not got.correct[1]
        assert got.entropy[2].isfinite()


# --- types and layouts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", ["plain", "all"])
def test_half_precision_inputs(dtype, head):
    hidden, weight, targets = case(200, 64, 150, scale=4.0, dtype=dtype)
    options = {k: x.to(dtype) if isinstance(x, torch.Tensor) else x for k, x in HEADS[head].items()}
    got = check(hidden, weight, targets, gradient_tolerance=1e-2, exact_argmax=head == "plain", **options)
    assert got.loss.dtype == got.total_loss.dtype == torch.float32


def test_float16_gradients_do_not_underflow():
    # 1/N is below float16's smallest number; the loss scale comes in with the backward pass.
    n = 40_000
    hidden = torch.zeros(n, 1, dtype=torch.float16, requires_grad=True)
    weight = torch.tensor([[0.01], [0.0]], dtype=torch.float16, requires_grad=True)
    got = linear_token_statistics(hidden, weight, torch.zeros(n, dtype=torch.int64))
    (got.total_loss * 2.0**16).backward()
    want = -0.5 * weight[0].item() / n * 2.0**16
    torch.testing.assert_close(hidden.grad[:, 0], torch.full((n,), want, dtype=torch.float16), rtol=2e-3, atol=0)


@pytest.mark.parametrize("types", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_autocast(types):
    hidden, weight, targets = case(200, 32, 150, scale=3.0)
    h = hidden.to(types[0]).requires_grad_()
    w = weight.to(types[1]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = linear_token_statistics(h, w, targets)
        got.total_loss.backward()  # as some trainers do, inside
    assert h.grad.dtype == types[0] and w.grad.dtype == types[1]
    total, loss, entropy, _, _ = oracle(hidden.bfloat16(), weight.bfloat16(), targets)
    assert got.total_loss.item() == pytest.approx(total, abs=1e-5)
    np.testing.assert_allclose(got.entropy.detach().numpy(), entropy, atol=2e-5)
    want = oracle_gradients(hidden.bfloat16(), weight.bfloat16(), targets)
    torch.testing.assert_close(w.grad.double(), want[1], rtol=0, atol=1e-4 * want[1].abs().max().item())


def test_layouts():
    hidden, weight, targets = case(40, 16, 150)
    spread_h, spread_w = torch.zeros(40, 32), torch.zeros(150, 48)
    spread_h[:, ::2], spread_w[:, 16:32] = hidden, weight
    want = linear_token_statistics(hidden, weight, targets)
    layouts = [
        (hidden.T.contiguous().T, weight.T.contiguous().T),
        (spread_h[:, ::2], spread_w[:, 16:32]),
    ]
    for h, w in layouts:
        assert not h.is_contiguous() and not w.is_contiguous()
        for a, b in zip(linear_token_statistics(h, w, targets), want, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)
        check(h, w, targets)
    expanded = hidden[:1].expand(40, 16)
    check(expanded, weight, torch.arange(80)[::2].flip(0))


def test_without_onednn():
    # Switched off in torch, it is not taken, whatever the route.
    torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        for head in HEADS.values():
            check(*case(scale=3.0), **head)
    finally:
        torch.backends.mkldnn.set_flags(_enabled=True)


def test_int32_targets_and_another_ignore_index():
    hidden, weight, targets = case()
    a = linear_token_statistics(hidden, weight, targets)
    b = linear_token_statistics(hidden, weight, targets.where(targets >= 0, -1).int(), ignore_index=-1)
    assert torch.equal(a.loss.nan_to_num(), b.loss.nan_to_num()) and torch.equal(a.total_loss, b.total_loss)


# --- nothing to predict


@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_rows_ignored(n, dtype):
    hidden = torch.randn(n, 4).to(dtype).requires_grad_()
    weight = torch.randn(7, 4).to(dtype).requires_grad_()
    bias = torch.zeros(7, dtype=dtype, requires_grad=True)
    targets = torch.full((n,), IGNORED)
    for token_weight, expected in ((None, math.nan), (torch.ones(n), 0.0), (ADAPTIVE, 0.0)):
        got = linear_token_statistics(hidden, weight, targets, bias=bias, token_weight=token_weight)
        assert got.total_loss.item() == pytest.approx(expected, nan_ok=True)
        assert got.loss.shape == got.entropy.shape == got.correct.shape == (n,) and not got.correct.any()
        got.total_loss.backward()
        for leaf in (hidden, weight, bias):
            assert not leaf.grad.any()
            leaf.grad = None


def test_ignored_rows_may_hold_anything():
    hidden, weight, targets = case()
    hidden[targets == IGNORED] = math.nan
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    linear_token_statistics(h, w, targets).total_loss.backward()
    assert w.grad.isfinite().all() and not h.grad[targets == IGNORED].any()


# --- autograd


def test_only_needed_gradients(monkeypatch):
    hidden, weight, targets = case()
    bias = torch.zeros(150)
    full = oracle_gradients(hidden, weight, targets, bias=bias)
    seen = []
    original = head_pass.head_pass
    monkeypatch.setattr(
        "dynamics.ops.linear_statistics.head_pass", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1]
    )
    for which in range(3):
        leaves = [t.clone().requires_grad_(i == which) for i, t in enumerate((hidden, weight, bias))]
        linear_token_statistics(leaves[0], leaves[1], targets, bias=leaves[2]).total_loss.backward()
        torch.testing.assert_close(leaves[which].grad.double(), full[which], rtol=1e-4, atol=1e-6)
        got = seen.pop()
        held = [got.grad_hidden, got.grad_weight, got.grad_bias]
        assert [g is not None for g in held] == [i == which for i in range(3)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_forward_only(mode):
    hidden, weight, targets = case()
    hidden.requires_grad_()
    want = linear_token_statistics(hidden, weight, targets)
    saved = []
    with mode(), torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        got = linear_token_statistics(hidden, weight, targets)
    assert not saved and not any(x.requires_grad for x in got)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b.detach(), equal_nan=True)
    assert not any(x.requires_grad for x in linear_token_statistics(hidden.detach(), weight, targets))


@pytest.mark.parametrize("upstream", [0.0, 1.0, 0.25, 65536.0])
def test_upstream_gradient(upstream):
    hidden, weight, targets = case()
    want = oracle_gradients(hidden, weight, targets)
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    (linear_token_statistics(h, w, targets).total_loss * upstream).backward()
    for leaf, g in ((h, want[0]), (w, want[1])):
        torch.testing.assert_close(leaf.grad.double(), g * upstream, rtol=1e-4, atol=1e-6 * upstream)


def test_accumulation_and_a_kept_graph():
    hidden, weight, targets = case()
    want = oracle_gradients(hidden, weight, targets)[1]
    w = weight.requires_grad_()
    for _ in range(2):
        (linear_token_statistics(hidden, w, targets).total_loss / 2).backward()
    torch.testing.assert_close(w.grad.double(), want, rtol=1e-4, atol=1e-6)
    total = linear_token_statistics(hidden, w, targets).total_loss
    w.grad = None
    (total * 3).backward(retain_graph=True)
    (total * 2).backward()
    torch.testing.assert_close(w.grad.double(), 5 * want, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_weight_tied_to_an_embedding():
    _, weight, targets = case(v=150)
    ids = torch.arange(60)

    def total(w, fused):
        hidden = torch.tanh(w[ids])
        if fused:
            return linear_token_statistics(hidden, w, targets).total_loss
        return torch.nn.functional.cross_entropy(hidden @ w.T, targets)

    grads = [torch.autograd.grad(total(w := weight.clone().requires_grad_(), fused), w)[0] for fused in (True, False)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["loss", "entropy", "logsumexp"])
def test_a_gradient_through_a_statistic_raises(name):
    hidden, weight, targets = case()
    targets = targets.clamp_min(0)
    hidden.requires_grad_()
    got = linear_token_statistics(hidden, weight, targets)
    with pytest.raises(RuntimeError, match=f"per-token output {name}: detach"):
        getattr(got, name).sum().backward()
    for extra in (getattr(got, name).mean(), 0.0 * getattr(got, name)[0]):
        got = linear_token_statistics(hidden, weight, targets)
        with pytest.raises(RuntimeError, match="no gradient through"):
            (linear_token_statistics(hidden, weight, targets).total_loss + got.total_loss + extra).backward()
            pytest.fail("silently ignored")
        break
    got = linear_token_statistics(hidden, weight, targets)
    (got.total_loss + getattr(got, name).detach().mean()).backward()
    assert hidden.grad.isfinite().all()


def test_a_second_derivative_raises():
    hidden, weight, targets = case()
    hidden.requires_grad_()
    got = linear_token_statistics(hidden, weight, targets)
    with pytest.raises(RuntimeError, match="no second derivative.*without create_graph"):
        torch.autograd.grad(got.total_loss, hidden, create_graph=True)


# --- token weights by a function


def test_a_weight_function_sees_kept_rows_detached():
    hidden, weight, targets = case(scale=3.0)
    hidden.requires_grad_()
    seen = []

    def function(loss, entropy, rows):
        assert loss.shape == entropy.shape and loss.dtype == entropy.dtype == torch.float32
        assert not loss.requires_grad and loss.isfinite().all() and entropy.isfinite().all()
        seen.append(len(loss))
        return torch.ones_like(loss)

    got = linear_token_statistics(hidden, weight, targets, token_weight=function, chunk_rows=20)
    kept = int((targets != IGNORED).sum())
    assert sum(seen) == kept and len(seen) == math.ceil(kept / 20)
    mean = linear_token_statistics(hidden, weight, targets).total_loss
    assert got.total_loss.item() == pytest.approx(kept * mean.item(), rel=1e-6)


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("ignored", [True, False])
def test_a_weight_function_knows_its_rows(host, ignored, monkeypatch):
    # Weights known beforehand times what the loss says; ignored rows, which run along on accelerators, count 0 even
    # where the function makes NaN of them.
    monkeypatch.setattr(placement, "host_computes", lambda device: host)
    monkeypatch.setattr(head_pass, "_has_triton", lambda: False)
    hidden, weight, targets = case(scale=3.0)
    if not ignored:
        targets = targets.clamp_min(0)
    kept = targets != IGNORED
    known = torch.where(kept, weights(60, seed=2), math.nan)
    seen = []

    def function(loss, entropy, rows):
        assert isinstance(rows, slice) or (rows.dtype == torch.int64 and rows.device == loss.device)
        seen.append(torch.arange(60)[rows])
        assert len(seen[-1]) == len(loss)
        return known[rows] * loss.sqrt()

    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    got = linear_token_statistics(*leaves, targets, token_weight=function, chunk_rows=20)
    want = torch.arange(60) if not host else kept.nonzero()[:, 0]
    assert torch.equal(torch.cat(seen), want)
    loss = torch.tensor(oracle(hidden, weight, targets)[1])
    given = (known.double() * loss.sqrt()).nan_to_num()
    total = (given * loss.nan_to_num()).sum().item()
    assert got.total_loss.item() == pytest.approx(total, rel=1e-5) and total > 1
    got.total_loss.backward()
    for leaf, g in zip(leaves, oracle_gradients(hidden, weight, targets, token_weight=given), strict=True):
        torch.testing.assert_close(leaf.grad.double(), g, rtol=1e-4, atol=1e-5)


def test_a_weight_function_works_without_gradients():
    hidden, weight, targets = case(scale=3.0)
    got = linear_token_statistics(hidden, weight, targets, token_weight=ADAPTIVE)
    assert got.total_loss.item() == pytest.approx(oracle(hidden, weight, targets, token_weight=ADAPTIVE)[0], rel=1e-5)


# --- bad input

H, W, Y = torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((H[None], W, Y), {}, r"hidden has shape \(1, 4, 3\): flatten it"),
        ((H, W.T, Y), {}, r"weight has shape \(3, 5\): it must be \(vocabulary, 3\)"),
        ((H, W[:0], Y), {}, r"weight has shape \(0, 3\)"),
        ((H, W, Y[:2]), {}, r"targets has shape \(2,\): it must be \(4,\)"),
        ((H, W, Y.float()), {}, "targets have type torch.float32: they must be token ids"),
        ((H, W, Y + 5), {}, "target 5 at row 0 is not in a vocabulary of 5: give ids from 0 to 4, or -100"),
        ((H, W, Y - 1), {}, "target -1 at row 0"),
        ((H, W.double(), Y), {}, "weight has type torch.float64 but hidden torch.float32: cast one"),
        ((H.long(), W, Y), {}, "hidden has type torch.int64"),
        ((H, W.to("meta"), Y), {}, "weight is on meta and hidden on cpu"),
        ((H, W, Y), {"bias": torch.zeros(4)}, r"bias has shape \(4,\): it must be \(5,\)"),
        ((H, W, Y), {"token_weight": torch.zeros(5)}, r"token_weight has shape \(5,\)"),
        ((H, W, Y), {"token_weight": torch.zeros(4, requires_grad=True)}, "token_weight requires grad.*detach"),
        ((H, W, Y), {"token_weight": 2.0}, "token_weight is 2.0: give a tensor"),
        ((H, W, Y), {"token_weight": lambda x, e, rows: x[:1]}, r"token_weight returned \(1,\) for 4 rows"),
        ((H, W, Y), {"token_weight": lambda x, e, rows: 1.0}, "token_weight returned float for 4 rows"),
        (
            (H, W, Y),
            {"token_weight": lambda x, e, rows: x * torch.ones(1, requires_grad=True)},
            "returned a tensor that requires grad",
        ),
        ((H, W, Y), {"softcap": 0.0}, "softcap is 0.0: give a positive number"),
        ((H, W, Y), {"softcap": math.nan}, "softcap is nan"),
        ((H, W, Y), {"logit_scale": -1.0}, "logit_scale is -1.0"),
        ((H, W, Y), {"label_smoothing": 1.0}, r"label_smoothing is 1.0: give a share in \[0, 1\)"),
        ((H, W, Y), {"chunk_rows": 0}, "chunk_rows is 0: give an integer from 1"),
        ((H, W, Y), {"chunk_rows": 2.0}, "chunk_rows is 2.0"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(InputError, match=message):
        linear_token_statistics(*arguments, **options)


# --- without statistics


def test_loss_alone_is_the_same_loss():
    # The benchmark's "recording off".
    hidden, weight, targets = case(scale=3.0)
    results = [
        head_pass.head_pass(
            hidden,
            weight,
            None,
            targets,
            None,
            HeadOptions(statistics=statistics),
            ignore_index=IGNORED,
            chunk_rows=None,
            needs=(True, True, False),
        )
        for statistics in (True, False)
    ]
    torch.testing.assert_close(results[0].total_loss, results[1].total_loss)
    torch.testing.assert_close(results[0].grad_weight, results[1].grad_weight)
