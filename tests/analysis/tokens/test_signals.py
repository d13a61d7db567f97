from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hand_made import hand_records
from support.synthetic import make_run

from dynamics.analysis.tokens.buckets import make_buckets
from dynamics.analysis.tokens.signals import own_signal, token_frequency
from dynamics.errors import InputError
from dynamics.records.reader import Run, open_run

Array = np.ndarray[Any, Any]


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


@pytest.fixture(scope="module")
def surprised(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Losses are the entropy, the same in every epoch, times draws of mean 1: the surprise of a model that is right."""

    def drawn(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.asarray(entropy * np.random.default_rng(len(split)).exponential(1.0, entropy.shape))

    path = tmp_path_factory.mktemp("surprised") / "run"
    same = lambda epoch, split, entropy, rng: entropy  # noqa: E731
    return open_run(make_run(path, n_documents=60, epochs=2, loss_fn=drawn, entropy_fn=same))


def own(run: Run, read: Any, **said: Any) -> bool:
    signal = own_signal("own", {split: read(run.records(split)) for split in run.splits}, **said)
    return make_buckets(run.records("train"), signal, n=2).chosen_by_outcome


def test_an_array_of_losses_is_found_out(surprised: Run) -> None:
    assert own(surprised, lambda records: records.loss(2))
    assert own(surprised, lambda records: -records.loss(1))
    assert own(surprised, lambda records: records.loss(0) - records.entropy(0))
    # What is known before the token.
    assert not own(surprised, lambda records: records.entropy(2))
    assert not own(surprised, lambda records: records.reference_entropy)
    assert not own(surprised, lambda records: np.ones(records.predicted.shape))
    # What is said holds.
    assert own(surprised, lambda records: records.entropy(2), chosen_by_outcome=True)
    assert not own(surprised, lambda records: records.loss(2), chosen_by_outcome=False)


def test_what_cannot_be_found_out_is_not_taken_for_an_outcome(surprised: Run, tmp_path: Path) -> None:
    train = surprised.records("train")
    alone = own_signal("alone", {"train": train.loss(2)})
    assert not make_buckets(train, alone, n=2).chosen_by_outcome
    few = open_run(make_run(tmp_path / "few", n_documents=2, epochs=1))
    assert not own(few, lambda records: records.loss(1))
    started = open_run(make_run(tmp_path / "started", epochs=1))
    started.epochs = []
    assert not own(started, lambda records: records.reference_loss)
