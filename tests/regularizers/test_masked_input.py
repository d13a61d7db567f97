"""Masked-input regularisation: a worked example, which tokens are masked, and by which draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.batches import rows_batch, training_data
from support.models import build
from support.splitmix import uniform
from torch import nn

from dynamics.errors import InputError
from dynamics.ops.token_statistics import shift, weighted_loss
from dynamics.regularizers.base import Batch, Regularizer
from dynamics.regularizers.masked_input import MaskedInput, MaskedInputRegularization
from dynamics.training.loop.hiding import require_hidden
from dynamics.training.loop.methods import Methods

SHARE, MASKED = 5, 6  # the streams of its draws


def prepared(data, **settings):
    method = MaskedInputRegularization(**settings)
    method.prepare(data)
    return method


def masks(method, batch):
    return method.input.dropped(batch)


# A worked example. ------------------------------------------------------------------------------------


class Bigram(nn.Module):
    """Four tokens; after i comes i + 1 with probability 1/2, each other with 1/6; after nothing, each with 1/4."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 4)
        with torch.no_grad():
            self.table.weight.copy_(math.log(3.0) * torch.eye(4).roll(1, dims=1))

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids):
        return self.table(input_ids)


def test_the_loss_by_hand(monkeypatch):
    """Of the text 0 1 2 3 the clean losses are ln 2 each; with 1 masked, that of 2 is ln 4: 3 + 0.4 (1 + 2 + 1) = 4.6."""
    model, ids = Bigram(), torch.tensor([[0, 1, 2, 3]])
    labels = torch.tensor([[-100, 1, 2, 3]])
    batch = rows_batch(labels != -100)
    monkeypatch.setattr(MaskedInput, "dropped", lambda self, batch: torch.tensor([[False, True, False, False]]))
    method = MaskedInputRegularization()
    method.attach(model)
    methods = Methods([method])

    def one_pass():
        return weighted_loss(*shift(model(input_ids=ids), labels)) / 3

    with methods.armed(batch):
        clean = one_pass()
        auxiliary = methods.auxiliary_loss(batch, one_pass)
        again = one_pass()
    assert clean.item() == again.item() == pytest.approx(math.log(2), rel=1e-6)
    assert auxiliary.item() == pytest.approx(0.4 * 4 / 3 * math.log(2), rel=1e-6)
    assert (clean + auxiliary).item() == pytest.approx(4.6 / 3 * math.log(2), rel=1e-6)


def test_a_mask_token_learns_from_its_places_and_a_token_does_not(monkeypatch):
    """With 1 masked by 3, which predicts 0 with 1/2 and 2 with 1/6; dL/dz of row 3 is p - onehot(2), in 0.4 / 3."""
    ids, labels = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[-100, 1, 2, 3]])
    monkeypatch.setattr(MaskedInput, "dropped", lambda self, batch: torch.tensor([[False, True, False, False]]))
    expected = {"mask_token": [0.5, 1 / 6, 1 / 6 - 1, 1 / 6], "token": [0.0] * 4}
    for replacement, gradient in expected.items():
        model = Bigram()
        method = prepared(training_data(1, 4, n_vocab=4), replacement=replacement, replacement_token=3)
        method.attach(model)
        methods, batch = Methods([method]), rows_batch(labels != -100)
        with methods.armed(batch):
            loss = methods.auxiliary_loss(batch, lambda: weighted_loss(*shift(model(input_ids=ids), labels)) / 3)  # noqa: B023
        assert loss.item() == pytest.approx(0.4 / 3 * (math.log(2) * 2 + math.log(6)), rel=1e-6)
        loss.backward()
        assert model.table.weight.grad[3].tolist() == pytest.approx([0.4 / 3 * one for one in gradient], abs=1e-6)


def test_no_method_that_asks_is_no_pass():
    assert Methods([]).auxiliary_loss(rows_batch(torch.ones(1, 3, dtype=torch.bool)), None) is None
    assert Regularizer.auxiliary_weight == 0.0


# Which tokens, and by which draws. ---------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_masks_are_those_of_the_keys(ratio):
    data = training_data(9, 20, seed=11)
    method = prepared(data, max_ratio=ratio)
    batch = rows_batch(data.predicted, epoch=4)
    expected = [
        [
            bool(data.predicted[s, p]) and uniform(11, MASKED, 4, s, p) < ratio * uniform(11, SHARE, 4, s, 0)
            for p in range(20)
        ]
        for s in range(9)
    ]
    assert masks(method, batch).tolist() == expected and np.any(expected)


