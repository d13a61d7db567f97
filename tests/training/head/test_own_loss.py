"""What a model's own loss holds beside the cross-entropy of its tokens."""

from __future__ import annotations

import pytest
import torch
from support.models import N_VOCAB, build
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BartConfig, BartForCausalLM, MixtralConfig, MixtralForCausalLM

from dynamics.training.head.own_loss import OwnLoss, own_loss

IDS = torch.randint(3, N_VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
LABELS = IDS.clone()
LABELS[:, 0] = LABELS[0, 4:] = LABELS[1, 2:] = -100
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": LABELS, "sequence_id": torch.arange(3)}


def mixture(**changes):
    shape = {"vocab_size": N_VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**shape, **heads, **changes))


def test_a_plain_models_loss_is_the_cross_entropy_of_the_fullest_row():
    model = build().train()
    found = own_loss(model, BATCH)
    with torch.no_grad():
        logits = model.eval()(input_ids=IDS[2:]).logits.double()
    assert found.cross_entropy == pytest.approx(float(cross_entropy(logits[0, :-1], IDS[2, 1:])), rel=1e-6)
    assert found.own == pytest.approx(found.cross_entropy, rel=1e-6) and found.is_cross_entropy
    in_bf16 = own_loss(model, BATCH, dtype=torch.bfloat16)
    assert in_bf16.is_cross_entropy and in_bf16.own != found.own


def test_a_routers_loss_is_seen():
    model = mixture(output_router_logits=True, router_aux_loss_coef=0.01)
    found = own_loss(model, BATCH)
    with torch.no_grad():
        aux = model.eval()(input_ids=IDS[2:], attention_mask=torch.ones_like(IDS[2:]), labels=LABELS[2:]).aux_loss
    assert found.excess == pytest.approx(0.01 * float(aux), rel=1e-3) and not found.is_cross_entropy
    assert own_loss(mixture(), BATCH).is_cross_entropy


class OnlyInTraining(type(build())):
    """A model that adds to its loss in training alone."""

    def forward(self, *args, **kwargs):
        assert not self.model.training, "what drops is in evaluation mode"
        out = super().forward(*args, **kwargs)
        if self.training:
            out.loss = out.loss + 0.01
        return out


@pytest.mark.parametrize("training", [True, False])
def test_what_is_added_in_training_alone_is_seen_and_modes_are_as_before(training):
    model = build().train(training)
    model.model.layers[0].eval()
    model.__class__ = OnlyInTraining
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    assert own_loss(model, BATCH).excess == pytest.approx(0.01, rel=1e-3)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


def test_labels_that_are_shifted_already_are_no_loss_of_its_own():
    shape = {"vocab_size": N_VOCAB, "d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2}
    model = BartForCausalLM(BartConfig(**shape, decoder_ffn_dim=48, encoder_layers=1, encoder_ffn_dim=48))
    assert own_loss(model, BATCH).is_cross_entropy


def test_nothing_to_compare():
    assert own_loss(build(), {**BATCH, "labels": torch.full_like(IDS, -100)}) is None
    assert OwnLoss(own=1.0, cross_entropy=1.5).excess == -0.5


def test_a_model_that_has_diverged_adds_nothing():
    for diverged in (float("nan"), float("inf")):
        assert OwnLoss(own=diverged, cross_entropy=diverged).is_cross_entropy
        assert not OwnLoss(own=diverged, cross_entropy=2.0).is_cross_entropy
        assert not OwnLoss(own=2.0, cross_entropy=diverged).is_cross_entropy


class Float64(TorchDispatchMode):
    """The largest tensor of float64 that was made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            self.largest = max(self.largest, found.numel())
        return found


def test_logits_are_not_held_in_float64():
    """Of a row of 8,192 tokens and 151,936 entries they would be 10 GB, twice, before training has begun."""
    with Float64() as seen:
        assert own_loss(build(), BATCH).is_cross_entropy
    assert seen.largest <= IDS.shape[1] < N_VOCAB
