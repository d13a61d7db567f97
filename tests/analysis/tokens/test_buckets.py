from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hand_made import hand_records

from dynamics.analysis.tokens.buckets import (
    Buckets,
    TwoWayBuckets,
    assign_buckets,
    bucket_labels,
    entropy_buckets,
    make_buckets,
    moving_buckets,
    quantile_edges,
)
from dynamics.errors import InputError


def test_edges_of_a_hand_example() -> None:
    # 0 .. 10: the median is 5, the quartiles are 2.5 and 7.5.
    values = np.arange(11.0)
    assert quantile_edges(values, 2).tolist() == [5.0]
    assert quantile_edges(values, 4).tolist() == [2.5, 5.0, 7.5]
    assert quantile_edges(values, 1).shape == (0,)


def test_edges_leave_out_what_is_not_finite() -> None:
    values = np.array([[np.nan, 1.0, np.inf], [2.0, -np.inf, 3.0]], dtype=np.float32)
    edges = quantile_edges(values, 2)
    assert edges.tolist() == [2.0]
    assert edges.dtype == np.float64


@pytest.mark.parametrize("n", [0, -1])
def test_too_few_buckets_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"{n} buckets"):
        quantile_edges(np.arange(3.0), n)


def test_no_value_is_refused() -> None:
    with pytest.raises(InputError, match="no predicted token"):
        quantile_edges(np.array([np.nan]), 2)


def test_a_value_on_an_edge_goes_up_and_nan_nowhere() -> None:
    values = np.array([[0.0, 1.0, 1.5], [2.0, 9.0, np.nan]])
    assert assign_buckets(values, np.array([1.0, 2.0])).tolist() == [[0, 1, 1], [2, 2, -1]]
    assert assign_buckets(values, np.array([1.0, 2.0])).dtype == np.int16


def test_a_float32_value_on_its_own_edge_goes_up() -> None:
    # 0.1 as float32 is above 0.1 as float64: comparing in float32 would hide the difference.
    values = np.array([0.1], dtype=np.float32)
    assert assign_buckets(values, np.array([np.float64(values[0])])).tolist() == [1]
    assert assign_buckets(values, np.array([np.nextafter(np.float64(values[0]), 1)])).tolist() == [0]


@given(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=200), st.integers(1, 12))
def test_buckets_of_distinct_values_have_equal_sizes(values: list[float], n: int) -> None:
    distinct = np.unique(np.array(values, dtype=np.float32))
    counts = np.bincount(assign_buckets(distinct, quantile_edges(distinct, n)), minlength=n)
    assert counts.sum() == len(distinct)
    # 1 by arithmetic, 2 where an interpolated edge is rounded past a value.
    assert counts.max() - counts.min() <= 2


def test_labels() -> None:
    assert bucket_labels(1) == ("all",)
    assert bucket_labels(2) == ("low", "high")
    assert bucket_labels(10) == ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")


def test_edges_come_from_predicted_training_tokens_alone() -> None:
    train = SimpleNamespace(
        reference_entropy=np.array([[99.0, 1.0, 2.0, 3.0]]),
        predicted=np.array([[False, True, True, True]]),
    )
    buckets = entropy_buckets(cast(Any, train), 2)
    assert buckets.edges.tolist() == [2.0]
    assert (buckets.n, buckets.labels) == (2, ("low", "high"))
    # Validation values far above every training value do not move the edge.
    assert buckets.assign(np.array([1.9, 2.0, 50.0])).tolist() == [0, 1, 1]


def test_buckets_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Buckets(np.array([1.0]), ("low", "high")).labels = ("a", "b")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either n or edges"),
        ({"n": 2, "edges": [1.0]}, "either n or edges"),
        ({"edges": [2.0, 1.0]}, r"edges \[2.0, 1.0\] do not rise"),
        ({"edges": [1.0, 1.0]}, "do not rise"),
        ({"n": 3, "labels": ["a", "b"]}, "3 buckets need as many labels; got 2: a, b"),
        ({"by": "reference_entropi", "n": 2}, "did you mean 'reference_entropy'"),
    ],
)
def test_buckets_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_buckets(hand_records(), **options)


