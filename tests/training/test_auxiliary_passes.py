"""A second forward pass in each step, through every door: what the optimiser gets, and what is recorded of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.doors.checks import assert_exact, assert_the_same, assert_whole
from support.doors.setting import RATIO, TRAINERS, Training, pretrained, setting_in
from support.doors.through import finished, make_trainer, train
from support.models import Padder, build, examples
from support.on_device import CHECKPOINTING
from support.splitmix import uniform
from transformers import TrainingArguments

from dynamics import DynamicsTrainer, LoopRecorder, TokenRecorder
from dynamics.errors import InputError
from dynamics.regularizers.goldfish import GoldfishLoss
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.regularizers.loss_threshold import LossThreshold
from dynamics.regularizers.masked_input import MaskedInputRegularization
from dynamics.regularizers.random_token_dropout import RandomTokenDropout
from dynamics.regularizers.selective_loss import SelectiveLoss

DOORS = ("recipe", *TRAINERS)
SHARE, MASKED, DROP = 5, 6, 1  # streams of draws


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return setting_in(tmp_path_factory.mktemp("setting"))


def masked(row, n, *, epoch=1, seed=0):
    """Which of a row's tokens the second pass does not see, by the definition alone."""
    share = 0.5 * uniform(seed, SHARE, epoch, row, 0)
    return torch.tensor([uniform(seed, MASKED, epoch, row, p) < share for p in range(n)])


def dropped(row, n):
    return torch.tensor([uniform(0, DROP, 1, row, p) < RATIO for p in range(n)])


def token_losses(model, ids, hidden, smoothing=0.0):
    """Of one row, position by position in float64, with the embeddings of `hidden` tokens zero; 0 at the first."""
    embedded = model.get_input_embeddings()(ids).masked_fill(hidden[:, None], 0.0)
    log_p = model(inputs_embeds=embedded[None]).logits[0, :-1].log_softmax(-1)
    own = -log_p.gather(-1, ids[1:, None])[:, 0]
    losses = (1 - smoothing) * own - smoothing * log_p.mean(-1)
    return torch.cat([losses.new_zeros(1), losses])


def by_hand(setting, *, smoothing=0.0, left_out=None, first=None, threshold=None):
    """The starting model with the gradients of one step over all of the data, and both passes' losses of it.

    `left_out` and `first` say of a row which tokens enter no loss, and which the first pass does not see.
    """
    model, sums, n_predicted = pretrained(setting.model), [0.0, 0.0], 0
    for row, example in enumerate(setting.train):
        ids, labels = (torch.tensor(example[name]) for name in ("input_ids", "labels"))
        known = labels != -100
        n_predicted += int(known.sum())
        counts = known if left_out is None else known & ~left_out(row, len(ids))
        clean = torch.zeros_like(known) if first is None else known & first(row, len(ids))
        for at, hidden in enumerate((clean, clean | (known & masked(row, len(ids))))):
            losses = token_losses(model, ids, hidden, smoothing)
            kept = counts if threshold is None else counts & (losses > threshold)
            sums[at] = sums[at] + losses[kept].sum()
    clean, auxiliary = sums[0] / n_predicted, 0.4 * sums[1] / n_predicted
    (clean + auxiliary).backward()
    return model, clean.item(), auxiliary.item()


def one_step(**changes):
    """One optimiser step of plain gradient descent over all nine sequences."""
    fields = {"epochs": 1, "batch": 4, "accumulation": 3, "sgd": True, "methods": lambda: [MaskedInputRegularization()]}
    return Training(**{**fields, **changes})


def assert_step(trained, expected, *, rate=1e-2):
    found = trained.load(trained.weights[1]).state_dict()
    for name, weight in expected.named_parameters():
        after = weight.detach() - rate * weight.grad
        torch.testing.assert_close(found[name], after, rtol=1e-5, atol=1e-6, msg=lambda said, name=name: name + said)


