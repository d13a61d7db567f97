"""Selective loss: excess losses of a worked example, their bins, and that no split of a step moves the threshold."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.batches import rows_batch, training_data

from dynamics.errors import InputError
from dynamics.ops.token_statistics import weighted_loss
from dynamics.regularizers.loss_truncation import N_BINS
from dynamics.regularizers.selective_loss import SelectiveLoss, excess_bin, lower_edge, lowest_of_share

INF = float("inf")
# The end of the first bin of losses: what is nearer to 0 has no sign.
NEAR_0 = 2.0**-10 * (1 + 2**-7)


def method_on(reference, **settings):
    """A method whose reference model has these losses, and the batch of all tokens: rows of T, T - 1 predicted."""
    loss = np.asarray(reference, dtype=np.float32)
    data = training_data(*loss.shape)
    predicted = np.ones(loss.shape, dtype=bool)
    predicted[:, 0] = False
    method = SelectiveLoss(**settings)
    method.prepare(replace(data, predicted=predicted, reference_loss=np.where(predicted, loss, np.nan)))
    return method, rows_batch(predicted)


def weigh(method, batch, loss, parts=1):
    """The weights of all predicted tokens of a batch, asked for in parts as the fused head does."""
    flat = torch.as_tensor(loss, dtype=torch.float32)[:, 1:].flatten()
    kept = torch.ones_like(flat, dtype=torch.bool)
    method.begin_batch(batch)
    found = [
        method.adaptive_weight(flat[rows], flat[rows], kept[rows], rows=rows)
        for rows in torch.arange(len(flat)).tensor_split(parts)
    ]
    method.end_batch()
    return torch.cat(found)


# The reference model's losses, and those of the model that is trained. Excess: 1, -1, 0.5, 0 / -0.25, 2, 0.25, -2.
REFERENCE = [[0.0, 1.0, 2.0, 1.5, 3.0], [0.0, 0.5, 1.0, 1.0, 4.0]]
LOSS = [[9.0, 2.0, 1.0, 2.0, 3.0], [9.0, 0.25, 3.0, 1.25, 2.0]]


def test_weights_by_hand():
    method, batch = method_on(REFERENCE, share=0.5)
    assert weigh(method, batch, LOSS).tolist() == [1.0] * 8  # of the first step all count
    assert method.threshold == -INF
    method.end_step()
    # The highest four of eight are 2, 1, 0.5, 0.25, and 0.25 is the lowest of its bin. Their sum is divided by N / 2.
    assert method.threshold == 0.25
    assert weigh(method, batch, LOSS, parts=3).tolist() == [2.0, 0.0, 2.0, 0.0, 0.0, 2.0, 2.0, 0.0]
    method.end_step()
    half, batch = method_on(REFERENCE, share=0.625, normalize="all")
    weigh(half, batch, LOSS)
    half.end_step()
    assert half.threshold == -NEAR_0  # five
    assert weigh(half, batch, LOSS).tolist() == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]


def test_the_loss_is_the_mean_over_those_that_count():
    """As in the paper: the sum over the chosen, divided by N k %."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 6, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    method, batch = method_on(REFERENCE, share=0.5)
    weigh(method, batch, LOSS)
    method.end_step()
    weight = weigh(method, batch, LOSS)
    chosen = [0, 2, 5, 6]
    by_hand = torch.nn.functional.cross_entropy(logits[chosen], targets[chosen])
    assert weighted_loss(logits, targets, token_weight=weight).item() / 8 == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("excess", "share", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0.25, 4.0),
        ([1.0, 2.0, 3.0, 4.0], 0.26, 3.0),  # at least the share: 2 of 4
        ([1.0, 2.0, 3.0, 4.0], 0.99, 1.0),
        ([-1.0, -2.0, -3.0, -4.0], 0.5, -2.015625),  # the bin of -2 ends where 2 (1 + 2**-7) begins
        ([-1.0, 0.0, 1.0], 0.5, -NEAR_0),
        ([1.0] * 29 + [0.5] * 71, 0.29, 1.0),  # 0.29 * 100 is a little below 29 in floating point
        ([-100.0, -90.0], 0.5, -INF),
        ([], 0.5, -INF),
    ],
    ids=str,
)
def test_thresholds_by_hand(excess, share, expected):
    counts = torch.bincount(excess_bin(torch.tensor(excess, dtype=torch.float32)), minlength=2 * N_BINS)
    assert lower_edge(int(lowest_of_share(counts, share))) == expected


