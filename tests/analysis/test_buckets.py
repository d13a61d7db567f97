from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.analysis.buckets import (
    Buckets,
    assign_buckets,
    bucket_labels,
    entropy_buckets,
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
