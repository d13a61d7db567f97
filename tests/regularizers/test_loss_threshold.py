"""Loss threshold: a worked example, both directions, and what becomes of the tokens that do not count."""

import math

import pytest
import torch

from dynamics.errors import InputError
from dynamics.ops.token_statistics import token_statistics, weighted_loss
from dynamics.regularizers.loss_threshold import LossThreshold

LN2 = math.log(2.0)


def weigh(loss, **settings):
    loss = torch.tensor(loss)
    return LossThreshold(**settings).adaptive_weight(loss, loss, torch.ones_like(loss, dtype=torch.bool)).tolist()


# Two classes, logits (z, 0): the first has probability 9/10, 1/2 and 1/5, losses ln 10/9, ln 2 and ln 5.
PROBABILITIES = [0.9, 0.5, 0.2]


def test_the_default_is_memft_by_hand():
    losses = [-math.log(p) for p in PROBABILITIES]
    assert LossThreshold().settings.threshold == LN2 == pytest.approx(0.693147, abs=1e-6)
    assert weigh(losses) == [0.0, 0.0, 1.0]  # at a probability of 1/2 a token is learned


def test_the_other_direction_is_the_complement():
    losses = [0.0, 0.3, LN2, 0.7, 3.0, math.inf]
    above, below = weigh(losses), weigh(losses, counts="below")
    assert above == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0] and below == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert weigh([0.9, 1.0, 1.1], threshold=1.0) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("counts", ["above", "below"])
def test_a_loss_that_is_no_number_is_seen(counts):
    assert weigh([math.nan], counts=counts) == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_left_out_tokens_have_no_gradient_and_the_divisor_counts_them(dtype):
    z = torch.tensor([[math.log(p / (1 - p)), 0.0] for p in PROBABILITIES], dtype=dtype, requires_grad=True)
    y = torch.zeros(3, dtype=torch.int64)
    loss = token_statistics(z.detach(), y).loss
    method = LossThreshold(threshold=0.3)
    weight = method.adaptive_weight(loss, loss, torch.ones(3, dtype=torch.bool))
    assert weight.dtype == torch.float32
    total = weighted_loss(z, y, token_weight=weight) / 3
    assert total.item() == pytest.approx((LN2 + math.log(5)) / 3, rel=1e-6)
    total.backward()
    # dL/dz of the first logit is (p - 1) / 3 where a token counts.
    assert z.grad[:, 0].tolist() == pytest.approx([0.0, -0.5 / 3, -0.8 / 3], rel=1e-5)


def test_it_says_where_it_acts():
    method = LossThreshold()
    assert method.acts_on == ("token losses",) and method.adapts and not method.needs_logits
    assert method.dropped(None) is None and method.ratio(0.5) is None and method.token_weight(None) is None
    assert method.divisor({}) is None and method.state() == {} and method.auxiliary_weight == 0.0


@pytest.mark.parametrize(
    "bad",
    [{"threshold": 0.0}, {"threshold": -1.0}, {"threshold": math.inf}, {"counts": "all"}, {"fraction": 0.1}],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match=f"^LossThreshold: {next(iter(bad))}"):
        LossThreshold(**bad)
