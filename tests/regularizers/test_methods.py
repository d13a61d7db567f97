"""Weight decay, hidden dropout, label smoothing and NEFTune: each acts, and in training only."""

import pytest
import torch
from support.models import FAMILIES, build
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    MambaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)
from transformers.integrations.neftune import activate_neftune, deactivate_neftune

from dynamics.errors import InputError
from dynamics.ops.token_statistics import token_statistics, weighted_loss
from dynamics.regularizers.entrodrop import EntroDrop, EntroDropSettings
from dynamics.regularizers.hidden_dropout import HiddenDropout, HiddenDropoutSettings, residual_branches
from dynamics.regularizers.label_smoothing import LabelSmoothing
from dynamics.regularizers.neftune import NEFTune
from dynamics.regularizers.registry import METHODS, build_regularizers
from dynamics.regularizers.schedules import ScheduleSettings
from dynamics.regularizers.weight_decay import WeightDecay

IDS = torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return build().train()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def arguments(tmp_path, method):
    return TrainingArguments(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, learning_rate=0.01, **method.training_arguments()
    )


# Hidden dropout.


def test_hidden_dropout_acts_in_training_only(model):
    names, parameters = list(model.state_dict()), sum(p.numel() for p in model.parameters())
    plain = logits(model)
    handles = HiddenDropout(rate=0.3).attach(model)
    assert len(handles) == 4
    assert list(model.state_dict()) == names and sum(p.numel() for p in model.parameters()) == parameters
    torch.manual_seed(0)
    first, second = logits(model), logits(model)
    assert not torch.allclose(first, plain) and not torch.allclose(first, second)
    model.eval()
    assert torch.equal(logits(model), plain)
    model.train()
    for handle in handles:
        handle.remove()
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_hidden_dropout_zeroes_its_share_and_scales_the_rest(model, rate):
    before, after = [], []

    def keep(where):
        def hook(module, args, output):
            where.append((output[0] if isinstance(output, tuple) else output).clone())

        return hook

    for branch in residual_branches(model):
        branch.register_forward_hook(keep(before))
    HiddenDropout(rate=rate).attach(model)
    for branch in residual_branches(model):
        branch.register_forward_hook(keep(after))
    torch.manual_seed(0)
    with torch.no_grad():
        model(input_ids=IDS)
    assert len(before) == len(after) == 4
    gone = torch.stack(after) == 0
    share = gone.float().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / gone.numel()) ** 0.5)
    kept = torch.stack(before)[~gone] / (1 - rate)
    torch.testing.assert_close(torch.stack(after)[~gone], kept)
    assert not torch.equal(gone[0], gone[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_residual_branches_are_all_that_is_added_to_the_stream(name):
    # With 1, 2, 4 and 8 in their places, the last layer leaves the stream as it entered the first, plus 15.
    model = build(name).eval()
    branches = list(residual_branches(model))
    assert len(branches) == 4 and len(set(branches)) == 4
    decoder = model.get_decoder()
    layers = decoder.layers if hasattr(decoder, "layers") else decoder.h
    stream = []
    layers[0].register_forward_pre_hook(lambda module, args: stream.append(args[0].clone()))

    def leave(module, args, output):
        stream.append((output[0] if isinstance(output, tuple) else output).clone())

    layers[-1].register_forward_hook(leave)
    logits(model)
    assert not torch.allclose(stream[0], stream[1])

    def put(value):
        def hook(module, args, output):
            if isinstance(output, tuple):
                return (torch.full_like(output[0], value), *output[1:])
            return torch.full_like(output, value)

        return hook

    for n, branch in enumerate(branches):
        branch.register_forward_hook(put(2.0**n))
    stream.clear()
    logits(model)
    torch.testing.assert_close(stream[1], stream[0] + 15.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_dropout_acts_on_every_family_and_leaves_it_as_it_was(name):
    model = build(name).train()
    names, plain = list(model.state_dict()), logits(model)
    assert torch.equal(logits(model), plain)
    handles = HiddenDropout(rate=0.2).attach(model)
    assert len(handles) == 4 and list(model.state_dict()) == names
    assert not torch.allclose(logits(model), plain)
    assert torch.equal(logits(model.eval()), plain)
    for handle in handles:
        handle.remove()
    assert torch.equal(logits(model.train()), plain)


class NoLayers(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = nn.Linear(2, 2)


def test_hidden_dropout_refuses_models_without_its_layers():
    with pytest.raises(InputError, match="no decoder layers .* NoLayers"):
        HiddenDropout().attach(NoLayers(PretrainedConfig()))
    mamba = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(InputError, match="no decoder layers .* MambaForCausalLM"):
        HiddenDropout().attach(AutoModelForCausalLM.from_config(mamba))


def test_hidden_dropout_refuses_models_with_its_branches_in_some_layers_only():
    model = build("llama")
    del model.model.layers[1].self_attn  # as where a layer has a state space in its place
    assert residual_branches(model) == []
    with pytest.raises(InputError, match="no decoder layers .* LlamaForCausalLM"):
        HiddenDropout().attach(model)


# Weight decay.


@pytest.mark.parametrize("value", [0.1, 0.5, 3.2])
def test_weight_decay_shrinks_matrices_and_no_norms(model, tmp_path, value):
    method = WeightDecay(value=value)
    assert method.training_arguments() == {"weight_decay": value}
    names, plain = list(model.state_dict()), logits(model)
    assert tuple(method.attach(model)) == ()
    optimizer = Trainer(model=model, args=arguments(tmp_path, method)).create_optimizer()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # whatever moves, moves by decay
    assert torch.equal(logits(model), plain)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1.0 if "norm" in name else 1.0 - 0.01 * value
        torch.testing.assert_close(p.detach(), before[name] * factor)
    assert {"norm" in name for name in before} == {True, False}
    assert list(model.state_dict()) == names


def test_without_weight_decay_nothing_shrinks(tmp_path):
    assert TrainingArguments(output_dir=str(tmp_path), use_cpu=True).weight_decay == 0.0


# Label smoothing.


def test_label_smoothing_raises_the_training_loss_and_no_recorded_one(model, tmp_path):
    method = LabelSmoothing(factor=0.2)
    args = arguments(tmp_path, method)
    assert args.label_smoothing_factor == 0.2
    assert tuple(method.attach(model)) == () and method.token_weight(None) is None
    z, y = logits(model)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
    log_p = z.double().log_softmax(-1)
    clean = -log_p[torch.arange(len(y)), y]
    smoothed = weighted_loss(z, y, label_smoothing=args.label_smoothing_factor)
    expected = (0.8 * clean - 0.2 * log_p.mean(-1)).sum()
    assert smoothed.item() == pytest.approx(expected.item(), rel=1e-5)
    assert smoothed.item() != pytest.approx(clean.sum().item(), rel=1e-5)
    torch.testing.assert_close(token_statistics(z, y).loss.double(), clean, rtol=0, atol=1e-5)


# NEFTune.


def test_neftune_adds_bounded_noise_in_training_only(model, tmp_path):
    method = NEFTune(alpha=3.0)
    alpha = arguments(tmp_path, method).neftune_noise_alpha
    assert alpha == 3.0 and tuple(method.attach(model)) == ()
    names, plain = list(model.state_dict()), logits(model)
    embedding = model.get_input_embeddings()
    clean = embedding(IDS).detach()
    handle = activate_neftune(model, alpha)
    assert list(model.state_dict()) == names
    torch.manual_seed(0)
    noise = embedding(IDS).detach() - clean
    bound = 3.0 / (16 * 32) ** 0.5
    assert 0.95 * bound < noise.abs().max() <= bound * (1 + 1e-5)
    assert noise.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not torch.allclose(logits(model), plain)
    model.eval()
    assert torch.equal(logits(model), plain)
    model.train()
    deactivate_neftune(model, handle)
    assert torch.equal(logits(model), plain)


def test_trainer_reads_the_noise_from_its_arguments(model, tmp_path):
    assert Trainer(model=model, args=arguments(tmp_path, NEFTune(alpha=3.0))).neftune_noise_alpha == 3.0


# All of them.


@pytest.mark.parametrize(
    ("cls", "bad"),
    [
        (WeightDecay, {}),
        (WeightDecay, {"value": 0.0}),
        (WeightDecay, {"value": "0.1"}),
        (HiddenDropout, {"rate": 0.0}),
        (HiddenDropout, {"rate": 1.0}),
        (HiddenDropout, {"p": 0.1}),
        (LabelSmoothing, {"factor": 0.0}),
        (LabelSmoothing, {"factor": 1.0}),
        (NEFTune, {"alpha": 0.0}),
        (NEFTune, {"alpha": float("inf")}),
    ],
    ids=str,
)
def test_bad_settings(cls, bad):
    with pytest.raises(InputError, match=f"^{cls.__name__}: {next(iter(bad), 'value')}"):
        cls(**bad)


def test_only_token_dropout_drops_tokens():
    for cls, settings in [(WeightDecay, {"value": 0.1}), (HiddenDropout, {}), (LabelSmoothing, {}), (NEFTune, {})]:
        method = cls(**settings)
        assert method.dropped(None) is None and method.ratio(0.5) is None and method.token_weight(None) is None
        assert not method.normalizes_by_kept and method.acts_on


def test_registry_builds_each_method_with_its_settings():
    schedule = ScheduleSettings(name="sigmoid", steepness=4.0)
    settings = [EntroDropSettings(ratio=0.3, schedule=schedule), HiddenDropoutSettings(rate=0.4)]
    methods = build_regularizers(settings)
    assert [type(method) for method in methods] == [EntroDrop, HiddenDropout]
    assert [method.settings for method in methods] == settings
    for name, cls in METHODS.items():
        assert cls(**({"value": 0.1} if cls is WeightDecay else {})).settings.name == name
