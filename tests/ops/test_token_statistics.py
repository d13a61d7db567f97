"""Loss, entropy and correctness of tokens against float64 numpy; the shift on a hand example."""

import math

import numpy as np
import pytest
import torch

from dynamics.ops import token_statistics as module
from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics, unshift, weighted_loss


def oracle(logits, targets):
    z = logits.to(torch.float64).numpy()
    y = targets.numpy()
    top = z.max(axis=1, keepdims=True)
    lse = np.log(np.exp(z - top).sum(axis=1)) + top[:, 0]
    p = np.exp(z - lse[:, None])
    expected_z = np.where(p > 0, p * np.where(np.isfinite(z), z, 0.0), 0.0).sum(axis=1)
    kept = y != IGNORE_INDEX
    loss = np.where(kept, lse - z[np.arange(len(y)), np.where(kept, y, 0)], np.nan)
    entropy = np.where(kept, lse - expected_z, np.nan)
    return loss, entropy, kept & (z.argmax(axis=1) == y)


def random_case(n=200, v=37, scale=3.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, v, generator=generator) * scale).to(dtype)
    targets = torch.randint(v, (n,), generator=generator)
    targets[::3] = logits[::3].argmax(-1)  # enough correct ones
    targets[::7] = IGNORE_INDEX
    return logits, targets


@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
@pytest.mark.parametrize(
    ("dtype", "out", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.float32, 1e-6),
        (torch.float16, torch.float32, 1e-6),
    ],
)
def test_equals_float64_numpy(dtype, out, tolerance, scale):
    logits, targets = random_case(scale=scale, dtype=dtype)
    loss, entropy, correct = oracle(logits, targets)
    got = token_statistics(logits, targets)
    bound = tolerance * (10 + logits.abs().max().item())
    np.testing.assert_allclose(got.loss.numpy(), loss, rtol=0, atol=bound)
    np.testing.assert_allclose(got.entropy.numpy(), entropy, rtol=0, atol=bound)
    assert got.loss.dtype == got.entropy.dtype == out
    assert got.correct.dtype == torch.bool
    assert np.array_equal(got.correct.numpy(), correct) and 20 < correct.sum() < 180


def test_hand_example():
    # p = (1/2, 1/4, 1/4): entropy 1.5 ln 2.
    logits = torch.log(torch.tensor([[2.0, 1.0, 1.0]] * 3))
    got = token_statistics(logits, torch.tensor([0, 1, IGNORE_INDEX]))
    assert got.loss[:2].tolist() == pytest.approx([math.log(2), math.log(4)])
    assert got.entropy[:2].tolist() == pytest.approx([1.5 * math.log(2)] * 2)
    assert got.correct.tolist() == [True, False, False]


def test_ignored_rows_are_nan_and_false():
    logits, targets = random_case()
    ignored = targets == IGNORE_INDEX
    got = token_statistics(logits, targets)
    assert ignored.sum() == 29
    assert torch.equal(got.loss.isnan(), ignored) and torch.equal(got.entropy.isnan(), ignored)
    assert not got.correct[ignored].any()


def test_logits_of_minus_infinity_have_no_share():
    logits = torch.tensor([[0.0, 0.0, -math.inf], [-math.inf, 5.0, -math.inf], [0.0, 0.0, -math.inf]])
    got = token_statistics(logits, torch.tensor([1, 1, 2]))
    assert got.loss.tolist() == pytest.approx([math.log(2), 0.0, math.inf])
    assert got.entropy.tolist() == pytest.approx([math.log(2), 0.0, math.log(2)])
    assert got.correct.tolist() == [False, True, False]


def test_underflowed_probabilities_keep_their_loss():
    got = token_statistics(torch.tensor([[1000.0, 0.0]]), torch.tensor([1]))
    assert got.loss.item() == 1000.0 and got.entropy.item() == 0.0


def test_never_negative():
    got = token_statistics(torch.tensor([[200.0, 0.0], [3.0, 3.0 - 1e-7]]), torch.tensor([0, 0]))
    for values in (got.loss, got.entropy):
        assert (values >= 0).all()


def test_first_of_tied_argmaxes_is_the_prediction():
    logits = torch.tensor([[1.0, 7.0, 7.0, 7.0]] * 4)
    assert token_statistics(logits, torch.arange(4)).correct.tolist() == [False, True, False, False]


def test_chunks_change_nothing(monkeypatch):
    logits, targets = random_case()
    whole = token_statistics(logits, targets)
    for elements in (1, 37 * 3, 37 * 64):  # fewer than a row, 3 rows (a short last chunk), 64 rows
        monkeypatch.setattr(module, "_CHUNK_ELEMENTS", elements)
        for a, b in zip(token_statistics(logits, targets), whole, strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=0, atol=1e-6, equal_nan=True)


def test_leaves_inputs_alone_and_takes_no_gradient():
    logits, targets = random_case()
    logits.requires_grad_()
    before = logits.detach().clone()
    got = token_statistics(logits, targets)
    assert torch.equal(logits, before) and not got.loss.requires_grad and not got.entropy.requires_grad


