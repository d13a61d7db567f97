"""EntroDrop and its two controls: which tokens are dropped, how many, and what becomes of them."""

import numpy as np
import pytest
import torch
from support.batches import rows_batch, training_data
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.integrations.neftune import activate_neftune

from dynamics.errors import InputError
from dynamics.ops.keyed_random import STREAM_DROP, STREAM_REPLACEMENT, keyed_uniform
from dynamics.regularizers.base import Batch
from dynamics.regularizers.entrances import replace_embeddings
from dynamics.regularizers.entrodrop import EntroDrop
from dynamics.regularizers.inverse_entrodrop import InverseEntroDrop
from dynamics.regularizers.random_token_dropout import RandomTokenDropout
from dynamics.regularizers.schedules import ScheduleSettings, strength

METHODS = [EntroDrop, InverseEntroDrop, RandomTokenDropout]
SCHEDULES = ["constant", "linear", "cosine", "sigmoid", "step"]
SHAPE = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
    use_cache=False,
)


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {f"w{n}": n for n in range(64)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="w0")))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3ForCausalLM(Qwen3Config(**SHAPE)).train()


def whole_batch(data, epoch=1, progress=0.5, **values):
    return rows_batch(data.predicted, epoch=epoch, progress=progress, **values)


def prepared(cls, data, **settings):
    method = cls(**settings)
    method.prepare(data)
    return method


def over_epochs(method, data, n_epochs=30, progress=0.5):
    """How often each token is dropped."""
    return sum(method.dropped(whole_batch(data, epoch, progress)).int().numpy() for epoch in range(1, n_epochs + 1))


# Who is dropped.


@pytest.mark.parametrize("signal", ["entropy", "loss"])
@pytest.mark.parametrize("pool", [0.2, 0.5])
@pytest.mark.parametrize("cls", [EntroDrop, InverseEntroDrop])
def test_only_the_pool_is_dropped_and_all_of_it_in_time(cls, pool, signal):
    data = training_data()
    method = prepared(cls, data, ratio=pool / 2, pool=pool, signal=signal, schedule="constant")
    values = data.reference_entropy if signal == "entropy" else data.reference_loss
    in_order = np.sort(values[data.predicted])
    size = round(pool * data.predicted.sum())
    counts = over_epochs(method, data)
    if cls is EntroDrop:
        expected = data.predicted & (values <= in_order[size - 1])
    else:
        expected = data.predicted & (values >= in_order[-size])
    assert np.array_equal(counts > 0, expected)  # each with probability 1/2, over 30 epochs


def test_inverse_takes_the_highest_where_entrodrop_takes_the_lowest():
    data = training_data()
    drops = [prepared(cls, data, ratio=0.5, schedule="constant") for cls in (EntroDrop, InverseEntroDrop)]
    low, high = (method.dropped(whole_batch(data)).numpy() for method in drops)  # ratio = pool: the whole pool
    assert data.reference_entropy[low].max() < data.reference_entropy[high].min()
    assert np.array_equal(low | high, data.predicted)


def test_random_drops_any_predicted_token():
    data = training_data()
    counts = over_epochs(prepared(RandomTokenDropout, data, ratio=0.5, schedule="constant"), data)
    assert np.array_equal(counts > 0, data.predicted)


@pytest.mark.parametrize("cls", METHODS)
def test_unpredicted_tokens_are_never_dropped(cls):
    data = training_data()
    pool = {} if cls is RandomTokenDropout else {"pool": 1.0}
    method = prepared(cls, data, ratio=1.0, schedule="constant", **pool)
    assert np.array_equal(method.dropped(whole_batch(data)).numpy(), data.predicted)
    fewer = whole_batch(data).predicted.clone()
    fewer[:, 10:20] = False  # the batch, too, may say that a token has no prediction
    batch = rows_batch(fewer)
    assert torch.equal(method.dropped(batch), fewer)


# Readings: whose signal, and ranked within what.


