from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.document_sums import DocumentSums, average_sums, coarsen, document_sums, sums_by_value
from dynamics.analysis.tokens.buckets import Buckets, moving_buckets
from dynamics.errors import InputError

NAN = np.nan


class HandRecords:
    """Two sequences of five tokens; documents 4, 7 and 9; the last two tokens are padding."""

    run = SimpleNamespace(epochs=[0, 2], passes=float, path="here")
    document_id = np.array([[4, 4, 4, 7, 7], [7, 7, 9, -1, -1]], dtype=np.int32)
    predicted = np.array([[0, 1, 1, 0, 1], [0, 1, 0, 0, 0]], dtype=bool)
    token_id = np.array([[1, 2, 3, 1, 2], [2, 2, 1, 0, 0]], dtype=np.int32)
    reference_loss = np.array([[NAN, 1.0, 2.0, NAN, 3.0], [NAN, 4.0, NAN, NAN, NAN]])
    reference_entropy = np.array([[NAN, 0.5, 3.0, NAN, 0.25], [NAN, 2.0, NAN, NAN, NAN]])
    losses: dict[int, np.ndarray[Any, Any]] = {  # noqa: RUF012
        0: np.array([[NAN, 4.0, 6.0, NAN, 1.0], [NAN, 3.0, NAN, NAN, NAN]], dtype=np.float16),
        2: np.array([[NAN, 2.0, 7.0, NAN, 0.5], [NAN, 1.0, NAN, NAN, NAN]], dtype=np.float16),
    }

    def __init__(self) -> None:
        self.read: list[int] = []

    def stored(self, value: str, epoch: int) -> np.ndarray[Any, Any]:
        self.read.append(epoch)
        return self.losses[epoch] * np.float16({"loss": 1, "entropy": 0.5}[value])

    def correct(self, epoch: int) -> np.ndarray[Any, Any]:
        return self.losses[epoch] < 2.5  # NaN < 2.5 is false, as it is in records


TWO = Buckets(np.array([1.0]), ("low", "high"))


def test_sums_of_one_bucket() -> None:
    ds = document_sums(HandRecords())  # all the run's epochs
    # Document 9 has no predicted token and is no document here.
    assert ds.documents.tolist() == [4, 7]
    assert ds.counts.tolist() == [[2], [2]]
    assert ds.sums[:, :, 0].tolist() == [[10.0, 4.0], [9.0, 1.5]]
    assert ds.epochs.tolist() == [0, 2]
    assert ds.labels == ("all",)
    assert mean_curve(ds).tolist() == [[3.5], [2.625]]


def test_sums_by_bucket() -> None:
    ds = document_sums(HandRecords(), epochs=[0, 2], buckets=TWO)
    assert ds.counts.tolist() == [[1, 1], [1, 1]]
    assert ds.sums.tolist() == [[[4, 6], [1, 3]], [[2, 7], [0.5, 1]]]
    # A ratio of sums: (4 + 1) / 2 and (6 + 3) / 2 at epoch 0.
    assert mean_curve(ds).tolist() == [[2.5, 4.5], [1.25, 4.0]]
    assert ds.n_documents == 2


def test_other_values() -> None:
    entropy = document_sums(HandRecords(), epochs=[0], value="entropy")
    assert mean_curve(entropy).tolist() == [[1.75]]
    correct = document_sums(HandRecords(), epochs=[0, 2], value="correct")
    assert mean_curve(correct).tolist() == [[0.25], [0.75]]


def test_certainty_is_the_least_probability_of_the_argmax() -> None:
    certainty = document_sums(HandRecords(), epochs=[0], value="certainty")
    by_hand = np.exp([[-2.0, -3.0], [-0.5, -1.5]]).sum(axis=1)
    np.testing.assert_allclose(certainty.sums[0, :, 0], by_hand, rtol=1e-6)


def test_several_values_at_once() -> None:
    records = HandRecords()
    both = sums_by_value(records, values=("loss", "correct"), buckets=TWO)
    for value, sums in both.items():
        alone = document_sums(records, buckets=TWO, value=value)
        assert sums.sums.tolist() == alone.sums.tolist()
        assert sums.counts.tolist() == alone.counts.tolist()


def test_sums_in_moving_buckets() -> None:
    # Entropies are half the losses: 2, 3 and 0.5, 1.5 at epoch 0; 1, 3.5 and 0.25, 0.5 at epoch 2.
    ds = document_sums(HandRecords(), buckets=moving_buckets(edges=[1.0]))
    assert ds.counts.tolist() == [[[0, 2], [1, 1]], [[0, 2], [2, 0]]]
    assert ds.sums.tolist() == [[[0, 10], [1, 3]], [[0, 9], [1.5, 0]]]
    assert mean_curve(ds).tolist() == [[1.0, 13 / 3], [0.75, 4.5]]
    mean = average_sums([ds, dataclasses.replace(ds, sums=3 * ds.sums, counts=2 * ds.counts)])
    # All tokens of both together: four times the sums over three times the tokens.
    np.testing.assert_allclose(mean_curve(mean), mean_curve(ds) * 4 / 3)


