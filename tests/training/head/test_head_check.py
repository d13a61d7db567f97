"""What a check sees, in every type and under every wrapper, and that nothing it saw grows stale."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from support.models import N_VOCAB, build
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

from dynamics.ops.token_statistics import shift, token_statistics
from dynamics.training.head import head_answer
from dynamics.training.head.fused_head import HeadRequest, fused_head
from dynamics.training.head.head_check import HeadForm, Probe, _form, _probe, sample_ids, state_of, unsuitable

IDS = torch.randint(3, N_VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
LABELS = IDS.clone()
LABELS[:, 0] = -100


def grown(name="qwen3", **changes):
    """A model with a head of its own whose logits reach about 25, so that what comes after the head counts."""
    model = build(name, tie_word_embeddings=False, **changes)
    with torch.no_grad():
        for _ in range(2):
            model.lm_head.weight.mul_(25.0 / model(input_ids=IDS).logits.abs().max())
    return model


def apart(model, *, before=0):
    """The largest difference, in nats, of an answer from the losses of the model's logits in float64."""
    with torch.no_grad():
        answer = model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
        plain = model(input_ids=IDS)
        logits = (plain[0] if isinstance(plain, tuple) else plain.logits)[:, before:]
    expected = token_statistics(*shift(logits.double(), LABELS))
    return max(
        float((mine[:, 1:].flatten().double() - theirs).abs().max())
        for mine, theirs in ((answer.token_loss, expected.loss), (answer.token_entropy, expected.entropy))
    )


# The form. --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "form"),
    [
        (lambda z: z, HeadForm()),
        (lambda z: z / 8, HeadForm(scale=0.125)),
        (lambda z: 30 * torch.tanh(z / 30), HeadForm(softcap=30.0)),
        (lambda z: 15 * torch.tanh(0.25 * z / 15), HeadForm(scale=0.25, softcap=15.0)),
    ],
)
def test_a_scale_and_a_cap_are_measured(after, form):
    z = _probe(torch.Size((1, 8, 40)), torch.device("cpu")).float()
    found = _form(z.double(), after(z).double())
    assert found.scale == (None if form.scale is None else pytest.approx(form.scale, rel=1e-6))
    assert found.softcap == (None if form.softcap is None else pytest.approx(form.softcap, rel=1e-6))


@pytest.mark.parametrize(
    "after",
    [
        lambda z: z + 0.001,
        lambda z: -z,
        lambda z: z.clamp(-50, 50),
        lambda z: z.log_softmax(-1),
        lambda z: z.masked_fill(torch.arange(z.shape[-1]) == 17, -1e9),
        lambda z: torch.cat([z[..., :20], z[..., 20:] * 1.01], dim=-1),
        lambda z: z.bfloat16().float(),
        lambda z: 30 * z / (30 + z.abs()),
        lambda z: z * torch.nan,
    ],
)
def test_anything_else_after_a_head_is_seen(after):
    z = _probe(torch.Size((1, 8, 40)), torch.device("cpu")).float()
    assert _form(z.double(), after(z).double()) == "its logits are not its head's output with a scale and a soft cap"


def test_a_probe_says_what_is_wrong_with_a_model():
    ids = torch.zeros(3, 4, dtype=torch.int64)
    head = nn.Linear(2, 10)
    hidden = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))

    def verdict(use, n_virtual=0):
        probe = Probe(head)
        with torch.no_grad():
            logits = use(probe)
        return probe.verdict(logits, ids, n_virtual)

    assert verdict(lambda probe: probe(hidden)) == HeadForm()
    assert verdict(lambda probe: torch.zeros(3, 4, 10)) == "its head is not called"
    assert verdict(lambda probe: (probe(hidden), probe(hidden))[1]) == "its head is called 2 times"
    assert "logits are (3, 4, 9)" in verdict(lambda probe: probe(hidden)[..., :9])
    assert "its head returns (3, 4, 10)" in verdict(lambda probe: probe(hidden), n_virtual=1)
    factor = nn.Parameter(torch.ones(()))
    assert verdict(lambda probe: probe(hidden) * factor) == "something trainable comes after its head"


def test_ids_to_check_with_are_no_padding_and_in_the_vocabulary():
    model = build(pad_token_id=3)
    ids = sample_ids(model, torch.device("cpu"))
    assert ids.shape == (3, 16) and ids.unique().numel() > 25 and not (ids == 3).any() and ids.max() < N_VOCAB


# Types and wrappers. ----------------------------------------------------------------------------