def by_hand(values, predicted, share, group):
    """The lowest share of each group, with sorted lists."""
    chosen = np.zeros(predicted.shape, dtype=bool)
    for one in np.unique(group[predicted]):
        where = [tuple(at) for at in np.argwhere(predicted & (group == one))]
        for at in sorted(where, key=lambda at: (values[at], at))[: round(share * len(where))]:
            chosen[at] = True
    return chosen


def groups(data, ranks):
    rows = np.broadcast_to(np.arange(len(data.predicted))[:, None], data.predicted.shape)
    return {"dataset": np.zeros_like(data.document_id), "sequence": rows, "document": data.document_id}[ranks]


def everything_dropped(method, batch):
    """With ratio = pool at full strength, the mask is the pool."""
    assert method.ratio(0.5) == method.pool
    return method.dropped(batch).numpy()


@pytest.mark.parametrize("ranks", ["dataset", "sequence", "document"])
@pytest.mark.parametrize("cls", [EntroDrop, InverseEntroDrop])
def test_ranks_decide_among_which_tokens_the_pool_is_the_lowest_share(cls, ranks):
    data = training_data()
    method = prepared(cls, data, ratio=0.4, pool=0.4, schedule="constant", ranks=ranks)
    values = data.reference_entropy if cls is EntroDrop else -data.reference_entropy
    expected = by_hand(values, data.predicted, 0.4, groups(data, ranks))
    assert np.array_equal(everything_dropped(method, whole_batch(data)), expected)


@pytest.mark.parametrize("ranks", ["dataset", "sequence", "document"])
@pytest.mark.parametrize("signal", ["entropy", "loss"])
def test_previous_epoch_ranks_what_was_recorded_last(signal, ranks):
    data = training_data()
    settings = {"ratio": 0.3, "pool": 0.3, "schedule": "constant", "signal": signal, "ranks": ranks}
    method = prepared(EntroDrop, data, source="previous_epoch", **settings)
    assert method.needs_epoch_values and not method.needs_current_values
    rng = np.random.default_rng(1)
    for epoch in (0, 1):
        loss, entropy = rng.random((2, *data.predicted.shape)).astype(np.float32)
        method.end_epoch(epoch, loss, entropy)
        values = entropy if signal == "entropy" else loss
        expected = by_hand(values, data.predicted, 0.3, groups(data, ranks))
        assert np.array_equal(everything_dropped(method, whole_batch(data, epoch + 1)), expected)


@pytest.mark.parametrize("ranks", ["sequence", "document"])
@pytest.mark.parametrize("signal", ["entropy", "loss"])
def test_current_ranks_the_values_of_the_step_itself(signal, ranks):
    data = training_data()
    settings = {"ratio": 0.4, "pool": 0.4, "schedule": "constant", "signal": signal, "ranks": ranks}
    method = prepared(EntroDrop, data, source="current", **settings)
    assert method.needs_current_values and not method.needs_epoch_values
    loss, entropy = np.random.default_rng(1).random((2, *data.predicted.shape)).astype(np.float32)
    values = {"loss": torch.from_numpy(loss), "entropy": torch.from_numpy(entropy)}
    batch = whole_batch(data, **values)
    # A document that goes on in the next sequence is ranked in parts.
    rows = groups(data, "sequence")
    group = rows if ranks == "sequence" else rows * 10_000 + data.document_id
    expected = by_hand(entropy if signal == "entropy" else loss, data.predicted, 0.4, group)
    whole = everything_dropped(method, batch)
    assert np.array_equal(whole, expected)
    for rows in torch.arange(60).split(7):
        part = rows_batch(data.predicted, rows, **values)
        assert np.array_equal(method.dropped(part).numpy(), whole[rows])


