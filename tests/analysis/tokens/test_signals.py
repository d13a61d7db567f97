from __future__ import annotations

import numpy as np
import pytest
from support.hand_made import hand_records

from dynamics.analysis.tokens.buckets import (
    make_buckets,
)
from dynamics.analysis.tokens.signals import own_signal, token_frequency
from dynamics.errors import InputError


def test_other_signals() -> None:
    records = hand_records()
    loss = make_buckets(records, "reference_loss", n=2)
    assert loss.edges.tolist() == [1.0]
    assert loss.index(records).tolist() == [[-1, 1, 0, -1, 1, -1]]
    position = make_buckets(records, "position", edges=[2, 4], labels=["begin", "middle", "end"])
    assert position.index(records).tolist() == [[0, 0, 1, 1, 2, 2]]
    assert position.labels == ("begin", "middle", "end")


def test_frequency_counts_the_training_tokens_without_padding() -> None:
    signal = token_frequency(hand_records())
    other = hand_records("validation")
    # 8 is between ids that occur, 12 above all of them, and 0 occurs as padding alone.
    other.token_id = np.array([[5, 6, 8, 9, 12, 0]])
    assert signal.read(other).tolist() == [[3, 1, 0, 1, 0, 0]]
    buckets = make_buckets(hand_records(), "frequency", edges=[1, 2])
    assert buckets.index(other).tolist() == [[2, 1, 0, 1, 0, 0]]


def test_an_array_of_ones_own() -> None:
    mine = {"train": np.array([[9, 0.0, 1, 9, 2, 9]]), "validation": np.array([[0.5, 0.75, np.nan, 2, 0, 1]])}
    buckets = make_buckets(hand_records(), own_signal("mine", mine), n=2)
    assert buckets.edges.tolist() == [1.0]  # the median of 0, 1 and 2, those that are predicted
    assert buckets.index(hand_records("validation")).tolist() == [[0, 0, -1, 1, 0, 1]]
    with pytest.raises(InputError, match=r"'mine' has no values for 'tuning': it has train, validation"):
        buckets.index(hand_records("tuning"))
    short = own_signal("short", {"train": np.zeros((1, 3))})
    with pytest.raises(InputError, match=r"'short' has shape \(1, 3\), and the records \(1, 6\)"):
        make_buckets(hand_records(), short, n=2)
