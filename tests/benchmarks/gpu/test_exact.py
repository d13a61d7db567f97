"""The float64 reference: by hand, against torch's own autograd, and what it takes for an error."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.gpu import exact
from dynamics.ops.row_statistics import HeadOptions

ALL = HeadOptions(softcap=3.0, logit_scale=0.7, label_smoothing=0.2)


def test_rows_by_hand():
    # p = (1/2, 1/4, 1/4): entropy 1.5 ln 2.
    found = exact.rows(torch.log(torch.tensor([[2.0, 1.0, 1.0]] * 2)), torch.tensor([0, 1]), HeadOptions())
    assert found.loss.tolist() == pytest.approx([math.log(2), math.log(4)])
    assert found.entropy.tolist() == pytest.approx([1.5 * math.log(2)] * 2)
    assert found.logsumexp.tolist() == pytest.approx([math.log(4)] * 2)
    assert found.best.tolist() == [0, 0] and found.margin.tolist() == pytest.approx([math.log(2)] * 2)
    assert found.gradient.flatten().tolist() == pytest.approx([-0.5, 0.25, 0.25, 0.5, -0.75, 0.25])


def test_rows_that_are_awkward():
    inf, nan = math.inf, math.nan
    u = torch.tensor([[1.0, 5.0, 5.0], [-inf, -3.0, -inf], [0.0, nan, 1.0], [-inf, 0.0, 0.0]])
    found = exact.rows(u, torch.tensor([0, 1, 2, 0]), HeadOptions())
    assert found.best.tolist() == [1, 1, 3, 1]  # the first of equals; none where a logit is NaN
    assert found.loss[1] == 0 and found.entropy[1] == 0 and found.loss[3] == inf
    assert found.entropy[3] == pytest.approx(math.log(2))
    assert all(values[2].isnan().all() for values in (found.loss, found.entropy, found.logsumexp, found.gradient))
    assert found.largest.tolist() == [5, 3, 1, 0]


def test_a_head_is_that_of_autograd():
    generator = torch.Generator().manual_seed(0)
    h, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((11, 4), (9, 4), (9,)))
    y, c = torch.randint(9, (11,), generator=generator), torch.rand(11, generator=generator, dtype=torch.float64)
    y[::3] = -100
    found = exact.head(h, w, y, bias=b, token_weight=c, options=ALL, chunk_rows=4)
    for leaf in (h, w, b):
        leaf.requires_grad_()
    z = 3 * torch.tanh(0.7 * (h @ w.T + b) / 3)
    losses = F.cross_entropy(z, y, reduction="none", label_smoothing=0.2)
    (c * losses).sum().backward()
    torch.testing.assert_close(found.total_loss, (c * losses).sum().detach())
    for leaf, gradient in ((h, found.grad_hidden), (w, found.grad_weight), (b, found.grad_bias)):
        torch.testing.assert_close(gradient, leaf.grad)
    torch.testing.assert_close(
        found.loss, F.cross_entropy(z, y, reduction="none").where(y >= 0, torch.nan), equal_nan=True
    )
    mean = exact.head(h.detach(), w.detach(), y)
    torch.testing.assert_close(mean.total_loss, F.cross_entropy(h @ w.T, y).detach())


def test_what_is_an_error():
    nan, inf = math.nan, math.inf
    due = torch.tensor([1.0, inf, nan, 0.0], dtype=torch.float64)
    assert exact.excess(torch.tensor([1.5, inf, nan, 0.0]), due, 0.25) == 2.0
    assert exact.excess(torch.tensor([1.0, inf, nan, 0.0]), due, 0.0) == 0.0
    for wrong in ([nan, inf, nan, 0.0], [1.0, 3.0, nan, 0.0], [1.0, inf, 2.0, 0.0], [1.0, -inf, nan, 0.0]):
        assert exact.excess(torch.tensor(wrong), due, 1.0) == inf
    assert exact.apart(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0], dtype=torch.float64)) == pytest.approx(0.1)