def test_a_cap_under_any_name_is_seen():
    shape = {"vocab_size": N_VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "lru_width": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "attention_window_size": 16}
    torch.manual_seed(0)
    model = RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**shape, **heads, logits_soft_cap=5.0)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    for dtype in (torch.float32, torch.bfloat16):
        with fused_head(model, dtype=dtype) as fused:
            assert fused and apart(model) < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("name", ["gemma2", "qwen3", "phi-with-bias"])
def test_bf16_weights_are_no_reason(name):
    model = build(name).bfloat16().eval()
    with fused_head(model) as fused:
        assert fused and apart(model) < 0.1


@pytest.mark.parametrize("name", ["gemma2", "qwen3"])
def test_a_model_that_accelerate_wrapped_in_bf16_is_fused(name):
    AcceleratorState._reset_state(reset_partial_state=True)
    model = Accelerator(mixed_precision="bf16", cpu=True).prepare(build(name)).eval()
    AcceleratorState._reset_state(reset_partial_state=True)
    with fused_head(model, dtype=torch.bfloat16) as fused:
        assert fused and apart(model) < 0.2
    with fused_head(model) as fused:
        assert fused and apart(model) < 0.2


def test_a_request_enters_autocast_itself():
    model = build().eval()
    seen = []
    model.model.layers[0].register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with fused_head(model, dtype=torch.bfloat16):
        seen.clear()
        model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
    with fused_head(model):
        model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
    # Of the float32 context: the check's two passes and the request's.
    assert seen == [True, False, False, False]


def lora(model, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **changes))


def test_peft_inside_the_decoder_is_fused_and_on_the_head_is_not(caplog):
    model = grown()
    with fused_head(model) as fused:
        assert fused
    inside = lora(model, target_modules=["q_proj"])
    with fused_head(inside) as fused:
        assert fused and apart(inside) < 1e-4
        inside(input_ids=IDS, head_request=HeadRequest(labels=LABELS)).total_loss.backward()
    assert all(p.grad is not None for name, p in inside.named_parameters() if "lora" in name)
    # The same base model, seen before, now with an adapter on its head.
    model = inside.unload()
    on_head = lora(model, target_modules=["lm_head"])
    with caplog.at_level(logging.WARNING, logger="dynamics"):
        for _ in range(2):
            with fused_head(on_head) as fused:
                assert not fused
    assert [line.getMessage() for line in caplog.records] == [
        "Qwen3ForCausalLM: its head is peft's Linear, not a plain Linear; losses are computed from full logits"
    ]
    merged = on_head.merge_and_unload()
    with fused_head(merged) as fused:
        assert fused and apart(merged) < 1e-4


def test_virtual_tokens_of_prompt_tuning_are_no_tokens():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(grown(), config).eval()
    with fused_head(model) as fused:
        assert fused and apart(model, before=3) < 1e-4


# What changes while the context is open. --------------------------------------------------------


def put_adapter(model):
    lora(model, target_modules=["lm_head"])


def put_other_head(model):
    model.lm_head = nn.Linear(32, N_VOCAB, bias=True)


def put_odd_head(model):
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 1.5

    model.lm_head = Odd(32, N_VOCAB)


def put_cap(model):
    model.config.final_logit_softcapping = 3.0


def put_no_cap(model):
    model.config.final_logit_softcapping = None


def put_hook(model):
    model.lm_head.register_forward_hook(lambda module, args, output: output + args[0].sum(-1, keepdim=True) * 0.5)


def put_parametrization(model):
    class Double(nn.Module):
        def forward(self, weight):
            return weight * 2

    nn.utils.parametrize.register_parametrization(model.lm_head, "weight", Double())


def put_weights(model):
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)


@pytest.mark.parametrize(
    ("change", "still"),
    [
        (put_adapter, False),
        (put_other_head, True),
        (put_odd_head, False),
        (put_cap, True),
        (put_no_cap, True),
        (put_hook, False),
        (put_parametrization, False),
        (put_weights, True),
    ],
)
def test_a_change_while_the_context_is_open_is_noticed(caplog, change, still):
    model = grown("gemma2").eval()
    calls = []
    with fused_head(model) as fused, caplog.at_level(logging.WARNING, logger="dynamics"):
        assert fused and apart(model) < 1e-4
        change(model)
        assert apart(model) < 1e-4
        assert len(caplog.records) == (0 if still else 1)
        # Asked once, not at every request: from here on, a request runs the decoder once.
        model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
        model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
        assert len(calls) == 1
    assert "forward" not in vars(model)


def test_training_reaches_what_was_put_on_the_head():
    model = grown()
    with fused_head(model):
        put_adapter(model)
        model(input_ids=IDS, head_request=HeadRequest(labels=LABELS)).total_loss.backward()
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "lora" in name)


