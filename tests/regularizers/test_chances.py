"""From a token's place to the probability of being dropped, by hand."""

import pytest
import torch

from dynamics.regularizers.chances import by_distance, falling, lowest, uniform

NAN = float("nan")


def test_uniform():
    found = uniform(torch.tensor([True, False, True]), 0.3)
    assert found.dtype == torch.float64 and found.tolist() == [0.3, 0.0, 0.3]


def test_falling_by_hand():
    # A pool of four, with places 1/8, 3/8, 5/8, 7/8: twice the mean times 7/8, 5/8, 3/8, 1/8.
    place = torch.tensor([[0.125, 0.375, NAN], [0.625, 0.875, NAN]])
    assert falling(place, 0.4).flatten().tolist() == pytest.approx([0.7, 0.5, 0.0, 0.3, 0.1, 0.0])
    # Twice 0.75 would be above 1: from 1 to 0.5 instead, at the same places.
    assert falling(place, 0.75).tolist() == [[0.9375, 0.8125, 0.0], [0.6875, 0.5625, 0.0]]
    assert falling(place, 1.0).tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert not falling(place, 0.0).any()


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_falling_has_the_mean_that_is_asked_for(size, chance):
    found = falling((torch.arange(size).double() + 0.5) / size, chance)
    assert float(found.mean()) == pytest.approx(chance, abs=1e-12)
    assert (found >= 0).all() and (found <= 1).all() and (found.diff() <= 0).all()


def test_by_distance_by_hand():
    # Distances 0.1, 0.2 and 0.6 of mean 0.3: a third, two thirds and twice the mean's probability.
    distance = torch.tensor([0.1, 0.2, 0.6, NAN], dtype=torch.float64)
    told = {"mean": 0.3, "highest": 0.6}
    assert by_distance(distance, 0.3, **told).tolist() == pytest.approx([0.1, 0.2, 0.6, 0.0])
    # 2 * 0.8 is above 1: the highest gets 1, and the slope is 0.2 / 0.3.
    expected = [0.8 - 0.2 * 2 / 3, 0.8 - 0.1 * 2 / 3, 1.0, 0.0]
    assert by_distance(distance, 0.8, **told).tolist() == pytest.approx(expected)
    assert by_distance(distance, 1.0, **told).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])
    # Farther than any was when the pool was measured, and all at one distance.
    assert by_distance(torch.tensor([9.0]), 0.3, **told).tolist() == [1.0]
    assert by_distance(torch.tensor([0.5, 0.5]), 0.3, mean=0.5, highest=0.5).tolist() == [0.3, 0.3]
    assert by_distance(torch.tensor([0.0, 0.0]), 0.3, mean=0.0, highest=0.0).tolist() == [0.3, 0.3]


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_by_distance_has_the_mean_that_is_asked_for(chance):
    distance = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    found = by_distance(distance, chance, mean=float(distance.mean()), highest=float(distance.max()))
    assert float(found.mean()) == pytest.approx(chance, abs=1e-12)
    assert (found >= 0).all() and (found <= 1).all()


def test_lowest_is_a_share_to_the_nearest_whole_number():
    place = (torch.arange(5).double() + 0.5) / 5
    shares = {0.0: 0, 0.09: 0, 0.1: 1, 0.2: 1, 0.29: 1, 0.3: 2, 0.5: 3, 0.89: 4, 0.9: 5, 1.0: 5}
    assert {share: int(lowest(place, share).sum()) for share in shares} == shares
    assert lowest(torch.tensor([0.3, NAN], dtype=torch.float64), 0.3).tolist() == [1.0, 0.0]