def test_current_over_the_training_set_takes_the_edge_of_the_last_epoch():
    data = training_data()
    settings = {"ratio": 0.5, "pool": 0.5, "schedule": "constant", "source": "current"}
    method = prepared(EntroDrop, data, **settings)
    assert method.needs_current_values and method.needs_epoch_values
    recorded = np.random.default_rng(1).random(data.predicted.shape).astype(np.float32) + 3.0
    recorded[:10] = np.nan  # sequences that are not recorded have no part in the edge
    method.end_epoch(1, recorded, recorded)
    known = np.sort(recorded[data.predicted & ~np.isnan(recorded)])
    edge = known[round(0.5 * len(known)) - 1]
    now = np.random.default_rng(2).random(data.predicted.shape).astype(np.float32) + 3.0
    values = {"loss": torch.from_numpy(now), "entropy": torch.from_numpy(now)}
    got = everything_dropped(method, whole_batch(data, epoch=2, **values))
    assert np.array_equal(got, data.predicted & (now <= edge))
    assert 0.4 < got.sum() / data.predicted.sum() < 0.6


def test_reference_needs_nothing_from_training():
    method = prepared(EntroDrop, training_data())
    assert not method.needs_epoch_values and not method.needs_current_values


def test_a_row_may_hold_several_sequences():
    # Sequences 3 and 5, cut to 20 and 30 tokens, in one row: each token keeps the mask of its own place.
    data = training_data()
    method = prepared(EntroDrop, data, ratio=0.3, schedule="constant")
    whole = method.dropped(whole_batch(data))
    sequence_id = torch.tensor([[3] * 20 + [5] * 30])
    position = torch.tensor([[*range(20), *range(30)]])
    predicted = torch.from_numpy(data.predicted)[sequence_id, position]
    batch = Batch(sequence_id=sequence_id, position=position, predicted=predicted, epoch=1, progress=0.5)
    assert torch.equal(method.dropped(batch)[0], torch.cat([whole[3, :20], whole[5, :30]]))


# How many.


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("cls", METHODS)
def test_share_follows_the_schedule(cls, name):
    data = training_data(200, 100)
    n = int(data.predicted.sum())
    ratio, n_steps = 0.2, 20
    method = prepared(cls, data, ratio=ratio, schedule=name)
    pool = n if cls is RandomTokenDropout else round(0.5 * n)
    total = expected = variance = 0.0
    for step in range(n_steps):
        progress = step / n_steps
        share = ratio * strength(ScheduleSettings(name=name), progress)
        assert method.ratio(progress) == pytest.approx(share)
        dropped = int(method.dropped(whole_batch(data, step + 1, progress)).sum())
        q = share * n / pool
        error = (pool * q * (1 - q)) ** 0.5
        assert abs(dropped - n * share) <= 5 * error + 1e-9  # each of 300 checks
        total, expected, variance = total + dropped, expected + n * share, variance + error**2
    assert expected > 0 and abs(total - expected) <= 3 * variance**0.5


@pytest.mark.parametrize("cls", METHODS)
def test_nothing_is_dropped_where_the_schedule_is_at_zero(cls):
    data = training_data()
    assert not prepared(cls, data).dropped(whole_batch(data, progress=0.0)).any()


def test_more_strength_only_adds_to_the_mask():
    data = training_data()
    method = prepared(EntroDrop, data, ratio=0.4)
    masks = [method.dropped(whole_batch(data, progress=p)) for p in (0.2, 0.5, 0.9)]
    assert (masks[0] <= masks[1]).all() and (masks[1] <= masks[2]).all()
    assert masks[0].sum() < masks[1].sum() < masks[2].sum()


# By which draws.


@pytest.mark.parametrize("cls", METHODS)
def test_masks_do_not_depend_on_how_a_batch_is_split(cls):
    data = training_data()
    method = prepared(cls, data, ratio=0.3, schedule="constant")
    whole = method.dropped(whole_batch(data))
    assert 0 < whole.sum() < whole.numel()
    order = torch.from_numpy(np.random.default_rng(1).permutation(60))
    torch.manual_seed(123)
    for size in (1, 7, 60):
        for ids in order.split(size):
            batch = rows_batch(data.predicted, ids)
            torch.rand(3)
            assert torch.equal(method.dropped(batch), whole[ids])


