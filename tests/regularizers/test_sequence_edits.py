"""Tokens that are deleted from the sequence, or to which no other attends: what the model computes, and what refuses."""

import pytest
import torch
from support.batches import rows_batch, training_data
from support.models import FAMILIES, Padder, build, examples
from torch import nn
from transformers import DataCollatorWithFlattening

from dynamics.errors import InputError
from dynamics.regularizers.entrodrop import EntroDrop
from dynamics.regularizers.random_token_dropout import RandomTokenDropout
from dynamics.regularizers.sequence_edits import closed_positions, order_without
from dynamics.training.driving.batch_loss import current_values
from dynamics.training.head.fused_head import HeadRequest, fused_head
from dynamics.training.loop.hiding import require_hidden
from dynamics.training.loop.methods import Methods

DELETED = {"target": "both", "replacement": "deleted", "schedule": "constant"}
UNATTENDED = {"replacement": "unattended", "schedule": "constant"}
IDS = torch.randint(3, 64, (3, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(3, 12, dtype=torch.bool)
MASK[0, [2, 3, 7]] = MASK[1, [1, 11]] = True


def on(model, **settings):
    method = RandomTokenDropout(ratio=0.3, **settings)
    method.attach(model)
    return method


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs).logits


def test_order_by_hand():
    mask = torch.tensor([[False, True, False, True, False], [False, False, False, False, False]])
    order, source = order_without(mask)
    assert order.tolist() == [[0, 2, 4, 1, 3], [0, 1, 2, 3, 4]]
    assert source.tolist() == [[0, 0, 1, 1, 2], [0, 1, 2, 3, 4]]


def test_positions_close_up_within_each_sequence():
    position = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])
    mask = torch.tensor([[False, True, False, False, False, True, False, False, False]])
    closed = closed_positions(position, mask)
    assert closed[~mask].tolist() == [0, 1, 2, 0, 1, 0, 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_deleted_token_leaves_what_the_shorter_text_gives(name):
    model = build(name).eval()
    shorter = [logits(model, input_ids=ids[~mask][None])[0] for ids, mask in zip(IDS, MASK, strict=True)]
    plain = logits(model, input_ids=IDS)
    method = on(model, **DELETED)
    with method.armed_with(MASK):
        found = logits(model, input_ids=IDS)
        again = logits(model, IDS)  # the ids by their place
    assert torch.equal(found, again)
    for row in range(3):
        torch.testing.assert_close(found[row][~MASK[row]], shorter[row], rtol=1e-4, atol=1e-4)
        # At the column of a deleted token stands what the one before it predicts.
        for column in MASK[row].nonzero()[:, 0].tolist():
            assert torch.equal(found[row, column], found[row, column - 1])
    assert torch.equal(logits(model, input_ids=IDS), plain)


def test_deletion_from_padded_and_from_packed_rows():
    model = build("llama").eval()
    rows = examples(3, seed=2)
    texts = [torch.tensor(row["input_ids"]) for row in rows]
    gone = [torch.zeros(len(text), dtype=torch.bool) for text in texts]
    for at, mask in enumerate(gone):
        mask[[2, 3 + at % 2]] = True
    shorter = [logits(model, input_ids=text[~mask][None])[0] for text, mask in zip(texts, gone, strict=True)]
    method = on(model, **DELETED)
    for side in ("right", "left"):
        batch = Padder(side)(rows)
        real = batch["attention_mask"].bool()
        mask = torch.zeros_like(real)
        mask[real] = torch.cat(gone)
        with method.armed_with(mask):
            found = logits(model, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        for row in range(3):
            torch.testing.assert_close(found[row][real[row] & ~mask[row]], shorter[row], rtol=1e-3, atol=1e-4)
    packed = DataCollatorWithFlattening()(rows)
    mask = torch.cat(gone)[None]
    with method.armed_with(mask):
        found = logits(model, input_ids=packed["input_ids"], position_ids=packed["position_ids"])
    torch.testing.assert_close(found[0][~mask[0]], torch.cat(shorter), rtol=1e-3, atol=1e-4)


def test_losses_straight_from_hidden_states_are_those_of_the_shorter_text():
    model = build().eval()
    labels = IDS.clone()
    labels[:, 0] = -100
    logp = [
        logits(model, input_ids=ids[~mask][None])[0].double().log_softmax(-1)
        for ids, mask in zip(IDS, MASK, strict=True)
    ]
    method = on(model, **DELETED)
    with fused_head(model) as fused, method.armed_with(MASK), torch.no_grad():
        assert fused
        found = model(input_ids=IDS, head_request=HeadRequest(labels=labels)).token_loss
    for row in range(3):
        kept = IDS[row][~MASK[row]]
        expected = -logp[row][:-1].gather(1, kept[1:, None])[:, 0]
        torch.testing.assert_close(found[row][~MASK[row]][1:].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_other_token_attends_to_an_unattended_one(name):
    """With the tokens left in place, what stands there changes no other column; without, it changes none."""
    model = build(name).eval()
    method = on(model, **UNATTENDED)
    other = torch.where(MASK, 63 - IDS, IDS)
    with method.armed_with(MASK, bare=True):
        one, two = logits(model, input_ids=IDS), logits(model, input_ids=other)
    assert torch.equal(one[~MASK], two[~MASK]) and not torch.equal(one[MASK], two[MASK])
    with method.armed_with(MASK):
        first, second = logits(model, input_ids=IDS), logits(model, input_ids=other)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


def test_attention_by_hand():
    """One head of which every query and key is alike: the mean of the values of the tokens that are seen."""
    model = build("llama", num_hidden_layers=1).eval()
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.self_attn.q_proj.weight.zero_()
    seen = []
    layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    values = []
    layer.self_attn.v_proj.register_forward_hook(lambda module, args, output: values.append(output))
    method = on(model, **UNATTENDED)
    with method.armed_with(MASK):
        logits(model, input_ids=IDS, attention_mask=torch.ones_like(IDS))
    for row in range(3):
        for column in range(12):
            attended = [at for at in range(column + 1) if not MASK[row, at]]
            torch.testing.assert_close(seen[0][row, column], values[0][row, attended].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [DELETED, UNATTENDED], ids=lambda one: one["replacement"])
@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma3"])
def test_the_probe_approves_what_is_hidden(name, settings):
    model = build(name)
    methods = Methods([RandomTokenDropout(ratio=0.3, **settings)])
    methods.attach(model)
    require_hidden(model, methods, dtype=torch.float32)


class Looking(nn.Module):
    """Sums up what came before each token, whatever the attention mask says; or what comes after it too."""

    def __init__(self, *, ahead=False):
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.ahead = ahead
        self.decoder = Sums(self.embed, ahead)

    def get_input_embeddings(self):
        return self.embed

    def get_decoder(self):
        return self.decoder

    def forward(self, input_ids, attention_mask=None):
        hidden = self.decoder(input_ids)[0]
        return (hidden @ self.embed.weight.T,)


class Sums(nn.Module):
    def __init__(self, embed, ahead):
        super().__init__()
        self.embed, self.ahead = embed, ahead

    def forward(self, input_ids):
        hidden = self.embed(input_ids)
        return (hidden.sum(1, keepdim=True) + hidden if self.ahead else hidden.cumsum(1),)


def test_the_probe_refuses_a_model_that_does_not_heed_the_mask_or_looks_ahead():
    def tried(model, settings):
        methods = Methods([RandomTokenDropout(ratio=0.3, **settings)])
        methods.attach(model)
        require_hidden(model, methods, dtype=torch.float32)

    with pytest.raises(InputError, match="logits of Looking still depend on tokens that are dropped"):
        tried(Looking(), UNATTENDED)
    tried(Looking(), DELETED)
    with pytest.raises(InputError, match="logits of Looking still depend on tokens that are dropped"):
        tried(Looking(ahead=True), DELETED)


# What is refused.


def test_what_a_batch_or_a_model_leaves_no_place_for():
    model = build("llama").eval()
    method = on(model, **DELETED)
    with method.armed_with(MASK):
        with pytest.raises(InputError, match="deleted cannot take tokens out of attention_mask"):
            logits(model, input_ids=IDS, attention_mask=torch.zeros(3, 1, 12, 12))
        with pytest.raises(InputError, match="deleted cannot take tokens out of cu_seq_lens_q"):
            logits(model, input_ids=IDS, cu_seq_lens_q=torch.tensor([0, 12]))
        with pytest.raises(InputError, match="deleted finds no token ids"):
            logits(model, inputs_embeds=torch.zeros(3, 12, 32))
    model = build("llama").eval()
    method = on(model, **UNATTENDED)
    with method.armed_with(MASK):
        with pytest.raises(InputError, match="has position_ids and none, as packed rows have"):
            logits(model, input_ids=IDS, position_ids=torch.arange(12)[None])
        with pytest.raises(InputError, match=r"has one of shape \(3, 1, 12, 12\)"):
            logits(model, input_ids=IDS, attention_mask=torch.zeros(3, 1, 12, 12))
    model = build("mistral", sliding_window=8).eval()
    with (
        on(model, **UNATTENDED).armed_with(MASK),
        pytest.raises(InputError, match="has sliding_window 8 for 12 tokens"),
    ):
        logits(model, input_ids=IDS)
    with pytest.raises(InputError, match="Embedding takes none"):
        RandomTokenDropout(**UNATTENDED).attach(nn.Embedding(9, 3), nn.Embedding(9, 3))
    with pytest.raises(InputError, match="has no get_decoder"):
        RandomTokenDropout(**DELETED).attach(nn.Embedding(9, 3), nn.Embedding(9, 3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"replacement": "deleted"}, "replacement: deleted .* use target: both"),
        ({"replacement": "deleted", "target": "loss"}, "replacement is only read with target: input or both"),
        ({"replacement": "unattended", "rescale": "token"}, "rescale: token .* replacement: zero"),
    ],
    ids=str,
)
def test_contradictions(bad, message):
    with pytest.raises(InputError, match=message):
        EntroDrop(**bad)


def test_a_method_at_rest_changes_nothing():
    data = training_data(3, 12)
    model = build().eval()
    plain = logits(model, input_ids=IDS)
    for settings in (DELETED, UNATTENDED):
        method = on(model, **settings)
        method.prepare(data)
        batch = rows_batch(data.predicted)
        assert method.dropped(batch).any()
        assert torch.equal(logits(model, input_ids=IDS), plain)
        current_values(model, {"input_ids": IDS}, dtype=torch.float32, fused=False)
        method.begin_batch(batch)
        assert not torch.equal(logits(model, input_ids=IDS), plain)
        method.end_batch()
        assert torch.equal(logits(model, input_ids=IDS), plain)
