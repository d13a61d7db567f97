"""Loss truncation: the threshold of a worked example, its window and warm-up, and that no split of a step moves it."""

import json

import pytest
import torch

from dynamics.errors import InputError
from dynamics.ops.token_statistics import token_statistics, weighted_loss
from dynamics.regularizers.loss_truncation import N_BINS, LossTruncation, loss_bin, upper_edge

INF = float("inf")


def weigh(method, loss):
    return method.adaptive_weight(loss, loss, torch.ones_like(loss, dtype=torch.bool))


def step(method, losses, parts=1):
    """One optimiser step in `parts` micro-batches; the weights of all its tokens."""
    losses = torch.as_tensor(losses, dtype=torch.float32)
    weights = [weigh(method, part) for part in losses.tensor_split(parts)]
    method.end_step()
    return torch.cat(weights)


# 1 to 10 nats, a fifth of them to drop: 8 are to stay. 8 = 1.0 * 2**3 with 7 bits of mantissa lies in the bin from 8
# to 8 + 2**3 / 2**7 = 8.0625.


def test_threshold_and_weights_by_hand():
    method = LossTruncation(fraction=0.2, warmup=1)
    assert step(method, range(1, 11)).tolist() == [1.0] * 10
    assert method.threshold == 8.0625
    got = weigh(method, torch.tensor([0.0, 7.9, 8.0, 8.05, 8.0625, 9.0]))
    assert got.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0] and got.dtype == torch.float32


def test_what_is_not_kept_does_not_count_whatever_it_holds():
    method, other = LossTruncation(fraction=0.2, warmup=1), LossTruncation(fraction=0.2, warmup=1)
    loss = torch.cat([torch.arange(1.0, 11.0), torch.tensor([torch.nan, -torch.nan, 60.0, INF])])
    kept = torch.arange(14) < 10
    method.adaptive_weight(loss[:4], loss[:4], kept[:4])
    method.adaptive_weight(loss[4:], loss[4:], kept[4:])
    method.end_step()
    step(other, range(1, 11))
    assert method.state() == other.state() and method.threshold == 8.0625


@pytest.mark.parametrize(
    ("losses", "fraction", "expected"),
    [
        (range(1, 11), 0.1, 9.0625),
        (range(1, 11), 0.19, 9.0625),  # at most the fraction: 1 of 10
        (range(1, 11), 0.3, 7.03125),  # 7 = 1.75 * 2**2, in bins of 2**2 / 2**7
        (range(1, 11), 0.05, 10.0625),  # none
        ([1.0] * 10, 0.5, 1.0078125),  # all are equal: none is above
        ([0.5, 3.0], 0.5, 0.50390625),
        ([0.0, 0.0, 5.0], 0.4, 2.0**-10 * (1 + 2**-7)),  # the first bin
        ([70.0, 80.0], 0.5, INF),  # the last one has no upper edge
        ([1.0] * 71 + [2.0] * 29, 0.29, 1.0078125),  # 0.29 * 100 is a little below 29 in floating point
    ],
    ids=str,
)
def test_upper_edges_by_hand(losses, fraction, expected):
    counts = torch.bincount(loss_bin(torch.tensor(list(losses), dtype=torch.float32)), minlength=N_BINS)
    assert upper_edge(counts, fraction).item() == expected


def test_nothing_seen_is_nothing_dropped():
    assert upper_edge(torch.zeros(N_BINS, dtype=torch.int64), 0.5).item() == INF
    method = LossTruncation(warmup=1)
    assert step(method, []).shape == (0,) and method.threshold == INF


def test_bins_are_ordered_and_narrow():
    losses = torch.logspace(-9.9, 5.9, 5000, base=2.0)
    places = loss_bin(losses)
    assert (places.diff() >= 0).all() and 0 <= places[0] and places[-1] < N_BINS
    for place in places.unique().tolist():
        inside = losses[places == place]
        assert inside.max() / inside.min() <= 1 + 2**-7
    edges = torch.tensor([0.0, 1e-9, 2.0**-10, 1.0, 63.9, 64.0, 1e9, INF])
    assert loss_bin(edges).tolist() == [0, 0, 0, 10 * 128, N_BINS - 1, N_BINS - 1, N_BINS - 1, N_BINS - 1]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_share_dropped_is_the_fraction(fraction):
    losses = torch.empty(20_000).exponential_(0.4, generator=torch.Generator().manual_seed(0))
    method = LossTruncation(fraction=fraction, warmup=1)
    step(method, losses)
    share = 1.0 - step(method, losses).mean().item()
    assert fraction - 0.006 < share <= fraction + 1e-6


# Time.


