"""Keyed uniform numbers, against the same hash chain in Python's unbounded integers."""

import numpy as np
import pytest
import torch
from support.splitmix import splitmix, uniform

from dynamics.ops import keyed_random
from dynamics.ops.keyed_random import STREAM_DROP, STREAM_ORDER, STREAM_REPLACEMENT, keyed_uniform


def draw(seed=0, stream=STREAM_DROP, epoch=1, sequence_id=(0,), n_positions=64):
    sequence_id = torch.tensor(list(sequence_id))
    position = torch.arange(n_positions)
    return keyed_uniform(seed=seed, stream=stream, epoch=epoch, sequence_id=sequence_id[:, None], position=position)


def test_finaliser_is_the_published_one():
    # The first outputs of splitmix64 with state 0: known answers of the reference implementation.
    outputs = [splitmix((n + 1) * 0x9E3779B97F4A7C15) for n in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1, 2**32, 2**63 + 5, 2**64 - 2])
@pytest.mark.parametrize(("stream", "epoch"), [(STREAM_DROP, 1), (STREAM_REPLACEMENT, 7), (STREAM_ORDER, 10**6)])
def test_equals_the_integer_oracle_bit_for_bit(seed, stream, epoch):
    sequences = [0, 1, 5, 2**31, 2**62]
    got = draw(seed, stream, epoch, sequences, 9)
    expected = [[uniform(seed, stream, epoch, s, p) for p in range(9)] for s in sequences]
    assert got.dtype == torch.float64 and got.shape == (5, 9)
    assert got.tolist() == expected


def test_uniform_on_the_unit_interval():
    u = draw(seed=3, sequence_id=range(500), n_positions=400).numpy().ravel()
    n = u.size
    assert u.min() >= 0.0 and u.max() < 1.0
    counts = np.histogram(u, bins=100, range=(0.0, 1.0))[0]
    chi_square = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert 55 < chi_square < 150  # 99 degrees of freedom: mean 99, standard deviation 14
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * n)
    assert np.array_equal(u * 2**53, np.floor(u * 2**53))  # multiples of 2**-53 ...
    assert (np.floor(u * 2**53) % 2).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(n))  # ... to the last bit
    assert np.unique(u).size == n


def test_rows_and_columns_are_independent():
    u = draw(seed=3, sequence_id=range(300), n_positions=300).numpy() - 0.5
    bound = 5 * (1 / 12) / np.sqrt(u.size)
    assert abs((u * np.roll(u, 1, axis=0)).mean()) < bound
    assert abs((u * np.roll(u, 1, axis=1)).mean()) < bound
    assert abs((u * u.T)[np.triu_indices(300, 1)].mean()) < 5 * (1 / 12) / np.sqrt(300 * 299 / 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"stream": STREAM_REPLACEMENT},
        {"stream": STREAM_ORDER},
        {"epoch": 2},
        {"sequence_id": range(50, 100)},
    ],
    ids=["seed", "replacement", "order", "epoch", "sequence"],
)
def test_each_key_gives_other_and_uncorrelated_numbers(changed):
    base = {"sequence_id": range(50), "n_positions": 200}
    a, b = draw(**base).numpy(), draw(**(base | changed)).numpy()
    assert not (a == b).any()
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_keys_are_not_interchangeable():
    # A sum of keys, rather than a chain, would give equal numbers here.
    assert draw(seed=1, epoch=2)[0, 0] != draw(seed=2, epoch=1)[0, 0]
    u = draw(sequence_id=[3, 4], n_positions=5)
    assert u[0, 4] != u[1, 3]
    streams = {name: value for name, value in vars(keyed_random).items() if name.startswith("STREAM_")}
    assert len(streams) >= 6 and len(set(streams.values())) == len(streams), streams


def test_depends_on_keys_alone():
    whole = draw(seed=9, sequence_id=range(12), n_positions=30)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(seed=9, sequence_id=order.tolist(), n_positions=30), whole[order])
    assert torch.equal(draw(seed=9, sequence_id=[7], n_positions=11), whole[7:8, :11])
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(draw(seed=9, sequence_id=range(12), n_positions=30), whole)
    torch.random.set_rng_state(state)


def test_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    draw()
    assert torch.equal(torch.random.get_rng_state(), before)
