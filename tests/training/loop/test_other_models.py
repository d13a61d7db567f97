"""Another model than the one that is trained as the source of what ranks tokens: measured once, and known again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from support.batches import training_data
from support.models import N_VOCAB, Padder, build, examples
from support.tiny import quiet, run_tiny, tiny_recipe
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from dynamics import DynamicsTrainer, EntroDrop, LoopRecorder, SelectiveLoss, TokenRecorder, attach, open_run
from dynamics.errors import InputError
from dynamics.regularizers.pools import lowest_share
from dynamics.training.loop import other_models
from dynamics.training.recipe_run import train

DROP = {"ratio": 0.4, "pool": 0.4, "schedule": "constant"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model of the same vocabulary with other weights, in a folder."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(3)
    model = build("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))


def entropies(folder, rows):
    """Of each token under a model, in float64, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for row in rows:
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        found.append([np.nan, *(-(logp.exp() * logp).sum(-1)).tolist()[:-1]])
    return found


def expected_mask(folder, run, rows):
    train = run.records("train")
    values = np.full(train.predicted.shape, np.nan)
    for at, row in enumerate(entropies(folder, rows)):
        values[at, : len(row)] = row
    values[~train.predicted] = np.nan
    return lowest_share(values, train.predicted, 0.4)


def arguments(path, **changes):
    fields = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no"}
    plain = {"use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", "dataloader_pin_memory": False}
    return TrainingArguments(output_dir=str(path / "out"), **{**fields, **plain, **changes})


@pytest.mark.parametrize("door", ["trainer", "attach", "loop"])
def test_tokens_are_ranked_by_the_other_model_at_every_door(tmp_path, teacher, door):
    rows, method, recorder = examples(12), EntroDrop(source={"model": str(teacher)}, **DROP), None
    recorder = TokenRecorder(tmp_path / "run")
    model = build()
    if door == "loop":
        loader = DataLoader(rows, batch_size=4, collate_fn=Padder())
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        with LoopRecorder(recorder, method) as loop:
            loop.begin(model, train=loader, total_steps=3)
            for given in loader:
                with loop.batch(given) as batch:
                    model(**batch).loss.backward()
                optimizer.step()
                loop.step()
            loop.epoch()
            loop.finish()
    elif door == "trainer":
        DynamicsTrainer(
            model, arguments(tmp_path), Padder(), train_dataset=rows, regularizers=[method], recorder=recorder
        ).train()
    else:
        trainer = Trainer(model, arguments(tmp_path), Padder(), train_dataset=rows)
        attach(trainer, recorder, method)
        trainer.train()
    run = open_run(tmp_path / "run")
    assert np.array_equal(run.records("train").dropped(1), expected_mask(teacher, run, rows))
    own = EntroDrop(**DROP)
    own.prepare(replace(training_data(), predicted=run.records("train").predicted, **references(run)))
    assert not np.array_equal(own._table._values, expected_mask(teacher, run, rows))
    assert run.config["regularizers"][0]["source"] == {"model": str(teacher), "trust_remote_code": False}


def references(run):
    train = run.records("train")
    return {"reference_loss": train.reference_loss, "reference_entropy": train.reference_entropy}


def test_global_generators_are_left_alone_and_values_are_measured_once(tmp_path, teacher, monkeypatch):
    measured = []
    measure = other_models.evaluate_tokens
    monkeypatch.setattr(other_models, "evaluate_tokens", lambda *a, **k: measured.append(1) or measure(*a, **k))
    weights = []
    for at in range(2):
        torch.manual_seed(0)
        state = torch.random.get_rng_state()
        trainer = DynamicsTrainer(
            build(),
            arguments(tmp_path / str(at)),
            Padder(),
            train_dataset=examples(12),
            regularizers=[EntroDrop(source={"model": str(teacher)}, **DROP)],
        )
        del state
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert measured == [1]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())