@pytest.mark.parametrize("cls", METHODS)
def test_masks_are_those_of_the_keys(cls):
    data = training_data(seed=11)
    method = prepared(cls, data, ratio=0.25, schedule="constant")
    batch = whole_batch(data, epoch=4)
    keys = {"sequence_id": batch.sequence_id, "position": batch.position}
    draw = keyed_uniform(seed=11, stream=STREAM_DROP, epoch=4, **keys).numpy()
    low = draw < (0.25 if cls is RandomTokenDropout else 0.5)
    expected = (method.probability(batch) > 0).numpy() & data.predicted & low
    assert np.array_equal(method.dropped(batch).numpy(), expected)


def test_epochs_and_seeds_have_masks_of_their_own():
    data = training_data()
    first = prepared(RandomTokenDropout, data, ratio=0.5, schedule="constant")
    again = prepared(RandomTokenDropout, data, ratio=0.5, schedule="constant")
    other = prepared(RandomTokenDropout, training_data(seed=6), ratio=0.5, schedule="constant")
    mask = first.dropped(whole_batch(data))
    assert torch.equal(mask, again.dropped(whole_batch(data)))
    predicted = torch.from_numpy(data.predicted)
    for unlike in (first.dropped(whole_batch(data, epoch=2)), other.dropped(whole_batch(data))):
        assert (mask == unlike)[predicted].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_prepare_comes_first():
    with pytest.raises(AssertionError, match="prepare"):
        EntroDrop().dropped(whole_batch(training_data()))


# What becomes of a dropped token.


def test_replace_embeddings_by_hand():
    embedding = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    mask = torch.tensor([[False, True], [True, False]])
    before = embedding.clone()
    assert replace_embeddings(embedding, mask, 0.0).tolist() == [[[1, 2], [0, 0]], [[0, 0], [7, 8]]]
    row = torch.tensor([-1.0, -2.0])
    assert replace_embeddings(embedding, mask, row).tolist() == [[[1, 2], [-1, -2]], [[-1, -2], [7, 8]]]
    each = -embedding
    assert replace_embeddings(embedding, mask, each).tolist() == [[[1, 2], [-3, -4]], [[-5, -6], [7, 8]]]
    assert torch.equal(embedding, before)
    half = replace_embeddings(embedding.bfloat16(), mask, row)
    assert half.dtype == torch.bfloat16 and half[0, 1].tolist() == [-1.0, -2.0]


REPLACEMENTS = [
    {"replacement": "zero"},
    {"replacement": "mean"},
    {"replacement": "token", "replacement_token": 7},
    {"replacement": "token", "replacement_token": "w7"},
    {"replacement": "random"},
]


def expected_rows(replacement, weight, data, batch):
    shape = (*batch.predicted.shape, weight.shape[1])
    match replacement:
        case "zero":
            return torch.zeros(shape)
        case "mean":
            return weight.mean(0).expand(shape)
        case "token":
            return weight[7].expand(shape)
        case "random":
            draw = keyed_uniform(
                seed=data.seed,
                stream=STREAM_REPLACEMENT,
                epoch=batch.epoch,
                sequence_id=batch.sequence_id,
                position=batch.position,
            )
            return weight[(draw * len(weight)).long()]