def test_each_sequence_has_a_share_of_its_own_in_each_epoch():
    data = training_data(400, 200)
    method = prepared(data)
    predicted = torch.from_numpy(data.predicted)
    seen = []
    for epoch in (1, 2):
        batch = rows_batch(data.predicted, epoch=epoch)
        share = method.input.share(batch)
        assert (share == share[:, :1]).all() and 0 <= share.min() and share.max() < 0.5
        # Uniform on [0, 0.5]: mean 1/4, standard deviation 1 / (2 sqrt 12) over 400 sequences.
        assert share[:, 0].mean().item() == pytest.approx(0.25, abs=4 * 0.1443 / 20)
        assert share[:, 0].std().item() == pytest.approx(0.1443, rel=0.1)
        found = masks(method, batch)
        assert not (found & ~predicted).any()
        of_row = found.sum(1) / predicted.sum(1)
        error = (share[:, 0] * (1 - share[:, 0]) / predicted.sum(1)).sqrt()
        assert ((of_row - share[:, 0]).abs() < 5 * error + 1e-9).all()
        seen.append(share[:, 0])
    assert np.corrcoef(*seen)[0, 1] == pytest.approx(0.0, abs=0.2)


def test_masks_do_not_depend_on_how_a_batch_is_split_or_packed():
    data = training_data()
    method = prepared(data)
    whole = masks(method, rows_batch(data.predicted))
    for rows in torch.randperm(60, generator=torch.Generator().manual_seed(0)).split(7):
        torch.rand(3)
        assert torch.equal(masks(method, rows_batch(data.predicted, rows)), whole[rows])
    sequence_id, position = torch.tensor([[3] * 20 + [5] * 30]), torch.tensor([[*range(20), *range(30)]])
    predicted = torch.from_numpy(data.predicted)[sequence_id, position]
    packed = Batch(sequence_id=sequence_id, position=position, predicted=predicted, epoch=1, progress=0.5)
    assert torch.equal(masks(method, packed)[0], torch.cat([whole[3, :20], whole[5, :30]]))


def test_shares_do_not_depend_on_how_far_training_is():
    data = training_data()
    method = prepared(data)
    early, late = (masks(method, rows_batch(data.predicted, progress=progress)) for progress in (0.0, 0.9))
    assert torch.equal(early, late) and early.any()


# Where it acts. -----------------------------------------------------------------------------------------


def test_the_first_pass_is_clean_and_evaluation_too():
    data = training_data(4, 20)
    model, ids = build().train(), torch.from_numpy(data.token_id).long()
    method = prepared(data)
    plain = model(input_ids=ids).logits
    handles = method.attach(model)
    batch = rows_batch(data.predicted)
    method.begin_batch(batch)
    assert torch.equal(model(input_ids=ids).logits, plain)
    method.begin_auxiliary(batch)
    masked = model(input_ids=ids).logits
    embedded = model.get_input_embeddings().weight[ids].masked_fill(masks(method, batch)[..., None], 0.0)
    method.end_auxiliary()
    assert torch.equal(model(input_ids=ids).logits, plain) and not torch.allclose(masked, plain)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(masked, model(inputs_embeds=embedded).logits)


def test_hooks_are_disarmed_whatever_happens():
    data = training_data(4, 20)
    method = prepared(data)
    method.attach(build())
    batch = rows_batch(data.predicted)

    def fails():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Methods([method]).auxiliary_loss(batch, fails)
    assert method.input._armed is None


def test_nothing_counts_as_dropped():
    data = training_data()
    method, batch = prepared(data), rows_batch(data.predicted)
    assert method.dropped(batch) is None and method.ratio(0.5) is None and method.token_weight(batch) is None
    assert not Methods([method]).drop and method.state() == {} and not method.normalizes_by_kept
    assert method.auxiliary_weight == 0.4 and MaskedInputRegularization(weight=2.0).auxiliary_weight == 2.0


def test_a_model_that_sees_masked_tokens_elsewhere_is_refused():
    class Sees(nn.Module):
        """Reads ids past its input embedding and what it is given."""

        def __init__(self):
            super().__init__()
            self.inner = build()
            self.config = self.inner.config
            self.other = nn.Parameter(self.inner.get_input_embeddings().weight.detach().clone())

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, input_ids=None, **kwargs):
            found = self.inner(input_ids=input_ids)
            found.logits = found.logits + self.other[input_ids].sum(-1, keepdim=True)
            return found

    model, method = Sees(), prepared(training_data())
    # The hook replaces the ids of the inner model alone.
    method.attach(model.inner)
    with pytest.raises(
        InputError, match="MaskedInputRegularization: the logits of Sees still depend .* remove the method"
    ):
        require_hidden(model, Methods([method]), dtype=torch.float32)
    whole = prepared(training_data())
    whole.attach(model)
    require_hidden(model, Methods([whole]), dtype=torch.float32)


@pytest.mark.parametrize(
    "bad",
    [
        {"weight": 0.0},
        {"weight": -0.4},
        {"max_ratio": 0.0},
        {"max_ratio": 1.5},
        {"ratio": 0.5},
        {"target": "loss"},
        {"replacement": "noise"},
        {"pool": 0.5},
    ],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match=f"^MaskedInputRegularization: {next(iter(bad))}"):
        MaskedInputRegularization(**bad)


@pytest.mark.parametrize(
    "bad", [{"replacement": "mask_token"}, {"replacement": "token"}, {"replacement_token": 3}], ids=str
)
def test_a_mask_token_is_named(bad):
    with pytest.raises(InputError, match="replacement_token .* belongs to replacement: token or mask_token"):
        MaskedInputRegularization(**bad)