@pytest.mark.parametrize(
    ("door", "smoothing"), [("recipe", 0.0), ("DynamicsTrainer", 0.2), ("attach", 0.0), ("attach", 0.2)]
)
def test_a_step_by_hand(door, smoothing, setting, tmp_path):
    trained = train(door, setting, tmp_path, one_step(smoothing=smoothing))
    assert_whole(trained)
    assert_exact(trained)
    expected, clean, auxiliary = by_hand(setting, smoothing=smoothing)
    assert_step(trained, expected)
    [row] = trained.run.metrics()
    if door == "attach":
        assert "training_loss" not in row
    else:
        assert row["training_loss"] == pytest.approx(clean, rel=1e-5)
    told = row.get("auxiliary_loss")
    assert told == (None if door == "attach" else pytest.approx(auxiliary, rel=1e-5))
    assert row["dropped_share"] == 0.0 and row["ratio"] is None


def double_loss(outputs, labels, num_items_in_batch=None):
    """A user's own: twice the sum over tokens, over all of the step."""
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return 2 * torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("door", TRAINERS)
def test_beside_a_users_own_loss(door, setting, tmp_path):
    training = one_step()
    trainer = make_trainer(door, setting, tmp_path, training, compute_loss_func=double_loss)
    trainer.train()
    trained = finished(door, trainer, setting, tmp_path, training)
    expected, _, _ = by_hand(setting)
    assert_step(trained, expected, rate=2e-2)


@pytest.mark.parametrize("door", DOORS)
def test_what_others_do_they_do_in_both_passes(door, setting, tmp_path):
    """A token that Goldfish leaves out enters neither loss, labels are smoothed in both, dropped inputs are in neither."""

    def methods():
        drop = RandomTokenDropout(ratio=RATIO, schedule="constant")
        return [GoldfishLoss(variant="static", k=3, normalize="all"), drop, MaskedInputRegularization()]

    smoothing = 0.0 if door == "attach" else 0.2
    trained = train(door, setting, tmp_path, one_step(methods=methods, smoothing=smoothing))
    assert_whole(trained)
    every_third = torch.arange(16) % 3 == 0
    expected, clean, _ = by_hand(setting, smoothing=smoothing, left_out=lambda row, n: every_third[:n], first=dropped)
    assert_step(trained, expected)
    if door != "attach":
        assert trained.run.metrics()[0]["training_loss"] == pytest.approx(clean, rel=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_each_pass_weighs_tokens_by_its_own_predictions(fused, setting, tmp_path):
    training = one_step(methods=lambda: [LossThreshold(threshold=5.0), MaskedInputRegularization()])
    trainer = make_trainer("DynamicsTrainer", setting, tmp_path, training, fused=fused)
    trainer.train()
    trained = finished("DynamicsTrainer", trainer, setting, tmp_path, training)
    expected, clean, auxiliary = by_hand(setting, threshold=5.0)
    assert 0 < clean and 0 < auxiliary
    assert_step(trained, expected)
    [row] = trained.run.metrics()
    assert (row["training_loss"], row["auxiliary_loss"]) == pytest.approx((clean, auxiliary), rel=1e-5)


def leading_bits(excess):
    """Where an excess loss stands among others: by sign and 8 significant bits, all below 2**-10 nats as one."""
    mantissa, exponent = torch.frexp(excess.abs())
    size = (exponent + 9) * 128 + (mantissa * 256).floor().long() - 127
    return torch.where(excess.abs() < 2.0**-10, 0, excess.sign().long() * size)


@pytest.mark.parametrize(("fused", "batch", "accumulation"), [(True, 4, 3), (True, 9, 1), (False, 4, 3)])
def test_what_counts_in_a_step_is_the_share_of_both_passes_before(fused, batch, accumulation, setting, tmp_path):
    """Two steps over all of the data: in the second one selective loss goes by what the first saw, in both passes."""
    training = one_step(
        epochs=2,
        batch=batch,
        accumulation=accumulation,
        rate=0.05,
        methods=lambda: [SelectiveLoss(share=0.1), LossThreshold(threshold=4.0), MaskedInputRegularization()],
        smoothing=0.2,
        arguments={"lr_scheduler_type": "constant"},
    )
    trainer = make_trainer("DynamicsTrainer", setting, tmp_path, training, fused=fused)
    trainer.train()
    trained = finished("DynamicsTrainer", trainer, setting, tmp_path, training)

    model, reference, lowest = pretrained(setting.model), pretrained(setting.model), None
    for epoch in (1, 2):
        model.zero_grad()
        objective, n_predicted, seen, counting = 0.0, 0, [], []
        for row, example in enumerate(setting.train):
            ids, labels = (torch.tensor(example[name]) for name in ("input_ids", "labels"))
            known = labels != -100
            n_predicted += int(known.sum())
            expected = token_losses(reference, ids, torch.zeros_like(known)).detach()
            for share, hidden in (
                (1.0, torch.zeros_like(known)),
                (0.4, known & masked(row, len(ids), epoch=epoch)),
            ):
                own = token_losses(model, ids, hidden).detach()
                place = leading_bits(own - expected)
                seen.append(place[known])
                weight = (known & (own > 4.0)) * (1.0 if lowest is None else (place >= lowest) / 0.1)
                counting.append(float((weight > 0).sum() / known.sum()))
                objective = objective + share * (weight * token_losses(model, ids, hidden, 0.2)).sum()
        (objective / n_predicted).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.05 * weight.grad
        places = torch.cat(seen).sort(descending=True).values
        lowest = places[math.ceil(0.1 * len(places)) - 1]
    assert lowest > 0 and 0.0 < np.mean(counting) < 0.9
    found = trained.load(trained.weights[2]).state_dict()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.detach(), rtol=1e-5, atol=1e-6, msg=lambda s, n=name: n + s)