@pytest.mark.parametrize("settings", REPLACEMENTS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("target", ["input", "both"])
def test_replacements_act_on_embeddings(model, tokenizer, settings, target):
    data = training_data(4, 20, tokenizer=tokenizer)
    method = prepared(EntroDrop, data, ratio=0.3, schedule="constant", target=target, **settings)
    batch = whole_batch(data)
    mask = method.dropped(batch)
    assert 0 < mask.sum() < mask.numel()
    ids = torch.randint(64, (4, 20), generator=torch.Generator().manual_seed(0))
    embedding = model.get_input_embeddings()
    weight = embedding.weight.detach().clone()
    rows = expected_rows(settings["replacement"], weight, data, batch)
    by_hand = torch.where(mask[..., None], rows, weight[ids])
    plain = model(input_ids=ids).logits
    expected = model(inputs_embeds=by_hand).logits

    handles = method.attach(model)
    assert len(handles) == 2  # the ids that the model is given, and its one table
    torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=0, atol=0)  # not armed
    method.begin_batch(batch)
    torch.testing.assert_close(embedding(ids), by_hand)
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
    assert not torch.allclose(expected, plain)
    method.end_batch()
    torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=0, atol=0)
    method.begin_batch(batch)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=0, atol=0)
    assert torch.equal(embedding.weight, weight)


@pytest.mark.parametrize("settings", REPLACEMENTS[:3], ids=lambda s: s["replacement"])
def test_dropped_tokens_get_no_gradient(model, tokenizer, settings):
    data = training_data(4, 20, tokenizer=tokenizer)
    method = prepared(EntroDrop, data, ratio=0.3, schedule="constant", **settings)
    batch = whole_batch(data)
    mask = method.dropped(batch)
    embedding = model.get_input_embeddings()
    ids = torch.where(mask, 50, 3)  # 50 stands at dropped tokens, 3 at all others
    method.attach(model)
    method.begin_batch(batch)
    embedding(ids).sum().backward()
    used = embedding.weight.grad.abs().sum(1) > 0
    assert used.nonzero()[:, 0].tolist() == [3]


def test_random_replacements_are_uniform_over_the_vocabulary_and_change_with_the_epoch(model):
    data = training_data(200, 100)
    method = prepared(RandomTokenDropout, data, ratio=1.0, schedule="constant", replacement="random")
    method.attach(model)
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        embedding.weight.copy_(torch.arange(64.0)[:, None].expand(64, 32))
    drawn = []
    for epoch in (1, 2):
        method.begin_batch(whole_batch(data, epoch))
        drawn.append(embedding(torch.zeros(200, 100, dtype=torch.int64))[..., 0][torch.from_numpy(data.predicted)])
    counts = torch.bincount(drawn[0].long(), minlength=64)
    mean = len(drawn[0]) / 64
    assert len(counts) == 64 and 20 < ((counts - mean) ** 2 / mean).sum() < 120  # 63 degrees of freedom
    assert (drawn[0] == drawn[1]).float().mean() < 0.05


@pytest.mark.parametrize("settings", REPLACEMENTS[:2] + REPLACEMENTS[3:], ids=lambda s: s["replacement"])
def test_replacements_carry_no_noise_of_neftune(model, tokenizer, settings):
    data = training_data(4, 20, tokenizer=tokenizer)
    method = prepared(EntroDrop, data, ratio=0.3, schedule="constant", **settings)
    batch = whole_batch(data)
    mask = method.dropped(batch)
    embedding = model.get_input_embeddings()
    activate_neftune(model, 5.0)
    method.attach(model)
    method.begin_batch(batch)
    ids = torch.zeros(4, 20, dtype=torch.int64)
    torch.manual_seed(0)
    got = embedding(ids)
    rows = expected_rows(settings["replacement"], embedding.weight.detach(), data, batch)
    torch.testing.assert_close(got[mask], rows[mask])
    assert (got != embedding.weight[0])[~mask].any(-1).all()


