"""What "low entropy tokens are dropped, more of them as training goes on" may mean: each reading, by hand."""

import logging

import numpy as np
import pytest
import torch
from support.batches import rows_batch, training_data
from support.models import build

from dynamics.errors import InputError
from dynamics.ops.keyed_random import STREAM_DROP, keyed_uniform
from dynamics.regularizers.base import Batch, TrainingData
from dynamics.regularizers.entrodrop import EntroDrop
from dynamics.regularizers.inverse_entrodrop import InverseEntroDrop
from dynamics.regularizers.random_token_dropout import RandomTokenDropout

BOTH = [EntroDrop, InverseEntroDrop]
NAN = np.nan
# One sequence of ten tokens, nine of them predicted, in two documents; entropies in the order of the text.
ENTROPY = np.array([[NAN, 0.9, 0.1, 0.4, 0.7, NAN, 0.2, 0.8, 0.3, 0.6]], dtype=np.float32)
HAND = TrainingData(
    token_id=np.arange(10, dtype=np.int32)[None],
    document_id=np.array([[0] * 5 + [1] * 5], dtype=np.int32),
    predicted=~np.isnan(ENTROPY),
    reference_loss=1 - ENTROPY,
    reference_entropy=ENTROPY,
    tokenizer=None,
    seed=7,
)


def prepared(cls, data=HAND, **settings):
    method = cls(**settings)
    method.prepare(data)
    return method


def whole(data=HAND, epoch=1, progress=0.5, **values):
    return rows_batch(data.predicted, epoch=epoch, progress=progress, **values)


def places(mask):
    """The positions of the one sequence at which something stands."""
    return torch.as_tensor(mask).flatten().nonzero()[:, 0].tolist()


def draws(data, epoch=1):
    batch = whole(data, epoch)
    keys = {"sequence_id": batch.sequence_id, "position": batch.position}
    return keyed_uniform(seed=data.seed, stream=STREAM_DROP, epoch=epoch, **keys).numpy()


# A pool that grows.


def test_the_lowest_share_is_dropped_and_all_of_it():
    """Of eight tokens in the order 2, 6, 8, 3, 9, 4, 7, 1 (by entropy): round(8 ratio(t)) of them."""
    method = prepared(EntroDrop, ratio=0.5, choice="lowest")  # linear: 0, 1/8, 1/4, 3/8 of the tokens
    for progress, expected in ((0.0, []), (0.25, [2]), (0.5, [2, 6]), (0.75, [2, 6, 8]), (1.0, [2, 3, 6, 8])):
        for epoch in (1, 2):  # there is no draw
            assert places(method.dropped(whole(epoch=epoch, progress=progress))) == expected
    inverse = prepared(InverseEntroDrop, ratio=0.5, choice="lowest")
    assert places(inverse.dropped(whole(progress=0.5))) == [1, 7]


def test_the_lowest_share_of_each_document():
    # Four tokens each: 1, 2, 3, 4 (lowest first: 2, 3, 4, 1) and 6 to 9 (6, 8, 9, 7).
    method = prepared(EntroDrop, ratio=0.5, choice="lowest", ranks="document", schedule="constant")
    assert places(method.dropped(whole())) == [2, 3, 6, 8]


# A threshold in nats.


def test_a_threshold_says_who_may_be_dropped():
    # 0.1, 0.4, 0.2, 0.3 of eight are at or below 0.4: half of the tokens, and ratio 1/4 drops each with 1/2.
    method = prepared(EntroDrop, threshold=0.4, ratio=0.25, schedule="constant")
    assert method.settings.pool is None and method.pool == 0.5
    assert places(method.probability(whole())) == [2, 3, 6, 8]
    assert method.probability(whole())[0, 2] == 0.5
    expected = np.flatnonzero((draws(HAND)[0] < 0.5) & (ENTROPY[0] <= np.float32(0.4)))
    assert places(method.dropped(whole())) == expected.tolist()
    high = prepared(InverseEntroDrop, threshold=0.7, ratio=0.25, schedule="constant")
    assert places(high.probability(whole())) == [1, 4, 7]
    assert high.probability(whole())[0, 1] == pytest.approx(0.25 * 8 / 3)


def test_a_threshold_below_which_there_are_too_few():
    with pytest.raises(InputError, match=r"EntroDrop: threshold 0.15 leaves 12.5 % .* less than ratio 0.2"):
        prepared(EntroDrop, threshold=0.15, ratio=0.2)
    with pytest.raises(InputError, match=r"InverseEntroDrop: threshold 3 leaves 0 % "):
        prepared(InverseEntroDrop, threshold=3.0, ratio=0.2)