def test_bins_are_in_the_order_of_the_numbers():
    sizes = torch.logspace(-9.9, 5.9, 3000, base=2.0)
    excess = torch.cat([-sizes.flip(0), torch.zeros(1), sizes])
    bins = excess_bin(excess)
    assert (bins.diff() >= 0).all() and 0 <= bins.min() and bins.max() < 2 * N_BINS
    edges = torch.tensor([lower_edge(int(place)) for place in bins])
    assert (excess >= edges).all()
    assert (excess - edges <= 0.0079 * excess.abs() + 2.0**-9).all()
    assert excess_bin(torch.tensor([-INF, INF])).tolist() == [1, 2 * N_BINS - 1]
    assert excess_bin(torch.tensor([-1e-7, -0.0, 0.0, 1e-7, 9e-4, -9e-4])).unique().tolist() == [N_BINS]


def test_the_share_that_counts_is_the_share():
    generator = torch.Generator().manual_seed(0)
    loss = torch.empty(100, 101).exponential_(0.4, generator=generator)
    reference = torch.empty(100, 101).exponential_(0.4, generator=generator)
    for share in (0.1, 0.6, 0.9):
        method, batch = method_on(reference, share=share, normalize="all")
        weigh(method, batch, loss)
        method.end_step()
        assert share <= weigh(method, batch, loss).mean().item() < share + 0.006


def test_what_is_no_number_is_not_hidden():
    method, batch = method_on(REFERENCE, share=0.5)
    weigh(method, batch, LOSS)
    method.end_step()
    broken = torch.tensor(LOSS)
    broken[0, 2] = torch.nan
    assert weigh(method, batch, broken)[1] == 2.0  # so that the loss of the step is NaN, and training stops


def test_what_is_not_kept_does_not_count():
    method, batch = method_on(REFERENCE, share=0.5)
    other, _ = method_on(REFERENCE, share=0.5)
    flat = torch.tensor(LOSS)[:, 1:].flatten()
    kept = torch.tensor([True] * 6 + [False] * 2)
    for one, loss in ((method, flat), (other, flat.masked_fill(~kept, torch.nan))):
        one.begin_batch(batch)
        one.adaptive_weight(loss, loss, kept)
        one.end_step()
    assert method.state() == other.state() and sum(method.state()["counts"][0]) == 6


def test_no_split_and_no_order_of_a_step_moves_the_threshold():
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(12, 9, generator=generator)
    (whole, batch), (parts, _) = (method_on(reference, share=0.4, warmup=2, window=3) for _ in range(2))
    for _ in range(6):
        loss = torch.rand(12, 9, generator=generator)
        together = weigh(whole, batch, loss).view(12, 8)
        apart = torch.zeros(12, 8)
        for rows in torch.randperm(12, generator=generator).split(5):
            some = rows_batch(batch.predicted, rows)
            apart[rows] = weigh(parts, some, loss[rows], parts=2).view(-1, 8)
        assert torch.equal(together, apart)
        whole.end_step()
        parts.end_step()
        assert whole.threshold == parts.threshold
    assert whole.threshold > -INF


@pytest.mark.parametrize("n_steps", [0, 1, 5])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(n_steps):
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(4, 9, generator=generator)
    (through, batch), (resumed, _) = (method_on(reference, share=0.3, warmup=2, window=3) for _ in range(2))
    for _ in range(n_steps):
        weigh(through, batch, torch.rand(4, 9, generator=generator))
        through.end_step()
    resumed.load_state(json.loads(json.dumps(through.state())))
    for _ in range(3):
        loss = torch.rand(4, 9, generator=generator)
        assert torch.equal(weigh(through, batch, loss), weigh(resumed, batch, loss))
        through.end_step()
        resumed.end_step()


def test_a_reference_that_is_no_number_is_refused():
    data = training_data(4, 9)
    loss = data.reference_loss.copy()
    loss[2, np.flatnonzero(data.predicted[2])[0]] = np.nan
    with pytest.raises(InputError, match="SelectiveLoss: the reference model's loss is NaN in 1 of 4 sequences"):
        SelectiveLoss().prepare(replace(data, reference_loss=loss))


@pytest.mark.parametrize(
    "bad",
    [{"share": 0.0}, {"share": 1.0}, {"window": 0}, {"warmup": 0}, {"normalize": "kept"}, {"source": "current"}],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        SelectiveLoss(**bad)