def test_coarser_buckets_are_those_read_anew() -> None:
    records = HandRecords()
    fine = document_sums(records, buckets=Buckets(np.array([0.3, 1.0, 2.5]), ("1", "2", "3", "4")))
    halves = coarsen(fine, [0, 0, 1, 1], ["low", "high"])
    expected = document_sums(records, buckets=TWO)
    assert halves.sums.tolist() == expected.sums.tolist()
    assert halves.counts.tolist() == expected.counts.tolist()
    assert halves.labels == ("low", "high")
    with pytest.raises(InputError, match=r"groups \[0, 2\] do not put 4 buckets into 2"):
        coarsen(fine, [0, 2], ["low", "high"])


def test_only_the_epochs_asked_for_are_read() -> None:
    records = HandRecords()
    document_sums(records, epochs=[2])
    assert records.read == [2]


def test_half_precision_is_added_in_double() -> None:
    # 10,000 tokens of loss 1.0: a float16 sum would stop at 2,048.
    records = HandRecords()
    records.document_id = np.zeros((1, 10_001), dtype=np.int32)
    records.predicted = np.arange(10_001)[None] > 0
    records.losses = {0: np.ones((1, 10_001), dtype=np.float16)}
    ds = document_sums(records, epochs=[0])
    assert ds.sums.item() == 10_000.0
    assert ds.sums.dtype == np.float64


def test_a_token_that_diverged_shows_in_its_epoch_and_bucket_alone() -> None:
    records = HandRecords()
    broken = records.losses[2].copy()
    broken[0, 1] = NAN
    records.losses = {0: records.losses[0], 2: broken}
    curve = mean_curve(document_sums(records, epochs=[0, 2], buckets=TWO))
    np.testing.assert_array_equal(curve, [[2.5, 4.5], [NAN, 4.0]])


def test_a_bucket_without_tokens_is_nan() -> None:
    empty = Buckets(np.array([100.0]), ("low", "high"))
    curve = mean_curve(document_sums(HandRecords(), epochs=[0], buckets=empty))
    np.testing.assert_array_equal(curve, [[3.5, NAN]])


def test_a_token_without_a_reference_value_is_in_no_bucket() -> None:
    records = HandRecords()
    records.reference_entropy = records.reference_entropy.copy()
    records.reference_entropy[0, 2] = NAN  # document 4's one token of the high bucket
    ds = document_sums(records, epochs=[0], buckets=TWO)
    assert ds.counts.tolist() == [[1, 0], [1, 1]]
    assert ds.sums[0].tolist() == [[4.0, 0.0], [1.0, 3.0]]


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown value 'los'.*did you mean 'loss'"):
        document_sums(HandRecords(), epochs=[0], value="los")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no complete epoch"):
        document_sums(HandRecords(), epochs=[])
    nothing = HandRecords()
    nothing.predicted = np.zeros((2, 5), dtype=bool)
    with pytest.raises(InputError, match="no predicted token"):
        document_sums(nothing, epochs=[0])


def test_seeds_are_averaged_document_by_document() -> None:
    first = document_sums(HandRecords(), epochs=[0, 2])
    second = dataclasses.replace(first, sums=first.sums * 3)
    mean = average_sums([first, second])
    assert mean.sums[:, :, 0].tolist() == [[20.0, 8.0], [18.0, 3.0]]
    assert mean.counts.tolist() == first.counts.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"counts": np.array([[2.0], [3.0]])},
        {"documents": np.array([4, 8])},
        {"epochs": np.array([0, 1])},
        {"labels": ("low",)},
    ],
)
def test_runs_with_other_tokens_are_not_averaged(change: dict[str, Any]) -> None:
    first = document_sums(HandRecords(), epochs=[0, 2])
    with pytest.raises(InputError, match="cannot be averaged"):
        average_sums([first, dataclasses.replace(first, **change)])


def test_document_sums_do_not_change() -> None:
    ds = document_sums(HandRecords(), epochs=[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        ds.labels = ("x",)  # type: ignore[misc]
    assert isinstance(ds, DocumentSums)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_value_that_was_clipped_is_no_measurement(dtype: type[np.floating[Any]]) -> None:
    """The records hold the largest number of their type in the place of an infinite loss."""
    records = HandRecords()
    limit = np.finfo(dtype).max
    losses = {epoch: loss.astype(dtype) for epoch, loss in records.losses.items()}
    losses[2][0, 2] = limit
    losses[0][0, 2] = np.nextafter(limit, dtype(0.0))  # as large as a number can be that was not clipped
    records.losses = losses
    ds = document_sums(records, buckets=TWO)
    assert np.isnan(ds.sums[1, 0, 1]) and np.isnan(mean_curve(ds)[1, 1])
    assert ds.sums[0].tolist() == [[4, float(losses[0][0, 2])], [1, 3]]
    assert ds.sums[1, :, 0].tolist() == [2, 0.5]
    assert losses[2][0, 2] == limit