@pytest.mark.parametrize("settings", REPLACEMENTS[1:3], ids=lambda s: s["replacement"])
def test_replacements_have_the_scale_of_scaled_embeddings(tokenizer, settings):
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, pad_token_id=0))
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        embedding.weight.normal_()
        every = embedding(torch.arange(64))
    torch.testing.assert_close(every, embedding.weight * 32**0.5)
    data = training_data(4, 20, tokenizer=tokenizer)
    method = prepared(EntroDrop, data, ratio=0.3, schedule="constant", **settings)
    method.attach(model)
    method.begin_batch(whole_batch(data))
    mask = method.dropped(whole_batch(data))
    got = embedding(torch.zeros(4, 20, dtype=torch.int64))[mask]
    row = every.mean(0) if settings["replacement"] == "mean" else every[7]
    torch.testing.assert_close(got, row.expand_as(got))


def test_loss_target_leaves_the_model_alone_and_weighs_tokens(model):
    data = training_data()
    method = prepared(EntroDrop, data, ratio=0.3, schedule="constant", target="loss")
    assert tuple(method.attach(model)) == () and not model.get_input_embeddings()._forward_hooks
    batch = whole_batch(data)
    assert torch.equal(method.token_weight(batch), 1.0 - method.dropped(batch).float())


def test_targets_decide_about_weights_and_hooks(model):
    data = training_data()
    drop = {"ratio": 0.3, "schedule": "constant"}
    assert prepared(EntroDrop, data, **drop).token_weight(whole_batch(data)) is None
    both = prepared(EntroDrop, data, target="both", **drop)
    assert torch.equal(both.token_weight(whole_batch(data)) == 0, both.dropped(whole_batch(data)))
    assert not both.normalizes_by_kept
    assert prepared(EntroDrop, data, target="loss", normalize="kept").normalizes_by_kept
    names = list(model.state_dict())
    both.attach(model)
    assert list(model.state_dict()) == names


def test_model_without_input_embeddings():
    class Bare(nn.Module):
        def get_input_embeddings(self):
            return None

    for model in (Bare(), nn.Linear(2, 2)):
        with pytest.raises(
            InputError, match=r"does not say what its input embeddings are; .* attach\(model, embedding\)"
        ):
            EntroDrop().attach(model)
        assert tuple(EntroDrop(target="loss").attach(model)) == ()


# What is refused.


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": 1.1}, "ratio"),
        ({"ratio": "0.1"}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"rato": 0.1}, "rato"),
        ({"schedule": "cubic"}, "schedule"),
        ({"schedule": {"name": "step", "at": 2.0}}, "schedule.at"),
        ({"target": "output"}, "target"),
        ({"replacement": "noise"}, "replacement"),
        ({"replacement": "token"}, "replacement_token"),
        ({"replacement": "token", "replacement_token": True}, "replacement_token"),
        ({"replacement_token": 3}, "replacement_token"),
        ({"target": "loss", "replacement": "mean"}, "replacement"),
        ({"normalize": "kept"}, "normalize"),
        ({"source": "next_epoch"}, "source"),
        ({"ranks": "epoch"}, "ranks"),
    ],
    ids=str,
)
def test_bad_settings(cls, bad, word):
    with pytest.raises(InputError, match=word) as error:
        cls(**bad)
    assert str(error.value).startswith(cls.__name__)


@pytest.mark.parametrize("cls", [EntroDrop, InverseEntroDrop])
def test_bad_pools(cls):
    with pytest.raises(InputError, match="ratio 0.3 is above its pool 0.2"):
        cls(ratio=0.3, pool=0.2)
    for bad in ({"pool": 0.0}, {"pool": 1.5}, {"signal": "margin"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            cls(**bad)
    with pytest.raises(InputError, match="pool"):
        RandomTokenDropout(pool=0.5)
    assert cls(ratio=0.2, pool=0.2).pool == 0.2 and RandomTokenDropout().pool == 1.0


@pytest.mark.parametrize("token", [64, -1, "nope"])
def test_replacement_tokens_outside_the_vocabulary(tokenizer, token):
    method = EntroDrop(replacement="token", replacement_token=token)
    with pytest.raises(InputError, match="replacement_token: .*vocabulary of 64"):
        method.prepare(training_data(tokenizer=tokenizer))