def test_a_pool_that_shrinks_below_the_ratio_is_dropped_whole_and_that_is_said(caplog):
    method = prepared(EntroDrop, threshold=0.4, ratio=0.5, schedule="constant", source="previous_epoch")
    now = ENTROPY + 0.15  # 0.1 and 0.2 stay below 0.4
    with caplog.at_level(logging.WARNING):
        method.end_epoch(1, now, now)
    assert "after epoch 1, threshold 0.4 leaves 25 % of the predicted tokens" in caplog.text
    assert places(method.dropped(whole(epoch=2))) == [2, 6]
    nothing = np.where(np.isnan(ENTROPY), NAN, 5.0).astype(np.float32)
    method.end_epoch(2, nothing, nothing)
    assert places(method.dropped(whole(epoch=3))) == []


# Graded by entropy.


def test_the_lower_the_likelier():
    # The pool is 2, 6, 8, 3 with places 1/8, 3/8, 5/8, 7/8; a mean of 1/2 gives 7/8, 5/8, 3/8, 1/8.
    method = prepared(EntroDrop, ratio=0.25, choice="graded", schedule="constant")
    expected = {2: 0.875, 6: 0.625, 8: 0.375, 3: 0.125}
    found = method.probability(whole())[0]
    assert {place: float(found[place]) for place in places(found)} == expected
    chance = np.array([expected.get(place, 0.0) for place in range(10)])
    for epoch in range(1, 9):
        assert places(method.dropped(whole(epoch=epoch))) == np.flatnonzero(draws(HAND, epoch)[0] < chance).tolist()


def test_under_a_threshold_by_the_distance_to_it():
    # Of the pool (0.1, 0.4, 0.2, 0.3 under 0.5) distances are 0.4, 0.1, 0.3, 0.2 of mean 1/4.
    method = prepared(EntroDrop, threshold=0.5, ratio=0.125, choice="graded", schedule="constant")
    found = method.probability(whole())[0]
    expected = {2: 0.4, 3: 0.1, 6: 0.3, 8: 0.2}
    assert {place: pytest.approx(float(found[place]), abs=1e-6) for place in places(found)} == expected
    high = prepared(InverseEntroDrop, threshold=0.5, ratio=0.125, choice="graded", schedule="constant")
    found = high.probability(whole())[0]  # 0.9, 0.7, 0.8, 0.6: distances 0.4, 0.2, 0.3, 0.1
    expected = {1: 0.4, 4: 0.2, 7: 0.3, 9: 0.1}
    assert {place: pytest.approx(float(found[place]), abs=1e-6) for place in places(found)} == expected


# The share is that of the ratio, whatever the reading.

READINGS = {
    "lowest": {"choice": "lowest"},
    "graded": {"choice": "graded"},
    "graded, above half": {"choice": "graded", "pool": 0.35},
    "threshold": {"threshold": 0.5},
    "threshold, graded": {"threshold": 0.5, "choice": "graded"},
    "at": {"distribution": "at_token"},
    "at, lowest": {"distribution": "at_token", "choice": "lowest"},
    "batch": {"ranks": "batch"},
    "sequence, lowest": {"ranks": "sequence", "choice": "lowest"},
    "document, graded": {"ranks": "document", "choice": "graded"},
    "current, batch, graded": {"source": "current", "ranks": "batch", "choice": "graded"},
    "current": {"source": "current", "choice": "graded"},
    "current, at": {"source": "current", "distribution": "at_token", "choice": "graded"},
    "current, lowest": {"source": "current", "choice": "lowest"},
    "current, threshold": {"source": "current", "threshold": 0.5, "choice": "graded"},
    "previous, threshold": {"source": "previous_epoch", "threshold": 0.5},
}


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("ratio", [0.05, 0.3])
def test_the_expected_share_is_the_ratio(cls, reading, ratio):
    data = training_data(200, 100)
    method = prepared(cls, data, ratio=ratio, schedule="constant", **READINGS[reading])
    values = {"loss": torch.from_numpy(data.reference_loss), "entropy": torch.from_numpy(data.reference_entropy)}
    if method.needs_epoch_values:
        method.end_epoch(0, data.reference_loss, data.reference_entropy)
    batch = whole(data, **values)
    n = int(data.predicted.sum())
    chance = (method.probability(batch) * batch.predicted).numpy()
    # Groups round their pools to whole tokens.
    assert chance.sum() / n == pytest.approx(ratio, abs=0.004)
    dropped = method.dropped(batch).numpy()
    assert abs(dropped.sum() - chance.sum()) <= 4 * np.sqrt((chance * (1 - chance)).sum()) + 1e-9
    assert not (dropped & ~data.predicted).any()
    more = method.dropped(whole(data, epoch=1, **values))
    assert np.array_equal(more.numpy(), dropped)