def test_what_tells_of_a_head_is_the_same_until_something_changes():
    model = grown("gemma2")
    before = state_of(model)
    assert state_of(model) == before and unsuitable(model) is None
    model.lm_head.weight.data.mul_(2)
    model.train()
    assert state_of(model) == before
    model.config.final_logit_softcapping = 7.0
    assert state_of(model) != before


# Never a crash. ---------------------------------------------------------------------------------


def test_an_error_in_the_check_means_whole_logits(caplog, monkeypatch):
    model = grown()
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: 1 / 0)
    with caplog.at_level(logging.WARNING, logger="dynamics"):
        for _ in range(2):
            with fused_head(model) as fused:
                assert not fused
    assert [line.getMessage() for line in caplog.records] == [
        "Qwen3ForCausalLM: its fused head fails (ZeroDivisionError: division by zero); losses are computed from full "
        "logits"
    ]


def test_an_error_of_the_operator_in_the_first_request_means_whole_logits(caplog, monkeypatch):
    model = grown().eval()
    with fused_head(model) as fused, caplog.at_level(logging.WARNING, logger="dynamics"):
        assert fused

        def broken(*args, **kwargs):
            raise RuntimeError("no kernel")

        monkeypatch.setattr(head_answer, "linear_token_statistics", broken)
        assert apart(model) < 1e-5 and apart(model) < 1e-5
    assert [line.getMessage() for line in caplog.records] == [
        "Qwen3ForCausalLM: its fused head fails (RuntimeError: no kernel); losses are computed from full logits"
    ]


def test_an_error_after_a_request_that_was_answered_is_the_users_to_see(monkeypatch):
    model = grown().eval()
    with fused_head(model):
        model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
        monkeypatch.setattr(head_answer, "linear_token_statistics", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
    assert "forward" not in vars(model) and "forward" not in vars(model.lm_head)


def test_memory_that_ran_out_is_no_reason_for_whole_logits(caplog, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("2 GiB")

    model = grown().eval()
    with fused_head(model):
        monkeypatch.setattr(head_answer, "linear_token_statistics", full)
        with pytest.raises(torch.OutOfMemoryError):
            model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
    assert caplog.records == []


def test_an_interrupt_in_the_check_is_one(monkeypatch):
    model = grown()

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.model, "forward", stop)
    with pytest.raises(KeyboardInterrupt), fused_head(model):
        pass
    assert "forward" not in vars(model) and "forward" not in vars(model.lm_head)


# What a caller may pass. ------------------------------------------------------------------------


def test_what_belongs_to_logits_and_losses_is_left_out():
    model = grown().eval()
    whole = model.forward
    model.forward = lambda *args, **kwargs: whole(*args, **kwargs).to_tuple()  # as `return_dict=False` has it
    with fused_head(model) as fused:
        assert fused and apart(model) < 1e-4
        plain = model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
        more = {"labels": LABELS, "num_items_in_batch": 3, "logits_to_keep": 1, "use_cache": True}
        more |= {"output_hidden_states": True, "output_attentions": False}
        found = model(input_ids=IDS, head_request=HeadRequest(labels=LABELS), **more)
    assert torch.equal(found.token_loss[:, 1:], plain.token_loss[:, 1:]) and found.total_loss == plain.total_loss


def test_masks_and_positions_reach_the_model():
    model = grown().eval()
    mask = torch.ones_like(IDS)
    mask[1, :4] = 0
    position = (mask.cumsum(1) - 1).clamp_min(0)
    inputs = {"input_ids": IDS, "attention_mask": mask, "position_ids": position}
    with torch.no_grad(), fused_head(model):
        found = model(**inputs, head_request=HeadRequest(labels=LABELS))
        expected = token_statistics(*shift(model(**inputs).logits.double(), LABELS))
    torch.testing.assert_close(found.token_loss[:, 1:].flatten().double(), expected.loss, rtol=0, atol=1e-4)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def test_a_request_does_not_wait_for_the_device(monkeypatch):
    model = grown().train()
    with fused_head(model):
        # The operator has its own test of this; on a CPU it waits, for nothing.
        real = head_answer.linear_token_statistics

        def outside(*args, **kwargs):
            with torch.utils._python_dispatch._disable_current_modes():
                return real(*args, **kwargs)

        monkeypatch.setattr(head_answer, "linear_token_statistics", outside)
        with Waits() as plain:
            model(input_ids=IDS)
        with Waits() as asked:
            answer = model(input_ids=IDS, head_request=HeadRequest(labels=LABELS, token_weight=torch.ones(3, 12)))
    # transformers' own masks wait once, where no mask is given.
    assert answer.total_loss.requires_grad and asked.seen == plain.seen
