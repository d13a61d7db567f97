"""Attention dropout: the rate that attention modules read, in training only, and given back."""

import pytest
import torch
from support.models import FAMILIES, build
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig

from dynamics.errors import InputError
from dynamics.regularizers.attention_dropout import AttentionDropout, dropout_places

RATE = 0.25
NAMES = [*FAMILIES, "gpt2 with its own"]
IDS = torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(0))


def any_model(name):
    return (build("gpt2", attn_pdrop=0.2) if name == NAMES[-1] else build(name)).train()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def rates(model):
    found = [getattr(module, name) for module, name in dropout_places(model.get_decoder())]
    return [rate.p if isinstance(rate, torch.nn.Dropout) else rate for rate in found]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_head_that_sees_one_token_gives_nothing_or_its_value_scaled(implementation):
    # At position 0 there is one probability, 1. Zeroed or divided by 3/4, it leaves 0 or 4/3 of the value.
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    config = LlamaConfig(**shape, num_key_value_heads=4, vocab_size=64, attn_implementation=implementation)
    model = AutoModelForCausalLM.from_config(config).train()
    attention, seen = model.model.layers[0].self_attn, {}
    attention.v_proj.register_forward_hook(lambda module, args, output: seen.update(value=output))
    attention.o_proj.register_forward_pre_hook(lambda module, args: seen.update(heads=args[0]))
    AttentionDropout(rate=RATE).attach(model)
    torch.manual_seed(0)
    with torch.no_grad():
        model(input_ids=torch.randint(64, (500, 2)))
    value, heads = (seen[name][:, 0].view(500, 4, 8) for name in ("value", "heads"))
    gone = (heads == 0).all(dim=-1)
    torch.testing.assert_close(heads[~gone], value[~gone] * 4 / 3)
    assert gone.float().mean().item() == pytest.approx(RATE, abs=4 * (RATE * (1 - RATE) / 2000) ** 0.5)
    assert not torch.equal(gone[:, 0], gone[:, 1])


@pytest.mark.parametrize("name", NAMES)
def test_acts_in_training_only_and_leaves_the_model_as_it_was(name):
    model = any_model(name)
    names, config, before = list(model.state_dict()), model.config.to_dict(), rates(model)
    plain = logits(model.eval())
    handles = AttentionDropout(rate=RATE).attach(model)
    assert rates(model) == [RATE] * 2 and before == [0.2 if name == NAMES[-1] else 0.0] * 2
    assert list(model.state_dict()) == names and model.config.to_dict() == config
    assert torch.equal(logits(model), plain)
    model.train()
    torch.manual_seed(0)
    first, second = logits(model), logits(model)
    assert not torch.allclose(first, plain) and not torch.allclose(first, second)
    for handle in handles:
        handle.remove()
    assert rates(model) == before
    if before == [0.0] * 2:
        assert torch.equal(logits(model), logits(model))
        torch.testing.assert_close(logits(model), plain)


def test_a_model_without_attention_is_refused():
    mamba = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(InputError, match="no attention modules .* MambaForCausalLM; leave it out"):
        AttentionDropout().attach(AutoModelForCausalLM.from_config(mamba))


@pytest.mark.parametrize("implementation", ["flex_attention", "flash_attention_3", "somebody/kernel"])
def test_an_implementation_without_dropout_is_refused_and_nothing_is_set(implementation):
    model = build("llama")
    model.config._attn_implementation = implementation
    with pytest.raises(InputError, match=f"'{implementation}' of LlamaForCausalLM has no dropout; .*'sdpa'"):
        AttentionDropout().attach(model)
    assert rates(model) == [0.0] * 2
    model.set_attn_implementation("eager")
    assert len(AttentionDropout().attach(model)) == 2


def test_flex_attention_has_no_dropout_upstream_either():
    # What the refusal spares a user: the error at the first step. Should this change, the refusal can go.
    from transformers.integrations.flex_attention import flex_attention_forward

    heads = torch.zeros(1, 1, 2, 8)
    with pytest.raises(ValueError, match="does not support `dropout`"):
        flex_attention_forward(torch.nn.Module(), heads, heads, heads, None, dropout=0.1)


@pytest.mark.parametrize("bad", [{"rate": 0.0}, {"rate": 1.0}, {"rate": "0.1"}, {"rate": True}, {"p": 0.1}], ids=str)
def test_bad_settings(bad):
    with pytest.raises(InputError, match=f"^AttentionDropout: {next(iter(bad))}"):
        AttentionDropout(**bad)


def test_it_drops_and_weighs_no_token():
    method = AttentionDropout()
    assert method.acts_on == ("attention",) and method.state() == {} and not method.adapts
    assert method.dropped(None) is None and method.ratio(0.5) is None and method.token_weight(None) is None