def test_selective_loss_takes_the_other_models_losses(tmp_path, teacher):
    method = SelectiveLoss(source={"model": str(teacher)}, share=0.5)
    trainer = DynamicsTrainer(build(), arguments(tmp_path), Padder(), train_dataset=examples(12), regularizers=[method])
    trainer.train()
    found = method._table._values
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float64).eval()
    for row, values in zip(examples(12), found, strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
        known = ~np.isnan(values[1 : ids.shape[1]])
        np.testing.assert_allclose(values[1 : ids.shape[1]][known], loss.numpy()[known], rtol=1e-4)
        assert known.any()


# In recipes.


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run, whose model is another one's source."""
    return run_tiny(tmp_path_factory.mktemp("first") / "run")


def test_a_recipe_takes_a_finished_runs_model_and_goes_on_from_where_it_was(tmp_path, first):
    source = {"model": str(first.path / "model")}
    method = {"name": "entrodrop", "source": source, **DROP}
    run = run_tiny(tmp_path / "run", regularizers=[method], recording={})
    train_set = run.records("train")
    # The values that the first run recorded at its end are those of its model, in float16.
    recorded = first.records("train")
    known = np.isin(train_set.sequence_id, recorded.sequence_id)
    dropped = train_set.dropped(1)
    assert np.array_equal(dropped, train_set.dropped(2))
    assert dropped.sum() == round(0.4 * train_set.predicted.sum())
    inside = recorded.entropy(2)[dropped[known]]
    outside = recorded.entropy(2)[(train_set.predicted & ~dropped)[known]]
    assert inside.max() <= outside.min() + 0.01
    again = yaml.safe_load((run.path / "config.yaml").read_text())
    assert again["regularizers"][0]["source"]["model"] == source["model"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "nano",
            "source.model: 'nano' is neither a folder that save_pretrained wrote, nor a hub name of the form owner/model, nor cache:NAME",
        ),
        ("./nowhere", "source.model: './nowhere' is neither a folder"),
        ("", "source.*: must"),
    ],
)
def test_what_is_no_model_is_refused_before_anything_is_written(tmp_path, model, message):
    with pytest.raises(InputError, match=message):
        recipe = tiny_recipe(regularizers=[{"name": "entrodrop", "source": {"model": model}}])
        train(recipe, tmp_path / "run", reporter=quiet())
    assert not (tmp_path / "run").exists()


def test_another_vocabulary_is_refused(tmp_path, first, teacher):
    other = run_tiny(tmp_path / "other", tokenizer={"train": {"vocab_size": 320}}, training={"num_train_epochs": 1})
    with pytest.raises(
        InputError, match=r"has a different vocabulary than the training set: id \d+ is .* there and .* here"
    ):
        run_tiny(
            tmp_path / "run",
            tokenizer={"train": {"vocab_size": 280}},
            corpus={"source": "builtin:python-reference", "documents": 9},
            regularizers=[{"name": "entrodrop", "source": {"model": str(other.path / "model")}}],
        )
    with pytest.raises(InputError, match="has no tokenizer in its folder"):
        run_tiny(tmp_path / "run", regularizers=[{"name": "entrodrop", "source": {"model": str(teacher)}}])
    assert not (tmp_path / "run").exists()


def test_ids_and_positions_that_a_model_has_not_are_refused(tmp_path, teacher):
    def trained(rows):
        method = EntroDrop(source={"model": str(teacher)}, **DROP)
        model = build(vocab_size=80, max_position_embeddings=128)
        DynamicsTrainer(model, arguments(tmp_path), Padder(), train_dataset=rows, regularizers=[method]).train()

    rows = examples(4)
    with pytest.raises(InputError, match=f"has {N_VOCAB} tokens, but the training set has id 77"):
        trained([*rows, {"input_ids": [5, 77, 6], "labels": [-100, 77, 6]}])
    long = [5] * 70
    with pytest.raises(InputError, match="has 64 positions, fewer than the 70"):
        trained([*rows, {"input_ids": long, "labels": [-100, *long[1:]]}])


def test_a_model_that_gives_no_numbers_is_refused(tmp_path):
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    method = EntroDrop(source={"model": str(tmp_path / "broken")}, **DROP)
    trainer = DynamicsTrainer(build(), arguments(tmp_path), Padder(), train_dataset=examples(4), regularizers=[method])
    with pytest.raises(InputError, match="broken' gives NaN for tokens of the training set"):
        trainer.train()


@pytest.mark.parametrize("cls", [EntroDrop, SelectiveLoss])
def test_a_training_that_goes_on_has_the_values_that_it_began_with(cls):
    data = training_data()

    def made(loss):
        method = cls(source={"model": "owner/model"})
        method.prepare(replace(data, values_of={"owner/model": (loss, loss)}))
        return method

    state = json.loads(json.dumps(made(data.reference_loss).state()))
    made(data.reference_loss).load_state(state)
    with pytest.raises(InputError, match="source.model: 'owner/model' gives other values than those"):
        made(data.reference_loss * np.float32(1.0001)).load_state(state)
    assert "values" not in cls().state()