# The prediction at a token, or of it.


def test_the_entropy_at_a_token_is_that_of_the_next_prediction():
    # At 1, 2, 3: 0.1, 0.4, 0.7; at 0 0.9; at 4 (the end of a document) and at 9 none; at 5 to 8: 0.2, 0.8, 0.3, 0.6.
    method = prepared(EntroDrop, ratio=0.5, distribution="at_token", schedule="constant")
    # The lowest four of the predicted: 1 (0.1), 7 (0.3), 2 (0.4), 8 (0.6); 5 is not predicted.
    assert places(method.dropped(whole())) == [1, 2, 7, 8]
    inverse = prepared(InverseEntroDrop, ratio=0.25, pool=0.25, distribution="at_token", schedule="constant")
    assert places(inverse.dropped(whole())) == [3, 6]  # 0.7 and 0.8
    loss = prepared(EntroDrop, ratio=0.25, pool=0.25, distribution="at_token", signal="loss", schedule="constant")
    # Losses are 1 - entropy here: 0.3 and 0.2 are the lowest, where entropies are highest.
    assert places(loss.dropped(whole())) == [3, 6]


def test_what_has_no_prediction_at_it_comes_last():
    everything = prepared(EntroDrop, ratio=0.75, pool=0.75, distribution="at_token", schedule="constant")
    assert places(everything.dropped(whole())) == [1, 2, 3, 6, 7, 8]  # all that have one
    threshold = prepared(EntroDrop, ratio=0.75, threshold=5.0, distribution="at_token", schedule="constant")
    assert threshold.pool == 0.75 and places(threshold.dropped(whole())) == [1, 2, 3, 6, 7, 8]


def test_current_entropies_at_tokens_of_packed_rows_are_those_of_their_own_sequence():
    """Two sequences in one row: the last token of the first has no prediction at it."""
    data = training_data(4, 6)
    data.predicted[:, 1:] = True
    settings = {"ratio": 0.5, "schedule": "constant", "source": "current", "ranks": "sequence"}
    method = prepared(EntroDrop, data, distribution="at_token", **settings)
    values = torch.tensor([[NAN, 0.5, 0.1, 0.9, 0.3, NAN, 0.2, 0.6, 0.4, 0.8]])
    predicted = torch.tensor([[False] + [True] * 4 + [False] + [True] * 4])
    batch = Batch(
        sequence_id=torch.tensor([[2] * 5 + [0] * 5]),
        position=torch.tensor([[0, 1, 2, 3, 4] * 2]),
        predicted=predicted,
        epoch=1,
        progress=0.5,
        loss=values,
        entropy=values,
    )
    # At 1 to 4: 0.1, 0.9, 0.3, none; at 6 to 9: 0.6, 0.4, 0.8, none. Two of each four.
    assert places(method.dropped(batch)) == [1, 3, 6, 7]


# Ranks within a batch.


def test_ranks_within_a_batch_are_those_of_the_rows_that_come_together():
    data = training_data()
    settings = {"ratio": 0.4, "pool": 0.4, "schedule": "constant", "ranks": "batch"}
    method = prepared(EntroDrop, data, **settings)
    for rows in (torch.arange(7), torch.tensor([50, 3, 17])):
        values = data.reference_entropy[rows.numpy()]
        inside = data.predicted[rows.numpy()]
        edge = np.sort(values[inside])[round(0.4 * inside.sum()) - 1]
        batch = rows_batch(data.predicted, rows)
        assert np.array_equal(method.dropped(batch).numpy(), inside & (values <= edge))
    # This is what makes it depend on how a step is split, as no other reading does.
    together = method.dropped(rows_batch(data.predicted, torch.arange(14)))
    apart = [method.dropped(rows_batch(data.predicted, rows)) for rows in torch.arange(14).split(7)]
    assert not torch.equal(together, torch.cat(apart))


SPLIT = {name: one for name, one in READINGS.items() if one.get("ranks") != "batch"}


@pytest.mark.parametrize("reading", SPLIT)
def test_every_other_reading_is_the_same_for_any_split_of_a_step(reading):
    data = training_data()
    method = prepared(EntroDrop, data, ratio=0.2, schedule="constant", **SPLIT[reading])
    rng = np.random.default_rng(1)
    loss, entropy = (torch.from_numpy(rng.random(data.predicted.shape).astype(np.float32)) for _ in range(2))
    if method.needs_epoch_values:
        method.end_epoch(0, loss.numpy(), entropy.numpy())
    values = {"loss": loss, "entropy": entropy}
    together = method.dropped(whole(data, **values))
    assert together.any()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for size in (1, 7):
        for rows in order.split(size):
            assert torch.equal(method.dropped(rows_batch(data.predicted, rows, **values)), together[rows])