def test_what_is_recorded_of_training_is_the_first_pass(setting, tmp_path):
    training = one_step(training_pass=True, rate=0.0)
    trained = train("DynamicsTrainer", setting, tmp_path, training)
    records = trained.run.records("train")
    np.testing.assert_allclose(records.training_loss(1), records.loss(0), rtol=1e-5, atol=1e-6)
    assert not records.dropped(1).any()


# Three steps are a pass; a recipe goes on from the end of one.
@pytest.mark.parametrize(("door", "save_at"), [("recipe", 3), ("DynamicsTrainer", 4), ("attach", 4)])
def test_a_resumed_training_is_as_if_never_interrupted(door, save_at, setting, tmp_path):
    training = Training(
        epochs=3,
        methods=lambda: [MaskedInputRegularization(), HiddenDropout(rate=0.1)],
        save_at=save_at,
    )
    torch.manual_seed(0)
    whole = train(door, setting, tmp_path / "whole", training)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path / "broken", replace(training, stop_at=5))
    torch.manual_seed(1)
    resumed = train(door, setting, tmp_path / "broken", replace(training, resume=True))
    assert_the_same(whole, resumed)
    assert_whole(resumed)


def test_a_loop_of_ones_own_refuses(setting, tmp_path):
    with pytest.raises(InputError) as caught:
        train("plain loop", setting, tmp_path, one_step())
    assert str(caught.value) == (
        "LoopRecorder: MaskedInputRegularization needs a second forward pass in each step, but here the loop runs "
        "the forward passes itself; use attach on a Trainer, or DynamicsTrainer"
    )
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="needs a second forward pass"):
        LoopRecorder(TokenRecorder(tmp_path / "run"), MaskedInputRegularization())


def trained_alone(path, **changes):
    fields = {
        "output_dir": str(path),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    trainer = DynamicsTrainer(
        build(),
        TrainingArguments(**{**fields, **changes}),
        Padder(),
        train_dataset=examples(12),
        regularizers=[MaskedInputRegularization()],
    )
    trainer.train()
    return trainer


def test_activation_checkpointing_changes_nothing(tmp_path):
    one = trained_alone(tmp_path / "one")
    other = trained_alone(tmp_path / "other", **{CHECKPOINTING: True})
    for (name, weight), same in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(weight, same, msg=name)