def test_two_way_buckets() -> None:
    records = hand_records()
    pairs = TwoWayBuckets(make_buckets(records, edges=[1.5]), make_buckets(records, "position", edges=[2, 4]))
    assert pairs.labels == ("low x 1", "low x 2", "low x 3", "high x 1", "high x 2", "high x 3")
    assert pairs.index(records).tolist() == [[-1, 0, 4, -1, 5, -1]]
    assert pairs.grid(np.arange(12).reshape(2, 6))[1].tolist() == [[6, 7, 8], [9, 10, 11]]


class Moving:
    """Entropies of two epochs; the last token is not predicted."""

    predicted = np.array([[True, True, True, True, False]])
    entropy = {  # noqa: RUF012
        0: np.array([[1, 2, 3, 4, 9]], dtype=np.float16),
        1: np.array([[8, 7, np.nan, 5, np.nan]], dtype=np.float16),
        2: np.full((1, 5), np.nan, dtype=np.float16),
    }

    def stored(self, value: str, epoch: int) -> np.ndarray[Any, Any]:
        assert value == "entropy"
        return self.entropy[epoch]


def test_moving_buckets_follow_the_epoch() -> None:
    records = cast(Any, Moving())
    halves = moving_buckets(2)
    assert halves.index(records, 0).tolist() == [[0, 0, 1, 1, -1]]
    # The median of 8, 7 and 5 is 7; a predicted token that is NaN is in the highest bucket.
    assert halves.index(records, 1).tolist() == [[1, 1, 1, 0, -1]]
    assert halves.index(records, 2).tolist() == [[1, 1, 1, 1, -1]]
    fixed = moving_buckets(edges=[2, 6])
    assert fixed.index(records, 0).tolist() == [[0, 1, 1, 1, -1]]
    assert fixed.index(records, 1).tolist() == [[2, 2, 2, 1, -1]]
    with pytest.raises(InputError, match="'correct'; use entropy or loss"):
        moving_buckets(2, value="correct")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="either n or edges"):
        moving_buckets()


def test_buckets_say_whether_the_outcome_chose_them() -> None:
    records = hand_records()
    by = {name: make_buckets(records, name, n=2) for name in ("reference_entropy", "frequency", "position")}
    loss = make_buckets(records, "reference_loss", n=2)
    assert [each.chosen_by_outcome for each in by.values()] == [False] * 3
    assert loss.chosen_by_outcome and loss.by == "reference_loss"
    for value in ("entropy", "loss"):
        moving = moving_buckets(2, value=value)  # type: ignore[arg-type]
        assert moving.chosen_by_outcome and moving.by == f"current {value}"
    assert not TwoWayBuckets(by["frequency"], by["position"]).chosen_by_outcome
    for first, second in ((loss, by["position"]), (by["position"], loss)):
        assert TwoWayBuckets(first, second).chosen_by_outcome
    assert TwoWayBuckets(by["position"], loss).by == "position and reference_loss"


def test_keys_tell_buckets_apart() -> None:
    records = hand_records()
    every = [
        make_buckets(records, n=2),
        make_buckets(records, n=3),
        make_buckets(records, "reference_loss", n=2),
        make_buckets(records, n=2, labels=("a", "b")),
        moving_buckets(2),
        moving_buckets(2, value="loss"),
        TwoWayBuckets(make_buckets(records, n=2), make_buckets(records, n=2)),
    ]
    assert len({buckets.key for buckets in every}) == len(every)
    assert make_buckets(records, n=2).key == every[0].key


@given(
    st.lists(st.floats(0, 20, width=16), min_size=1, max_size=50), st.lists(st.floats(0, 20), max_size=40, unique=True)
)
def test_comparing_in_the_values_own_type_is_exact(values: list[float], edges: list[float]) -> None:
    cut = np.sort(np.array(edges, dtype=np.float64))
    expected = [sum(value >= edge for edge in cut) for value in values]
    for dtype in (np.float16, np.float32, np.float64):
        assert assign_buckets(np.array(values, dtype=dtype), cut).tolist() == expected