# Rescaling.


@pytest.mark.parametrize("cls", [*BOTH, RandomTokenDropout])
def test_kept_embeddings_are_divided_by_the_probability_of_keeping_them(cls):
    data = training_data(4, 20)
    model = build()
    embedding = model.get_input_embeddings()
    ids = torch.randint(64, (4, 20), generator=torch.Generator().manual_seed(0))
    plain = embedding(ids)
    for rescale in ("none", "token", "mean"):
        method = prepared(cls, data, ratio=0.3, schedule="constant", rescale=rescale)
        batch = whole(data)
        mask, inside = method.dropped(batch), (method.probability(batch) > 0) & batch.predicted
        handles = method.attach(model)
        method.begin_batch(batch)
        found = embedding(ids)
        method.end_batch()
        again = embedding(ids)
        for handle in handles:
            handle.remove()
        # Of a pool of a half a token is dropped with 0.6, of all tokens with 0.3.
        chance = 0.3 if cls is RandomTokenDropout else 0.6
        scale = {
            "none": torch.ones(4, 20),
            "token": torch.where(inside, 1 / (1 - chance), 1.0),
            "mean": torch.where(batch.predicted, 1 / 0.7, 1.0),
        }[rescale]
        torch.testing.assert_close(found, torch.where(mask[..., None], 0.0, plain * scale[..., None]))
        assert torch.equal(again, plain)


def test_the_mean_over_epochs_is_the_embedding():
    """What inverted dropout is for; by the draws of 4,000 epochs."""
    data = training_data(2, 12)
    method = prepared(EntroDrop, data, ratio=0.3, schedule="constant", rescale="token", choice="graded")
    total = torch.zeros(2, 12, dtype=torch.float64)
    for epoch in range(1, 4001):
        method.begin_batch(whole(data, epoch=epoch))
        total += torch.where(method._armed.mask, 0.0, method._armed.scale)
    chance = method.probability(whole(data)) * torch.from_numpy(data.predicted)
    error = (chance / (1 - chance) / 4000).sqrt()
    assert ((total / 4000 - 1).abs() <= 4.5 * error + 1e-12).all()


def test_nothing_is_left_to_scale_where_all_of_a_pool_is_dropped():
    method = prepared(EntroDrop, ratio=0.5, schedule="constant", rescale="token")
    method.begin_batch(whole())
    assert torch.isfinite(method._armed.scale).all()
    everything = prepared(RandomTokenDropout, ratio=1.0, schedule="constant", rescale="mean")
    everything.begin_batch(whole())
    assert torch.isfinite(everything._armed.scale).all()


# What contradicts itself.


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"pool": 0.5, "threshold": 0.7}, "pool and threshold both say .*pool: null beside a threshold"),
        ({"pool": None}, "neither pool nor threshold says"),
        ({"threshold": 0.0}, "threshold: must be .*above 0"),
        ({"threshold": float("nan")}, "threshold: must be .*finite"),
        ({"threshold": 0.7, "ranks": "sequence"}, "ranks: sequence is not read with a threshold"),
        ({"threshold": 0.7, "choice": "lowest"}, "choice: lowest .* leave threshold out"),
        ({"choice": "lowest", "rescale": "token"}, "rescale: token has nothing to scale with choice: lowest"),
        ({"rescale": "mean", "replacement": "mean"}, "rescale: mean .* only read with .* replacement: zero"),
        ({"rescale": "token", "target": "loss"}, "rescale: token .* only read with target: input or both"),
        ({"choice": "lowest", "ratio": 0.6}, "ratio 0.6 is above its pool 0.5"),
        ({"choice": "steep"}, "choice"),
        ({"distribution": "before"}, "distribution"),
        ({"rescale": "all"}, "rescale"),
        ({"source": "current", "target": "loss", "normalize": "kept", "ranks": "batch"}, "normalize: kept"),
    ],
    ids=str,
)
def test_contradictions(cls, bad, message):
    with pytest.raises(InputError, match=message):
        cls(**bad)


@pytest.mark.parametrize("reading", READINGS)
def test_what_is_written_out_reads_back_as_the_same(reading):
    settings = EntroDrop(ratio=0.2, **READINGS[reading]).settings
    for mode in ("json", "python"):
        again = EntroDrop(**{key: one for key, one in settings.model_dump(mode=mode).items() if key != "name"})
        assert again.settings == settings
