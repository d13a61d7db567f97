"""The mean of the weights: its recursions against float64, what it holds, and that it leaves the weights as they were."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.models import build
from torch import nn

from dynamics import InputError, WeightAveraging
from dynamics.recipe.training_keys import conflict
from dynamics.regularizers.weight_averaging import WeightAveragingSettings, share_of_new

N_STEPS = 40


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2)).to(dtype)


def trained(method, model, n_steps=N_STEPS, *, total=N_STEPS, first=0):
    """Steps of gradient descent; return the weights after each, in float64, the starting weights before all."""
    path = []
    generator = torch.Generator().manual_seed(1)
    # Noise, which is never learned, so that the weights do not come to rest.
    x, y = torch.randn(2, 2 * N_STEPS, 3, 7, generator=generator).to(next(model.parameters()).dtype)

    def note():
        path.append({name: weight.detach().double().numpy().copy() for name, weight in model.named_parameters()})

    note()
    for step in range(first, first + n_steps):
        method.begin_batch(SimpleNamespace(progress=step / total))
        (model(x[step, :, :5]) - y[step, :, :2]).square().mean().backward()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= (0.3 * weight.grad).to(weight.dtype)
                    weight.grad = None
        method.end_batch()
        method.end_step()
        note()
    return path


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def averaged_weights(method, model):
    with method.averaged():
        return weights_of(model)


def ema(path, *, decay, warmup=True, every=1):
    """The recursion, by hand, in float64."""
    mean, t = dict(path[0]), 0
    for step in range(1, len(path)):
        if step % every:
            continue
        t += 1
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        mean = {name: d * mean[name] + (1 - d) * path[step][name] for name in mean}
    return mean


def swa(path, *, start, every=1, total=N_STEPS):
    chosen = [path[step] for step in range(1, len(path)) if step % every == 0 and (step - 1) / total >= start]
    return {name: np.mean([weights[name] for weights in chosen], axis=0) for name in path[0]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda path: ema(path, decay=0.999)),
        ({"decay": 0.6}, lambda path: ema(path, decay=0.6)),
        ({"decay": 0.9, "warmup": False}, lambda path: ema(path, decay=0.9, warmup=False)),
        ({"decay": 0.6, "every": 3}, lambda path: ema(path, decay=0.6, every=3)),
        ({"kind": "swa"}, lambda path: swa(path, start=0.75)),
        ({"kind": "swa", "start": 0.0}, lambda path: swa(path, start=0.0)),
        ({"kind": "swa", "start": 0.3, "every": 4}, lambda path: swa(path, start=0.3, every=4)),
    ],
)
def test_the_mean_is_that_of_the_recursion_in_float64(settings, expected):
    model, method = model_of(), WeightAveraging(**settings)
    method.attach(model)
    path = trained(method, model)
    mean, last = expected(path), path[-1]
    for name, found in averaged_weights(method, model).items():
        np.testing.assert_allclose(found.double(), mean[name], rtol=0, atol=3e-7)
        assert np.abs(mean[name] - last[name]).max() > 1e-3, "the test tells mean and weights apart"


def test_shares_of_a_worked_example():
    # d = 2/11, 3/12, 4/13, until 1/2 is reached at t = 8.
    settings = WeightAveragingSettings(decay=0.5)
    shares = [share_of_new(settings, t) for t in (1, 2, 3, 8, 9)]
    assert shares == pytest.approx([9 / 11, 9 / 12, 9 / 13, 0.5, 0.5], abs=1e-15)
    # What is left of the starting model: 2/11 * 3/12 * 4/13 * 5/14 = 10! 5! / 14! = 0.004995.
    left = np.prod([1 - share_of_new(WeightAveragingSettings(), t) for t in (1, 2, 3, 4)])
    assert left == pytest.approx(0.004995004995, rel=1e-9)
    assert [share_of_new(WeightAveragingSettings(kind="swa"), t) for t in (1, 2, 4)] == [1.0, 0.5, 0.25]
    assert share_of_new(WeightAveragingSettings(warmup=False, decay=0.75), 1) == 0.25


def test_swa_is_the_trained_model_until_it_begins():
    model, method = model_of(), WeightAveraging(kind="swa", start=0.5)
    method.attach(model)
    trained(method, model, 20)
    assert all(torch.equal(found, weights_of(model)[name]) for name, found in averaged_weights(method, model).items())
    # Step 21 of 40 is the first one of the second half: its weights alone, then.
    trained(method, model, 1, first=20)
    assert all(torch.equal(found, weights_of(model)[name]) for name, found in averaged_weights(method, model).items())
    trained(method, model, 1, first=21)
    assert not all(
        torch.equal(found, weights_of(model)[name]) for name, found in averaged_weights(method, model).items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_weights_come_back_to_the_last_bit_whatever_happens(dtype):
    model, method = model_of(dtype), WeightAveraging(decay=0.6)
    method.attach(model)
    assert all(torch.equal(found, weights_of(model)[name]) for name, found in averaged_weights(method, model).items())
    trained(method, model)
    before, held = weights_of(model), {name: weight.data_ptr() for name, weight in model.named_parameters()}
    with pytest.raises(ZeroDivisionError), method.averaged():
        assert not torch.equal(model[0].weight, before["0.weight"]) and model[0].weight.requires_grad
        raise ZeroDivisionError
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == held
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(mean.dtype == wanted for mean in method.tensors().values())


def test_a_bfloat16_models_mean_is_finer_than_its_weights():
    model, method = model_of(torch.bfloat16), WeightAveraging(decay=0.6)
    method.attach(model)
    path = trained(method, model)
    mean = ema(path, decay=0.6)
    for name, found in method.tensors().items():
        np.testing.assert_allclose(found.double(), mean[name], rtol=0, atol=3e-7)
    assert any((found != found.bfloat16().float()).any() for found in method.tensors().values())


def test_tied_weights_are_one_and_buffers_and_frozen_weights_the_models_own():
    model, method = build("qwen3"), WeightAveraging()  # whose head is its embedding
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.model.norm.weight.requires_grad_(False)
    method.attach(model)
    names = set(method.tensors())
    assert names == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert "lm_head.weight" not in names and "model.norm.weight" not in names
    method.tensors()["model.embed_tokens.weight"].fill_(3.0)
    with method.averaged():
        assert (model.lm_head.weight == 3.0).all() and model.lm_head.weight is model.model.embed_tokens.weight
    assert not (model.lm_head.weight == 3.0).any()


def test_a_weight_that_is_trained_later_is_refused():
    model, method = model_of(), WeightAveraging()
    model[1].bias.requires_grad_(False)
    method.attach(model)
    trained(method, model, 1)
    model[1].bias.requires_grad_(True)
    with pytest.raises(InputError, match="1.bias was frozen when training began and is trained now"):
        trained(method, model, 1)


def test_sharded_weights_are_refused():
    model = model_of()
    model[1].weight.ds_id = 3  # as DeepSpeed marks them
    with pytest.raises(InputError, match="WeightAveraging: 1.weight is sharded .* train with DDP"):
        WeightAveraging().attach(model)


@pytest.mark.parametrize("settings", [{"decay": 0.6, "every": 3}, {"kind": "swa", "start": 0.3, "every": 4}])
@pytest.mark.parametrize("at", [1, 13, 25])
def test_it_goes_on_in_the_same_bits(settings, at):
    whole, method = model_of(), WeightAveraging(**settings)
    method.attach(whole)
    trained(method, whole)
    part, before = model_of(), WeightAveraging(**settings)
    before.attach(part)
    trained(before, part, at)
    state, tensors = before.state(), {name: mean.clone() for name, mean in before.tensors().items()}
    after = WeightAveraging(**settings)
    after.attach(part)
    after.load_state(state)
    after.load_tensors(tensors)
    trained(after, part, N_STEPS - at, first=at)
    mine, theirs = averaged_weights(after, part), averaged_weights(method, whole)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert after.state() == method.state()


@pytest.mark.parametrize("change", [lambda t: t.pop("0.bias"), lambda t: t.update({"0.bias": torch.zeros(3)})])
def test_the_mean_of_other_weights_is_refused(change):
    model, method = model_of(), WeightAveraging()
    method.attach(model)
    tensors = method.tensors()
    change(tensors)
    with pytest.raises(InputError, match="mean is of other weights than are trained now \\(0.bias is one of 1\\)"):
        method.load_tensors(tensors)


def test_a_mean_that_has_begun_goes_on_where_training_is_made_longer():
    model, method = model_of(), WeightAveraging(kind="swa", start=0.5)
    method.attach(model)
    trained(method, model, 24)
    assert method.state() == {"steps": 24, "updates": 4}
    trained(method, model, 1, first=24, total=400)
    assert method.state() == {"steps": 25, "updates": 5}


def test_two_kinds_go_together_and_one_twice_does_not():
    ema, swa = WeightAveraging(), WeightAveraging(kind="swa")
    assert ema.key != swa.key and (ema.beside, swa.beside) == ("ema", "swa")
    assert conflict([method.settings.model_dump() for method in (ema, swa)], {}) is None
    problem = conflict([ema.settings.model_dump(), WeightAveraging(decay=0.5).settings.model_dump()], {})
    assert problem == "regularizers: weight_averaging stands there twice as ema; keep one"


def test_only_settings_that_are_read_are_written():
    assert WeightAveragingSettings().model_dump() == {
        "name": "weight_averaging",
        "kind": "ema",
        "decay": 0.999,
        "warmup": True,
        "every": 1,
    }
    dumped = WeightAveragingSettings(kind="swa", start=0.5).model_dump()
    assert dumped == {"name": "weight_averaging", "kind": "swa", "start": 0.5, "every": 1}
    assert WeightAveragingSettings(**dumped) == WeightAveragingSettings(kind="swa", start=0.5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"decay": 1.0}, "decay"),
        ({"decay": 0.0}, "decay"),
        ({"start": 1.0, "kind": "swa"}, "start"),
        ({"every": 0}, "every"),
        ({"kind": "lawa"}, "kind"),
        ({"start": 0.5}, "start is not read with kind: ema; leave it out"),
        ({"kind": "swa", "decay": 0.9}, "decay is not read with kind: swa; leave it out"),
        ({"kind": "swa", "warmup": False}, "warmup is not read with kind: swa; leave it out"),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(InputError, match=f"^WeightAveraging: .*{message}"):
        WeightAveraging(**bad)


def test_weights_that_fsdp2_shards_are_refused(tmp_path):
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        model = fully_shard(model_of(), mesh=mesh)
        with pytest.raises(InputError, match="0.weight is sharded"):
            WeightAveraging().attach(model)
    finally:
        torch.distributed.destroy_process_group()
