"""Pools, against what real runs dropped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.synthetic import make_run
from support.tiny import run_tiny

from dynamics.analysis.tokens.drop_pools import drop_pool, entropy_rank
from dynamics.records.reader import open_run
from dynamics.records.values import WholeSplit


def test_rank_by_hand():
    entropy = np.array([[4.0, 1.0, 2.0, 2.0, np.nan, 9.0]])
    predicted = np.array([[True, True, True, True, True, False]])
    train = WholeSplit(np.array([0]), np.zeros_like(entropy, dtype=int), predicted, entropy, entropy)
    # Against 1, 2, 2, 4: 2 is above one, and equal to two of them.
    asked = np.array([[0.5, 1.0, 2.0], [3.0, 5.0, np.nan]])
    assert entropy_rank(asked, train)[0].tolist() == [0.0, 0.125, 0.5]
    assert entropy_rank(asked, train)[1][:2].tolist() == [0.75, 1.0]
    assert np.isnan(entropy_rank(asked, train)[1][2])


def test_rank_among_nothing():
    nothing = np.full((1, 3), np.nan)
    train = WholeSplit(np.array([0]), np.zeros((1, 3), dtype=int), np.ones((1, 3), dtype=bool), nothing, nothing)
    assert np.isnan(entropy_rank(np.array([1.0, 2.0]), train)).all()


def test_no_token_dropout_no_pool(run_path_of):
    assert drop_pool(run_path_of([])) is None
    assert drop_pool(run_path_of([{"name": "weight_decay", "value": 0.1}])) is None


def test_the_pool_of_another_epoch_is_not_known(run_path_of):
    pool = drop_pool(run_path_of([{"name": "entrodrop", "ratio": 0.1, "pool": 0.4, "source": "previous_epoch"}]))
    assert (pool.method, pool.share, pool.may_drop) == ("entrodrop", 0.4, None)


def test_the_share_is_of_all_sequences_not_of_the_recorded(run_path_of):
    every = run_path_of([{"name": "entrodrop", "ratio": 0.1, "pool": 0.3}])
    some = run_path_of([{"name": "entrodrop", "ratio": 0.1, "pool": 0.3}], recorded={"train": [2, 3, 11]})
    pool = drop_pool(every)
    n = int(every.predicted.sum())
    assert int(pool.may_drop.sum()) == round(0.3 * n)
    assert (
        every.reference_entropy[pool.may_drop].max() <= every.reference_entropy[every.predicted & ~pool.may_drop].min()
    )
    assert np.array_equal(drop_pool(some).may_drop, pool.may_drop[[2, 3, 11]])


def test_pools_under_a_threshold_by_hand(run_path_of):
    for name, inside in (("entrodrop", np.less_equal), ("inverse_entrodrop", np.greater_equal)):
        train = run_path_of([{"name": name, "ratio": 0.1, "threshold": 0.7, "pool": None}])
        pool = drop_pool(train)
        expected = train.predicted & inside(train.reference_entropy, np.float32(0.7))
        assert np.array_equal(pool.may_drop, expected)
        assert pool.share == pytest.approx(expected.sum() / train.predicted.sum()) and 0.1 < pool.share < 0.9


def test_a_pool_that_grows_holds_what_its_peak_does(run_path_of):
    train = run_path_of([{"name": "entrodrop", "ratio": 0.3, "choice": "lowest", "ranks": "sequence"}])
    pool = drop_pool(train)
    assert pool.share == 0.3
    for row in range(len(train.predicted)):
        inside = train.predicted[row]
        size = int(np.floor(0.3 * inside.sum() + 0.5))
        edge = np.sort(train.reference_entropy[row][inside])[size - 1] if size else -1.0
        assert np.array_equal(pool.may_drop[row], inside & (train.reference_entropy[row] <= edge))


def test_pools_that_the_reference_does_not_tell(run_path_of):
    batch = drop_pool(run_path_of([{"name": "entrodrop", "ratio": 0.1, "ranks": "batch"}]))
    assert (batch.share, batch.may_drop) == (0.5, None)
    other = drop_pool(run_path_of([{"name": "entrodrop", "ratio": 0.1, "source": {"model": "owner/model"}}]))
    assert (other.share, other.may_drop) == (0.5, None)
    shifting = {"name": "entrodrop", "ratio": 0.1, "threshold": 0.5, "pool": None, "source": "current"}
    pool = drop_pool(run_path_of([shifting]))
    assert np.isnan(pool.share) and pool.may_drop is None


@pytest.fixture
def run_path_of(tmp_path):
    def made(regularizers, **options):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        return open_run(make_run(path, epochs=1, regularizers=regularizers, **options)).records("train")

    return made


METHODS = [
    ({"name": "entrodrop"}, 0.5),
    ({"name": "entrodrop", "ranks": "sequence", "pool": 0.4}, 0.4),
    ({"name": "entrodrop", "ranks": "document", "signal": "loss"}, 0.5),
    ({"name": "entrodrop", "signal": "loss"}, 0.5),
    ({"name": "inverse_entrodrop"}, 0.5),
    ({"name": "inverse_entrodrop", "ranks": "sequence", "signal": "loss", "pool": 0.3}, 0.3),
    ({"name": "inverse_entrodrop", "ranks": "document"}, 0.5),
    ({"name": "random_token_dropout"}, 1.0),
    ({"name": "entrodrop", "choice": "graded"}, 0.5),
    ({"name": "entrodrop", "distribution": "at_token"}, 0.5),
    ({"name": "inverse_entrodrop", "distribution": "at_token", "ranks": "sequence", "signal": "loss"}, 0.5),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """24 documents of 200 random letters."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcd efgh"), 200)) for _ in range(24)]
    path = tmp_path_factory.mktemp("corpus") / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize(("method", "share"), METHODS, ids=lambda value: str(value))
@pytest.mark.parametrize("recorded", ["all", 12])
def test_pools_hold_all_that_real_runs_dropped(method, share, recorded, tmp_path, corpus):
    run = run_tiny(
        tmp_path / "run",
        corpus={"source": str(corpus)},
        tokenizer={"train": {"vocab_size": 270}},
        regularizers=[{"ratio": 0.3, "schedule": "constant", **method}],
        recording={"train_sequences": recorded, "validation_sequences": 2},
        training={"num_train_epochs": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
    )
    train = run.records("train")
    assert len(train.sequence_id) < len(train.whole.predicted) or recorded == "all"
    pool = drop_pool(train)
    assert (pool.method, pool.share) == (method["name"], share)
    dropped = train.dropped(1) | train.dropped(2)
    assert dropped.sum() > 0.2 * pool.may_drop.sum()
    assert not (dropped & ~pool.may_drop).any()
    if method.get("choice") == "graded":
        return
    # With twice so many chances about 1 - (1 - ratio / pool)**2 of the pool is hit: the pool is no larger than it is.
    expected = 1 - (1 - 0.3 / share) ** 2
    n = int(pool.may_drop.sum())
    assert dropped.sum() / n == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / n) + 1e-9)
