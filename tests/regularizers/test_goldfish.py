"""Goldfish loss: which tokens are left out, that a passage is treated alike everywhere, and what the loss is."""

import dataclasses

import numpy as np
import pytest
import torch
from support.batches import rows_batch, training_data

from dynamics.errors import InputError
from dynamics.ops.token_statistics import weighted_loss
from dynamics.regularizers.goldfish import GoldfishLoss, every_kth, hashed_contexts


def prepared(data, **settings):
    method = GoldfishLoss(**settings)
    method.prepare(data)
    return method


def row(tokens, documents):
    return np.array([tokens], dtype=np.int32), np.array([documents], dtype=np.int32)


def hash_by_hand(context):
    """SplitMix64's finaliser after each token, in integers without end: the first key says what the hash is for."""
    state = 0
    for key in (4, *context):
        state = (state + (key + 1) * 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state - 2**64 if state >= 2**63 else state


# Which tokens.


def test_static_leaves_out_every_kth_position():
    assert np.flatnonzero(every_kth((1, 10), 3)[0]).tolist() == [3, 6, 9]
    assert np.array_equal(every_kth((2, 10), 4)[1].nonzero()[0], [4, 8])


def test_hash_is_that_of_the_tokens_before_and_of_nothing_else():
    tokens = [5, 3, 5, 3, 5, 9, 0, 3, 5, 3, 7, 0, 0, 1]
    picked = hashed_contexts(*row(tokens, [0] * 14), k=2, h=2)[0]
    expected = [False, False, *(hash_by_hand(tokens[i - 2 : i]) % 2 == 0 for i in range(2, 14))]
    assert picked.tolist() == expected
    assert picked[2] == picked[4] == picked[10]  # each follows 5 3
    assert set(expected[2:]) == {True, False}


def test_hash_knows_the_order_of_tokens_and_token_0():
    def picked_after(pairs):
        tokens = np.insert(pairs, 2, 0, axis=1).astype(np.int32)  # documents of three tokens: the pair and one more
        return hashed_contexts(tokens, np.arange(len(pairs))[:, None].repeat(3, 1), k=4, h=2)[:, 2]

    pairs = np.random.default_rng(0).integers(1, 1000, (4000, 2))
    there, back = picked_after(pairs), picked_after(pairs[:, ::-1])
    zero = picked_after(pairs * [0, 1])
    assert np.mean(there & back) == pytest.approx(1 / 16, abs=0.015)  # independent; by a product of ids it were 1/4
    assert np.mean(zero) == pytest.approx(1 / 4, abs=0.06)  # 1,000 contexts; by a product of ids they were one


def test_tokens_with_less_context_in_their_document_stay_in():
    tokens, documents = row(range(30), [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, *[-1] * 19])
    for h, able in ((1, [1, 2, 3, 5, 7, 8, 9, 10]), (3, [3, 9, 10]), (4, [10]), (5, []), (20, [])):
        expected = [i for i in able if hash_by_hand(range(i - h, i)) % 2 == 0]
        assert np.flatnonzero(hashed_contexts(tokens, documents, k=2, h=h)[0]).tolist() == expected


def test_a_passage_is_treated_alike_in_every_document_and_packing():
    rng = np.random.default_rng(0)
    passage = rng.integers(64, size=200)

    def packed(before, block_size):
        documents = [rng.integers(64, size=before), np.concatenate([rng.integers(64, size=7), passage]), passage]
        flat = np.concatenate(documents)
        owner = np.repeat([0, 1, 2], [len(one) for one in documents])
        n = -(-len(flat) // block_size) * block_size
        token, document = np.zeros(n, dtype=np.int32), np.full(n, -1, dtype=np.int32)
        token[: len(flat)], document[: len(flat)] = flat, owner
        picked = hashed_contexts(token.reshape(-1, block_size), document.reshape(-1, block_size), k=3, h=5).ravel()
        return picked[before + 7 :][:200], picked[before + 207 :][:200]

    found = [one for before, size in ((10, 16), (23, 50), (40, 1000)) for one in packed(before, size)]
    for one in found:
        assert np.array_equal(one[5:], found[0][5:])  # the first 5 follow what stands before the passage
    assert 0.2 < found[0].mean() < 0.5
    assert not found[1][:5].any()


@pytest.mark.parametrize("k", [2, 4, 10])
def test_about_one_in_k_is_left_out(k):
    data = training_data(100, 200, n_vocab=1000)
    data = dataclasses.replace(data, document_id=np.zeros_like(data.document_id))
    n = data.predicted.sum()
    for settings in ({"variant": "hash"}, {"variant": "hash", "h": 1}, {"variant": "static"}):
        method = prepared(data, k=k, **settings)
        share = method.dropped(rows_batch(data.predicted)).sum().item() / n
        # Of 1,000 contexts of one token, the share of those picked is itself a draw.
        error = (1 / k * (1 - 1 / k) / (1000 if settings.get("h") == 1 else n)) ** 0.5
        assert share == pytest.approx(1 / k, abs=4 * error)
        assert method.ratio(0.0) == method.ratio(0.9) == pytest.approx(share)


def test_the_ratio_is_what_is_left_out_where_documents_are_short():
    data = training_data()  # documents of 17 tokens: 13 of them are never left out
    method = prepared(data)
    assert GoldfishLoss().ratio(0.0) == 0.25
    assert 0.0 < method.ratio(0.0) < 0.25 * 4 / 17 * 1.3


# What the method does with them.


def test_only_predicted_tokens_are_left_out_and_the_rest_has_weight_one():
    data = training_data()
    method = prepared(data, variant="static", k=3)
    batch = rows_batch(data.predicted, [7, 2, 2])
    expected = torch.from_numpy(data.predicted[[7, 2, 2]] & (np.arange(50) % 3 == 0))
    assert torch.equal(method.dropped(batch), expected)
    assert torch.equal(method.token_weight(batch), 1.0 - expected.float())
    fewer = dataclasses.replace(batch, predicted=batch.predicted & (batch.position < 20))
    assert torch.equal(method.dropped(fewer), expected & (torch.arange(50) < 20))


def test_the_mask_is_the_same_in_every_epoch_and_for_every_seed():
    data = training_data(n_vocab=5)
    first = prepared(data, h=2).dropped(rows_batch(data.predicted))
    again = prepared(training_data(n_vocab=5, seed=99), h=2)
    assert torch.equal(again.dropped(rows_batch(data.predicted, epoch=7, progress=0.9)), first) and first.any()


def test_a_token_is_known_by_where_it_stands_in_the_training_set():
    data = training_data()
    method = prepared(data, h=2)
    whole = rows_batch(data.predicted)
    order = torch.randperm(whole.predicted.numel(), generator=torch.Generator().manual_seed(0)).view(50, 60)
    moved = {name: getattr(whole, name).flatten()[order] for name in ("sequence_id", "position", "predicted")}
    shuffled = dataclasses.replace(whole, **moved)
    assert torch.equal(method.dropped(shuffled), method.dropped(whole).flatten()[order])


def test_the_loss_is_the_mean_over_the_tokens_kept():
    # Logits (0, ln 3) give token 1 the loss ln 4/3 and token 0 the loss ln 4. With k = 2, position 2 is left out
    # of 1, 2, 3: what stays is ln 4 and ln 4/3, and their mean is ln 4 - ln(3) / 2.
    data = training_data(1, 4)
    data = dataclasses.replace(data, predicted=np.array([[False, True, True, True]]))
    batch = rows_batch(data.predicted)
    z, y = torch.tensor([[0.0, np.log(3.0)]] * 3), torch.tensor([0, 0, 1])
    for normalize, n in (("kept", 2), ("all", 3)):
        method = prepared(data, variant="static", k=2, normalize=normalize)
        weight = method.token_weight(batch)[0, 1:]
        divisor = weight.sum().item() if method.normalizes_by_kept else batch.predicted.sum().item()
        assert divisor == n
        expected = (2 * np.log(4.0) - np.log(3.0)) / n
        assert weighted_loss(z, y, token_weight=weight).item() / divisor == pytest.approx(expected, rel=1e-6)
    assert GoldfishLoss().normalizes_by_kept


def test_it_touches_no_model_and_keeps_no_state():
    method = GoldfishLoss()
    assert tuple(method.attach(None)) == () and method.state() == {} and method.acts_on == ("token losses",)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"k": 1}, "k"),
        ({"k": 4.0}, "k"),
        ({"h": 0}, "h"),
        ({"variant": "random"}, "variant"),
        ({"variant": "static", "h": 5}, "h is only read with variant: hash"),
        ({"normalize": "mean"}, "normalize"),
        ({"ratio": 0.1}, "ratio"),
    ],
    ids=str,
)
def test_bad_settings(bad, word):
    with pytest.raises(InputError, match=f"^GoldfishLoss: {word}"):
        GoldfishLoss(**bad)
