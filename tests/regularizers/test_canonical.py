"""One table of canonical settings, through which every method, and every reading of EntroDrop, gets the same tests.

The pure functions have their hand-worked examples in the tests of their own files.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.canonical import CANONICAL, method_of
from support.models import Padder, build, examples
from transformers import TrainingArguments

from dynamics import DynamicsTrainer, TokenRecorder, open_run
from dynamics.errors import InputError
from dynamics.regularizers.registry import METHODS

# What draws from torch's generator in every forward pass, rather than by key.
DRAWING = {"hidden_dropout", "attention_dropout", "neftune"}
# What goes by the rows that come together, and says so.
BY_MICRO_BATCH = {"entrodrop-batch"}


def trainer_of(path, settings, *, record=False, model=None, methods=None, **changes):
    """A trainer of 3 epochs of 2 steps, on 12 examples of different lengths."""
    fields = {
        "output_dir": str(path / "out"),
        "num_train_epochs": 3,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    if methods is None:
        methods = [] if settings is None else method_of(settings)
    needs_records = any(method.needs_epoch_values for method in methods)
    return DynamicsTrainer(
        model=build(attn_implementation="eager") if model is None else model,
        args=TrainingArguments(**{**fields, **changes}),
        train_dataset=examples(12, prompt=2),
        data_collator=Padder(),
        regularizers=methods,
        recorder=TokenRecorder(path / "run", dtype="float32") if record or needs_records else None,
    )


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def means(trainer):
    """The weights of the models that methods keep beside the trained one."""
    found = []
    for method in trainer.loop.methods.all:
        with method.averaged():
            found += [weights(trainer)] if method.beside else []
    return found


def same(one, other):
    return all(torch.equal(p, other[name]) for name, p in one.items())


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    trainer = trainer_of(tmp_path_factory.mktemp("baseline"), None)
    trainer.train()
    return weights(trainer)


def test_every_method_has_canonical_settings():
    assert {settings["name"] for settings in CANONICAL.values()} == set(METHODS)


@pytest.mark.parametrize("name", CANONICAL)
def test_acts_and_is_off_in_evaluation(tmp_path, name, baseline):
    model = build(attn_implementation="eager")
    inputs = Padder()(examples(4, seed=3))
    del inputs["labels"]
    names = list(model.state_dict())
    with torch.no_grad():
        clean = model.eval()(**inputs).logits
    seen = []

    trainer = trainer_of(tmp_path, CANONICAL[name], model=model, learning_rate=0.0, num_train_epochs=1)
    methods = trainer.loop.methods.all
    end_batch = trainer.loop.end_batch

    def look(*args, **kwargs):
        # In the middle of a step, hooks armed: evaluation and generation are what they were.
        end_batch(*args, **kwargs)
        for method in methods:
            method.end_batch()
        with torch.no_grad():
            model.eval()
            seen.append(torch.equal(model(**inputs).logits, clean))
            model.train()

    trainer.loop.end_batch = look
    trainer.train()
    if CANONICAL[name]["name"] != "weight_decay":
        assert seen and all(seen)
    assert list(model.state_dict()) == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    trained = trainer_of(tmp_path / "again", CANONICAL[name])
    trained.train()
    # A model beside the trained one changes nothing of it, and is another one itself.
    assert same(weights(trained), baseline) == bool(means(trained))
    assert not any(same(mean, baseline) for mean in means(trained))


@pytest.mark.parametrize("name", CANONICAL)
def test_combines_with_weight_decay(tmp_path, name):
    """EntroDrop with weight decay is the first combination that people try; the others get the same test."""
    decay = method_of({"name": "weight_decay", "value": 1.0})
    decays = CANONICAL[name]["name"] == "weight_decay"
    alone = trainer_of(tmp_path / "alone", CANONICAL[name])
    both = trainer_of(tmp_path / "both", None, methods=[*method_of(CANONICAL[name]), *([] if decays else decay)])
    alone.train()
    both.train()
    if decays:
        assert same(weights(alone), weights(both))
        return
    assert not same(weights(alone), weights(both))
    assert not any(same(one, other) for one, other in zip(means(alone), means(both), strict=True))
    # Decay alone would shrink the same weights towards 0: the sum of squares falls.
    squares = [sum(float((p**2).sum()) for p in weights(one).values()) for one in (both, alone)]
    assert squares[0] < squares[1]


@pytest.mark.parametrize("name", CANONICAL)
def test_resumes_at_an_epoch_in_the_same_bits(tmp_path, name):
    whole = trainer_of(tmp_path, CANONICAL[name], save_strategy="epoch")
    whole.train()
    resumed = trainer_of(tmp_path, CANONICAL[name])
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert same(weights(whole), weights(resumed))
    assert all(same(one, other) for one, other in zip(means(whole), means(resumed), strict=True))


@pytest.mark.parametrize("name", [name for name in CANONICAL if name not in BY_MICRO_BATCH])
def test_is_invariant_to_batch_size_times_accumulation(tmp_path, name, monkeypatch):
    settings, model = CANONICAL[name], build(attn_implementation="eager")
    if settings["name"] in DRAWING:
        # These draw anew for every micro-batch, so what is left to compare is all but the draw.
        monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p=0.5, training=True, inplace=False: x * (1 - p))
        monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(high / 2))
    found = []
    for size, accumulation in ((6, 1), (2, 3), (1, 6)):
        trainer = trainer_of(
            tmp_path / str(size),
            settings,
            record=True,
            model=copy.deepcopy(model),
            optim="sgd",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.data_collator = FixedPadder()  # NEFTune's noise depends on the length of a row
        trainer.train()
        run = open_run(tmp_path / str(size) / "run")
        found.append(
            (weights(trainer), run.records("train").dropped(3), [row["training_loss"] for row in run.metrics()])
        )
    for other, mask, losses in found[1:]:
        assert np.array_equal(mask, found[0][1])
        assert losses == pytest.approx(found[0][2], rel=1e-4)
        for key, weight in other.items():
            torch.testing.assert_close(weight, found[0][0][key], rtol=2e-4, atol=2e-5, msg=f"{name} {key}")


class FixedPadder(Padder):
    """Pads every batch to 14 tokens."""

    def __call__(self, batch):
        long = {"input_ids": [3] * 14, "labels": [-100] * 14}
        return {key: value[:-1] for key, value in super().__call__([*batch, long]).items()}


CONFLICTS = [
    (["entrodrop", "random_token_dropout"], "entrodrop and random_token_dropout"),
    (["entrodrop", "entrodrop"], "entrodrop stands there twice"),
    (["entrodrop-both-kept", "goldfish_loss-static"], "entrodrop divides .* and goldfish_loss"),
]


@pytest.mark.parametrize(("names", "message"), CONFLICTS)
def test_conflicts_name_both(tmp_path, names, message):
    methods = [method for name in names for method in method_of(CANONICAL[name])]
    with pytest.raises(InputError, match=message):
        trainer_of(tmp_path, None, methods=methods)
