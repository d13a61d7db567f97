"""Pools: the lowest share of tokens, of all or of each group."""

import numpy as np
import pytest
import torch

from dynamics.regularizers import pools


@pytest.fixture(params=["arrays", "device"])
def lowest_share(request):
    """The rule, and its other form: for a batch's values, on its device."""
    return pools.lowest_share if request.param == "arrays" else on_device


def on_device(values, predicted, share, group=None):
    group = np.zeros(np.shape(values), dtype=np.int64) if group is None else group
    predicted = torch.as_tensor(predicted)
    rank, count = pools.ranks_on_device(torch.as_tensor(values), predicted, torch.as_tensor(group))
    return (predicted & (rank < torch.round(share * count.double()))).numpy()


def test_by_hand(lowest_share):
    values = np.array([[np.nan, 3.0, 1.0], [9.0, -2.0, 0.0]])
    predicted = np.array([[False, True, True], [True, True, False]])
    assert lowest_share(values, predicted, 0.5).tolist() == [[False, False, True], [False, True, False]]
    assert lowest_share(values, predicted, 0.25).tolist() == [[False, False, False], [False, True, False]]
    assert lowest_share(values, predicted, 0.75).tolist() == [[False, True, True], [False, True, False]]
    assert lowest_share(values, predicted, 1.0).tolist() == predicted.tolist()


def test_groups_by_hand(lowest_share):
    values = np.array([5.0, 1.0, 2.0, 4.0, 3.0, 0.0, 9.0])
    group = np.array([7, 7, 2, 2, 7, 2, 2])
    predicted = np.array([True, True, True, True, True, False, True])
    # Group 7 holds 5, 1, 3; group 2 holds 2, 4, 9. Two thirds of each are two.
    expected = [False, True, True, True, True, False, False]
    assert lowest_share(values, predicted, 2 / 3, group).tolist() == expected


def test_every_group_gives_its_own_share_rounded_half_to_even(lowest_share):
    sizes = [1, 2, 3, 4, 5, 6, 7]
    group = np.repeat(np.arange(7)[::-1], sizes)
    values = np.random.default_rng(0).random(len(group))
    chosen = lowest_share(values, np.ones(len(group), dtype=bool), 0.5, group)
    counts = [int(chosen[group == 6 - at].sum()) for at in range(7)]
    assert counts == [round(0.5 * size) for size in sizes] == [0, 1, 2, 2, 2, 3, 4]


def test_the_earlier_of_ties(lowest_share):
    values = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    everything = np.ones_like(values, dtype=bool)
    assert lowest_share(values, everything, 0.5).tolist() == [[True, True, False], [True, False, False]]
    late = np.array([[False, True, True], [True, True, True]])
    assert lowest_share(values, late, 0.6).tolist() == [[False, True, True], [True, False, False]]
    same = np.zeros((40, 50))
    assert np.array_equal(lowest_share(same, same == 0, 0.3).ravel(), np.arange(2000) < 600)
    few = np.random.default_rng(0).integers(0, 3, 2000).astype(np.float32)  # an unstable sort gets these wrong
    chosen = sorted(sorted(range(2000), key=lambda n: (few[n], n))[:900])
    assert np.flatnonzero(lowest_share(few.reshape(40, 50), same == 0, 0.45)).tolist() == chosen


def test_nan_ranks_last(lowest_share):
    assert lowest_share(np.array([np.nan, 2.0, np.inf, 1.0]), np.ones(4, dtype=bool), 0.75).tolist() == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("group", [None, np.zeros((2, 3), dtype=np.int64)])
def test_of_nothing(lowest_share, group):
    assert not lowest_share(np.zeros((2, 3)), np.zeros((2, 3), dtype=bool), 0.5, group).any()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("grouped", [False, True])
def test_both_forms_choose_the_same(seed, grouped):
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 30), rng.integers(1, 40))
    values = rng.integers(-6, 6, shape).astype(np.float32)  # many ties
    values[rng.random(shape) < 0.1] = np.nan
    values[rng.random(shape) < 0.05] = np.inf
    values[rng.random(shape) < 0.05] = -0.0
    values *= rng.choice([-1.0, 1.0])  # as the inverse does: NaN and 0 change their signs
    predicted = rng.random(shape) < rng.choice([0.0, 0.5, 0.9])
    group = rng.integers(-1, 9, shape) if grouped else None
    for share in (0.01, 0.125, 0.5, 0.7, 1.0):
        expected = pools.lowest_share(values, predicted, share, group)
        assert np.array_equal(on_device(values, predicted, share, group), expected)


def test_ranks_by_hand():
    values = np.array([[5.0, 1.0, 2.0, 4.0], [3.0, 0.0, 9.0, np.nan]])
    group = np.array([[7, 7, 2, 2], [7, 2, 2, 2]])
    predicted = np.array([[True, True, True, True], [True, False, True, True]])
    # Group 7 holds 5, 1, 3; group 2 holds 2, 4, 9 and one that is not known, which comes last.
    expected = ([[2, 0, 0, 1], [1, 0, 2, 3]], [[3, 3, 4, 4], [3, 0, 4, 4]])
    for found in (
        pools.ranks(values, predicted, group),
        pools.ranks_on_device(*map(torch.as_tensor, (values, predicted, group))),
    ):
        assert tuple(one.tolist() for one in found) == expected
    rank, count = pools.ranks(values, predicted)
    assert rank.tolist() == [[4, 0, 1, 3], [2, 0, 5, 6]]
    assert count.tolist() == [[7, 7, 7, 7], [7, 0, 7, 7]]


def test_in_order():
    values = np.array([5.0, np.nan, 1.0, 3.0, 2.0, 0.0], dtype=np.float32)
    known = np.array([True, True, True, True, True, False])
    found = pools.in_order(values, known)
    assert found.tolist() == [1.0, 2.0, 3.0, 5.0, np.inf] and found.dtype == np.float32


def test_of_next_is_what_the_model_puts_out_at_a_token():
    values = np.array([[np.nan, 1.0, 2.0, 3.0], [9.0, 5.0, 6.0, 7.0]], dtype=np.float32)
    predicted = np.array([[False, True, True, True], [False, True, False, True]])
    # The last of a row has nothing after it; what is not predicted has no value, whatever stands there.
    expected = np.array([[1.0, 2.0, 3.0, np.nan], [5.0, np.nan, 7.0, np.nan]], dtype=np.float32)
    for found in (
        pools.of_next(values, predicted),
        pools.of_next(torch.as_tensor(values), torch.as_tensor(predicted)).numpy(),
    ):
        assert found.dtype == np.float32 and np.array_equal(found, expected, equal_nan=True)