def test_warm_up_counts_steps_and_drops_nothing():
    method = LossTruncation(fraction=0.2, warmup=3)
    for _ in range(3):
        assert step(method, range(1, 11), parts=2).all() and method._history.steps <= 3
    assert method.threshold == 8.0625
    assert step(method, range(1, 11)).tolist() == [1.0] * 8 + [0.0] * 2


def test_the_threshold_stands_still_within_a_step():
    method = LossTruncation(fraction=0.2, warmup=1)
    step(method, range(1, 11))
    for _ in range(3):
        high = torch.full((50,), 20.0)
        assert not weigh(method, high).any() and method.threshold == 8.0625
    method.end_step()
    assert method.threshold == 20.125  # 20 = 1.25 * 2**4: it holds most of the history now


def test_the_window_forgets():
    method = LossTruncation(fraction=0.5, warmup=1, window=2)
    thresholds = []
    for losses in ([1.0, 1.0], [4.0, 4.0], [4.0, 4.0], [2.0, 2.0, 2.0, 2.0], [1.0]):
        step(method, losses)
        thresholds.append(method.threshold)
    # Seen: 1 1; 1 1 4 4; 4 4 4 4; 2 2 2 2 4 4; 1 2 2 2 2. Two of four stay, three of six, three of five.
    assert thresholds == [1.0078125, 1.0078125, 4.03125, 2.015625, 2.015625]


def test_no_split_and_no_order_of_a_step_moves_the_threshold():
    rng = torch.Generator().manual_seed(0)
    whole, parts, mixed = (LossTruncation(fraction=0.3, warmup=2, window=3) for _ in range(3))
    for _ in range(6):
        losses = torch.empty(120).exponential_(0.5, generator=rng)
        order = torch.randperm(120, generator=rng)
        got = [step(whole, losses), step(parts, losses, parts=8), step(mixed, losses[order], parts=5)]
        assert torch.equal(got[0], got[1]) and torch.equal(got[0][order], got[2])
        assert whole.threshold == parts.threshold == mixed.threshold
    assert whole.threshold < INF


def test_processes_add_their_counts(monkeypatch):
    other = torch.bincount(loss_bin(torch.arange(6.0, 11.0)), minlength=N_BINS).int()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts: counts.add_(other))
    method = LossTruncation(fraction=0.2, warmup=1)
    step(method, range(1, 6))
    assert method.threshold == 8.0625


# Resuming.


@pytest.mark.parametrize("n_steps", [0, 1, 4, 11])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(n_steps):
    rng = torch.Generator().manual_seed(0)
    settings = {"fraction": 0.3, "warmup": 3, "window": 4}
    through = LossTruncation(**settings)
    for _ in range(n_steps):
        step(through, torch.empty(40).exponential_(generator=rng))
    resumed = LossTruncation(**settings)
    resumed.load_state(json.loads(json.dumps(through.state())))
    assert resumed.threshold == through.threshold and resumed.state() == through.state()
    for _ in range(6):
        losses = torch.empty(40).exponential_(generator=rng)
        assert torch.equal(step(resumed, losses), step(through, losses))
        assert resumed.threshold == through.threshold


def test_the_state_holds_the_window_alone():
    method = LossTruncation(window=2)
    for losses in ([1.0], [1.0, 2.0, 2.0], [70.0]):
        step(method, losses)
    assert method.state() == {"steps": 3, "bins": [[1280, 1408], [N_BINS - 1]], "counts": [[1, 2], [1]]}


# What it does to training.


def test_dropped_tokens_have_no_gradient_and_the_divisor_counts_them():
    z = torch.tensor([[4.0, 0.0], [0.0, 0.0], [9.0, 0.0]], requires_grad=True)
    y = torch.tensor([0, 0, 1])
    loss = token_statistics(z.detach(), y).loss
    method = LossTruncation(fraction=0.4, warmup=1)
    step(method, loss)
    weight = weigh(method, loss)
    assert weight.tolist() == [1.0, 1.0, 0.0]
    weighted_loss(z, y, token_weight=weight).backward()
    assert z.grad[2].eq(0).all() and z.grad[:2].ne(0).all()
    assert method.adapts and not method.normalizes_by_kept and method.token_weight(None) is None


def test_it_says_where_it_acts():
    method = LossTruncation()
    assert method.acts_on == ("token losses",) and tuple(method.attach(None)) == ()
    assert method.dropped(None) is None and method.ratio(0.5) is None


@pytest.mark.parametrize(
    "bad",
    [{"fraction": 0.0}, {"fraction": 1.0}, {"window": 0}, {"window": 1001}, {"warmup": 0}, {"warmup": 1.5}, {"k": 3}],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match=f"^LossTruncation: {next(iter(bad))}"):
        LossTruncation(**bad)