def test_shift_pairs_each_token_with_the_prediction_before_it():
    # B = 2, T = 3, V = 1; the logit names its (sequence, position).
    logits = torch.tensor([[[0.0], [1.0], [2.0]], [[10.0], [11.0], [12.0]]])
    labels = torch.tensor([[IGNORE_INDEX, 5, 6], [IGNORE_INDEX, IGNORE_INDEX, 8]])
    z, y = shift(logits, labels)
    assert z.tolist() == [[0.0], [1.0], [10.0], [11.0]]
    assert y.tolist() == [5, 6, IGNORE_INDEX, 8]


def test_values_land_at_the_token_that_was_predicted():
    # Logits after position p are certain of the token at p + 1, except that of (1, 2).
    tokens = torch.tensor([[3, 1, 4, 1], [2, 0, 3, 2]])
    logits = torch.full((2, 4, 5), -30.0)
    for b in range(2):
        for p in range(3):
            logits[b, p, tokens[b, p + 1]] = 30.0
    logits[1, 1] = 0.0
    labels = tokens.clone()
    labels[:, 0] = IGNORE_INDEX
    loss = unshift(token_statistics(*shift(logits, labels)).loss, 2, math.nan)
    expected = [[math.nan, 0, 0, 0], [math.nan, 0, math.log(5), 0]]
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "fill"), [(torch.float32, math.nan), (torch.bool, False), (torch.int64, -100)])
def test_unshift_inverts_shift(dtype, fill):
    labels = torch.arange(12).reshape(3, 4).remainder(3).to(dtype)
    labels[:, 0] = fill
    back = unshift(shift(torch.zeros(3, 4, 1), labels)[1], 3, fill)
    assert back.dtype == dtype
    assert torch.equal(back[:, 1:], labels[:, 1:])
    assert torch.equal(back[:, 0].isnan() if fill != fill else back[:, 0] == fill, torch.ones(3, dtype=torch.bool))


def smoothed_by_hand(logits, targets, weights, smoothing):
    total = 0.0
    for z, y, w in zip(logits.tolist(), targets.tolist(), weights, strict=True):
        if y == IGNORE_INDEX:
            continue
        lse = math.log(sum(math.exp(x) for x in z))
        total += w * sum(((1 - smoothing) * (k == y) + smoothing / len(z)) * (lse - x) for k, x in enumerate(z))
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_weighted_loss_by_hand(smoothing, weighted):
    logits, targets = random_case(n=30, v=7, dtype=torch.float64)
    weights = torch.linspace(0, 2, 30)
    expected = smoothed_by_hand(logits, targets, weights.tolist() if weighted else [1.0] * 30, smoothing)
    got = weighted_loss(logits, targets, token_weight=weights if weighted else None, label_smoothing=smoothing)
    assert got.ndim == 0 and got.item() == pytest.approx(expected, rel=1e-6)


def test_weighted_loss_of_a_tiny_example():
    # p = (3/4, 1/4). Target 0 at weight 1, target 1 at weight 1/2, one ignored whose weight must not count.
    logits = torch.log(torch.tensor([[3.0, 1.0]] * 3))
    targets = torch.tensor([0, 1, IGNORE_INDEX])
    weight = torch.tensor([1.0, 0.5, 100.0])
    got = weighted_loss(logits, targets, token_weight=weight)
    assert got.item() == pytest.approx(math.log(4 / 3) + 0.5 * math.log(4))
    smoothed = weighted_loss(logits, targets, token_weight=weight, label_smoothing=0.2)
    first = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    second = 0.1 * math.log(4 / 3) + 0.9 * math.log(4)
    assert smoothed.item() == pytest.approx(first + 0.5 * second)


def test_weighted_loss_is_differentiable_and_zero_weights_carry_no_gradient():
    logits, targets = random_case(n=30, v=7, dtype=torch.float64)
    logits.requires_grad_()
    weight = (torch.arange(30) % 2).double()
    weighted_loss(logits, targets, token_weight=weight).backward()
    p = logits.detach().softmax(-1)
    p[torch.arange(30), targets.clamp_min(0)] -= 1.0
    expected = p * (weight * (targets != IGNORE_INDEX))[:, None]
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weighted_loss_sums_half_precision_in_float32(dtype):
    logits, targets = random_case(n=3000, dtype=dtype)
    for weight in (None, torch.ones(3000, dtype=dtype)):
        got = weighted_loss(logits, targets, token_weight=weight)
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(np.nansum(oracle(logits, targets)[0]), rel=1e-5)


def test_weighted_loss_without_predictions_is_zero():
    targets = torch.full((4,), IGNORE_INDEX)
    for weight in (None, torch.ones(4)):
        assert weighted_loss(torch.randn(4, 5), targets, token_weight=weight, label_smoothing=0.1).item() == 0.0
