"""The model beside the trained one: its runs through every door, in studies, resumed, killed, and by two processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from support.doors import one_of_two
from support.doors.checks import assert_exact
from support.doors.setting import DOORS, Training, pretrained, setting_in
from support.doors.through import left_in, make_trainer, train
from support.launching import launch
from support.tiny import quiet
from transformers import TrainerCallback

from benchmarks.run_contents import contents, differing
from dynamics import EntroDrop, WeightAveraging, check_path, open_run, open_study
from dynamics.errors import InputError, TrainingDiverged
from dynamics.recipe.loading import load_recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.records import schema
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.reporting import Reporter
from dynamics.study import run_study
from dynamics.training import recipe_run
from dynamics.training import trainer as trainer_module
from dynamics.training.recording.epoch_recorder import EpochRecorder
from dynamics.validation import validated

WORDS = ("ema", "swa")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return setting_in(tmp_path_factory.mktemp("setting"))


def others():
    """What depends on records, on the order and on the global generators."""
    return [EntroDrop(ratio=0.4, schedule="constant", source="previous_epoch"), HiddenDropout(rate=0.1)]


def methods():
    return [WeightAveraging(decay=0.7), *others(), WeightAveraging(kind="swa", start=0.4)]


def beside(folder):
    return {word: open_run(folder / f"run-{word}") for word in WORDS}


def values(run):
    found = {}
    for split in run.splits:
        records = run.records(split)
        for epoch in run.epochs:
            for name in ("loss", "entropy", "correct", *(["dropped"] if split == "train" and epoch else [])):
                found[split, epoch, name] = getattr(records, name)(epoch)
    return found


def assert_equal_values(one, other):
    mine, theirs = values(one), values(other)
    assert mine.keys() == theirs.keys()
    for key, array in mine.items():
        assert np.array_equal(array, theirs[key], equal_nan=array.dtype != np.bool_), key


def steps(run):
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in run.metrics()]


class Path64(TrainerCallback):
    """The weights after each step, in float64."""

    def __init__(self):
        self.weights = []

    def note(self, model):
        self.weights.append({name: weight.detach().double().clone() for name, weight in model.named_parameters()})

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.note(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.note(model)


def test_recorded_values_are_those_of_a_mean_replayed_in_float64(setting, tmp_path):
    training = Training(epochs=3, methods=methods)
    trainer = make_trainer("DynamicsTrainer", setting, tmp_path, training)
    path = Path64()
    trainer.add_callback(path)
    trainer.train()
    assert len(path.weights) == 10  # three steps a pass
    for epoch in (1, 2, 3):
        done = path.weights[: 3 * epoch + 1]
        ema = dict(done[0])
        for t, weights in enumerate(done[1:], start=1):
            d = min(0.7, (1 + t) / (10 + t))
            ema = {name: d * ema[name] + (1 - d) * weights[name] for name in ema}
        # Steps 5 to 9 of 9 are those with 4/9, 5/9, ... of training behind them.
        chosen = done[5:] or [done[-1]]
        swa = {name: torch.stack([weights[name] for weights in chosen]).mean(0) for name in ema}
        for word, mean in (("ema", ema), ("swa", swa)):
            model = setting.fresh().double()
            model.load_state_dict(mean, strict=False)
            run = open_run(tmp_path / f"run-{word}")
            for split, data in (("train", setting.train), ("validation", setting.validation)):
                assert_plain(run.records(split), model, data, epoch)


def assert_plain(records, model, data, epoch):
    model.eval()
    for row, example in enumerate(data):
        ids = torch.tensor(example["input_ids"])
        with torch.no_grad():
            log_p = model(ids[None]).logits[0].log_softmax(-1)
        at = torch.tensor([i for i, label in enumerate(example["labels"]) if label != -100 and i])
        loss, entropy = -log_p[at - 1, ids[at]], -(log_p.exp() * log_p).sum(-1)[at - 1]
        np.testing.assert_allclose(records.loss(epoch)[row][at], loss, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(records.entropy(epoch)[row][at], entropy, rtol=2e-5, atol=2e-5)
        assert np.array_equal(records.correct(epoch)[row][at], log_p[at - 1].argmax(-1) == ids[at])


@pytest.mark.parametrize("door", DOORS)
def test_the_trained_model_is_that_of_a_training_without(door, setting, tmp_path):
    training = Training(methods=others)
    torch.manual_seed(0)
    without = train(door, setting, tmp_path / "without", training)
    torch.manual_seed(0)
    found = train(door, setting, tmp_path / "with", replace(training, methods=methods))
    for (name, weight), same in zip(found.model.state_dict().items(), without.model.state_dict().values(), strict=True):
        assert torch.equal(weight, same), name
    assert_equal_values(found.run, without.run)
    assert steps(found.run) == steps(without.run)
    for name in ("train", "validation"):
        file = schema.tokens_file(name)
        assert schema.sha256_file(found.run.path / file) == schema.sha256_file(without.run.path / file)
    for word, run in beside(tmp_path / "with").items():
        assert run.complete and run.epochs == found.run.epochs == [0, 1, 2] and run.name == f"{found.run.name}+{word}"
        (report,) = check_path(run.path)
        assert report.ok and not report.notes
        told = run.manifest["averaged"]
        assert told["kind"] == word and told["run"] == found.run.name and told["path"] == "../run"
        assert ("decay" in told) == (word == "ema") and run.config["averaged"]["kind"] == word
        assert run.manifest["config_hash"] != found.run.manifest["config_hash"]
        for key in ("total_steps", "steps_per_epoch", "curriculum", "tokens", "seeds", "precision"):
            assert run.manifest[key] == found.run.manifest[key], key
        assert steps(run) == steps(found.run)
        for split in run.splits:
            mine, theirs = run.records(split), found.run.records(split)
            assert np.array_equal(mine.loss(0), theirs.loss(0), equal_nan=True)  # the starting model's
            assert np.array_equal(mine.reference_loss, theirs.reference_loss, equal_nan=True)
            assert not np.array_equal(mine.loss(2), theirs.loss(2), equal_nan=True)
        assert np.array_equal(run.records("train").dropped(2), found.run.records("train").dropped(2))


# Where the training is saved, and in which step it is interrupted: three steps are a pass.
@pytest.mark.parametrize(("save_at", "stop_at"), [(3, 5), (4, 5), (8, 9)])
@pytest.mark.parametrize("door", DOORS)
def test_a_resumed_training_is_as_if_never_interrupted(door, save_at, stop_at, setting, tmp_path):
    if door == "recipe" and save_at != 3:
        pytest.skip("a recipe saves after each epoch")
    training = Training(epochs=3, methods=methods, save_at=save_at)
    torch.manual_seed(0)
    whole = train(door, setting, tmp_path / "whole", training)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(door, setting, tmp_path / "broken", replace(training, stop_at=stop_at))
    assert not any(run.complete for run in beside(tmp_path / "broken").values())
    torch.manual_seed(1)
    resumed = train(door, setting, tmp_path / "broken", replace(training, resume=True))
    assert_equal_values(whole.run, resumed.run)
    theirs = beside(tmp_path / "whole")
    for word, run in beside(tmp_path / "broken").items():
        assert run.complete and check_path(run.path)[0].ok and "resumed" not in run.manifest
        assert_equal_values(theirs[word], run)
        assert steps(run) == steps(theirs[word])


def test_a_recipe_saves_the_averaged_model(setting, tmp_path):
    training = Training(methods=methods)
    trained = train("recipe", setting, tmp_path, training)
    for run in beside(tmp_path).values():
        assert differing(contents(run.path / "model"), contents(trained.run.path / "model")) == ["model.safetensors"]
        model = pretrained(run.path / "model")
        for split, data in (("train", setting.train), ("validation", setting.validation)):
            assert_plain(run.records(split), model, data, 2)
        names = {path.relative_to(run.path).parts[0] for path in run.path.rglob("*")}
        assert names == {"config.yaml", "manifest.json", "metrics.jsonl", "tokens", "epochs", "model"}


@pytest.mark.parametrize("door", ["DynamicsTrainer", "plain loop"])
def test_a_training_that_ends_within_an_epoch(door, setting, tmp_path):
    found = train(door, setting, tmp_path, Training(steps=5, methods=methods))
    for run in beside(tmp_path).values():
        assert run.complete and run.epochs == [0, 1, 2] and check_path(run.path)[0].ok
        assert run.partial_epochs == found.run.partial_epochs and list(run.partial_epochs) == [2]


def test_a_model_in_bfloat16(setting, tmp_path):
    training = Training(methods=methods, wrap=lambda model: model.bfloat16())
    found = train("DynamicsTrainer", setting, tmp_path, training)
    assert {weight.dtype for weight in found.model.parameters()} == {torch.bfloat16}
    for run in beside(tmp_path).values():
        assert run.manifest["precision"] == "bfloat16" and run.complete
        assert np.array_equal(
            run.records("validation").loss(0), found.run.records("validation").loss(0), equal_nan=True
        )


@pytest.mark.parametrize("word", [*WORDS, None])
def test_a_place_that_is_taken_is_refused_before_anything_is_written(word, setting, tmp_path):
    taken = tmp_path / ("run" if word is None else f"run-{word}")
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    for door in ("recipe", "DynamicsTrainer", "plain loop"):
        if word is None and door != "recipe":
            continue  # a second training with the same recorder goes elsewhere
        with pytest.raises(InputError, match=f"{taken.name}.* is not empty"):
            train(door, setting, tmp_path, Training(methods=methods))
        written = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
        assert written == ["notes.txt"], door


def test_a_trainer_without_the_run_beside_or_with_another_is_refused(setting, tmp_path):
    training = Training(epochs=3, methods=methods, save_at=4)
    with pytest.raises(KeyboardInterrupt):
        train("attach", setting, tmp_path, replace(training, stop_at=5))
    go_on = replace(training, resume=True)
    shutil.copytree(tmp_path / "run-swa", tmp_path / "kept")
    shutil.rmtree(tmp_path / "run-swa")
    with pytest.raises(InputError, match="run-swa, where the averaged model is recorded, holds no run"):
        train("attach", setting, tmp_path, go_on)
    shutil.copytree(tmp_path / "run-ema", tmp_path / "run-swa")
    with pytest.raises(InputError, match="run-swa, .* holds a run that differs in averaged"):
        train("attach", setting, tmp_path, go_on)
    shutil.rmtree(tmp_path / "run-swa")
    shutil.copytree(tmp_path / "kept", tmp_path / "run-swa")
    shutil.rmtree(tmp_path / "run-swa" / schema.epoch_folder(1))
    with pytest.raises(InputError, match="run-swa, .* has no epoch 1, after which training resumes"):
        train("attach", setting, tmp_path, go_on)
    shutil.rmtree(tmp_path / "run-swa")
    shutil.copytree(tmp_path / "kept", tmp_path / "run-swa")
    (tmp_path / "out" / "checkpoint-4" / "dynamics-WeightAveraging-swa.safetensors").unlink()
    with pytest.raises(InputError, match="dynamics-WeightAveraging-swa.safetensors, .* cannot be read"):
        train("attach", setting, tmp_path, go_on)


def test_a_checkpoints_mean_of_another_step_is_refused(setting, tmp_path):
    training = Training(epochs=3, methods=methods, save_at=4)
    with pytest.raises(KeyboardInterrupt):
        train("DynamicsTrainer", setting, tmp_path, replace(training, stop_at=5))
    name = "dynamics-WeightAveraging-ema.safetensors"
    held = load_file(tmp_path / "out" / "checkpoint-4" / name)
    assert len(held) == len(list(setting.fresh().parameters()))
    assert all(mean.dtype == torch.float32 for mean in held.values())
    shutil.copy(tmp_path / "out" / "checkpoint-3" / name, tmp_path / "out" / "checkpoint-4" / name)
    with pytest.raises(InputError, match="belongs to step 3, but its checkpoint to step 4"):
        train("DynamicsTrainer", setting, tmp_path, replace(training, resume=True))


def test_a_checkpoint_without_a_mean_is_refused(setting, tmp_path):
    """Nothing is recorded here, so that no config tells that the method is new."""
    trainer = make_trainer("DynamicsTrainer", setting, tmp_path, Training(epochs=2, save_at=3))
    trainer.train()
    later = make_trainer("DynamicsTrainer", setting, tmp_path / "later", Training(epochs=2, methods=methods))
    folder = tmp_path / "out" / "checkpoint-3"
    facts = json.loads((folder / "dynamics.json").read_text())
    with pytest.raises(InputError, match="WeightAveraging: the checkpoint was written without this method"):
        later.loop.methods.attach(later.model)
        later.loop.methods.load_state(facts["methods"], {})


KILLS = {
    "before the first run's epoch": lambda run, moment: run.name == "run" and moment == 2,
    "between the two": lambda run, moment: run.name == "run-ema" and moment == 2,
    "between the others": lambda run, moment: run.name == "run-swa" and moment == 2,
    "before anything of them": lambda run, moment: run.name == "run-ema" and moment == 0,
}


def killed(recipe, folder, where):
    """Train in a fork that kills itself right before it records an epoch."""
    child = os.fork()
    if child == 0:
        record = EpochRecorder.record

        def last(self, model, moment, **seen):
            if where(self._run_dir, moment.epoch):
                os.kill(os.getpid(), signal.SIGKILL)
            return record(self, model, moment, **seen)

        EpochRecorder.record = last
        try:
            recipe_run.train(recipe, folder, resume=True, reporter=quiet())
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    recipe_run.train(recipe_of(setting), folder, reporter=quiet())
    return folder


def recipe_of(setting, **training):
    regularizers = [method.settings.model_dump(mode="json") for method in methods()]
    fields = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True}
    return setting.recipe({**fields, **training}, regularizers, tuning={"fraction": 0.2})


def all_contents(run):
    return {word: contents(run if word == "" else run.with_name(f"{run.name}-{word}")) for word in ("", *WORDS)}


def assert_all_the_same(one, other):
    mine, theirs = all_contents(one), all_contents(other)
    assert {word: differing(mine[word], theirs[word]) for word in mine} == {"": [], "ema": [], "swa": []}


@pytest.mark.parametrize("where", KILLS)
def test_a_killed_recipe_goes_on_in_the_same_bits(where, setting, whole, tmp_path):
    recipe, folder = recipe_of(setting), tmp_path / "run"
    killed(recipe, folder, KILLS[where])
    recipe_run.train(recipe, folder, resume=True, reporter=quiet())
    assert_all_the_same(folder, whole)


def test_runs_that_began_before_a_key_was_there_go_on(setting, tmp_path):
    """Their configs say nothing of what later versions added, with its default; the averaged run's is no recipe."""
    recipe, folder = recipe_of(setting), tmp_path / "run"
    killed(recipe, folder, KILLS["between the two"])
    for place in (folder, *(folder.with_name(f"run-{word}") for word in WORDS)):
        config = yaml.safe_load((place / "config.yaml").read_text())
        del config["on_divergence"]
        (place / "config.yaml").write_text(yaml.safe_dump(config))
    recipe_run.train(recipe, folder, resume=True, reporter=quiet())
    assert open_run(folder).complete and all(open_run(folder.with_name(f"run-{word}")).complete for word in WORDS)
    assert open_run(folder).epochs == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", ["epoch", "run", "checkpoint"])
def test_what_was_lost_of_the_run_beside_is_recorded_again(damage, setting, whole, tmp_path):
    recipe, folder = recipe_of(setting), tmp_path / "run"
    killed(recipe, folder, KILLS["between the two"])
    if damage == "epoch":
        shutil.rmtree(tmp_path / "run-swa" / schema.epoch_folder(1))
    elif damage == "run":
        shutil.rmtree(tmp_path / "run-ema")
    else:
        (file,) = (folder / schema.CHECKPOINTS_FOLDER).rglob("dynamics-WeightAveraging-ema.safetensors")
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    said = io.StringIO()
    recipe_run.train(recipe, folder, resume=True, reporter=Reporter(Console(file=said, width=500)))
    expected = {
        "epoch": "run-swa: checkpoint-3 is skipped: epoch 1, which comes before it, is damaged or missing",
        "run": "run-ema: checkpoint-3 is skipped: epoch 0, which comes before it, is damaged or missing",
        "checkpoint": "checkpoint-3 is skipped: dynamics-WeightAveraging-ema.safetensors was changed",
    }
    assert expected[damage] in said.getvalue()
    assert "it starts from its first epoch" in said.getvalue()
    assert_all_the_same(folder, whole)


def test_tuning_is_measured_of_the_averaged_model_too(whole):
    def tuning(folder):
        return [row["tuning_loss"] for row in open_run(folder).metrics() if "tuning_loss" in row]

    mine, theirs = tuning(whole.with_name("run-ema")), tuning(whole)
    assert len(mine) == len(theirs) == 4 and mine[0] == theirs[0]
    assert all(one != other for one, other in zip(mine[1:], theirs[1:], strict=True))


def test_a_study_has_an_arm_for_the_averaged_model(setting, tmp_path):
    recipe = setting.recipe({"num_train_epochs": 2, "per_device_train_batch_size": 4, "use_cpu": True})
    fields = recipe.model_dump(exclude={"seed"})
    ema, swa = ({"name": "weight_averaging", "kind": kind} for kind in WORDS)
    drop = {"name": "entrodrop", "ratio": 0.4}
    arms = {"baseline": {"regularizers": [ema, swa]}, "entrodrop": {"regularizers": [drop, ema]}, "plain": {}}
    study_recipe = validated(StudyRecipe, {**fields, "arms": arms, "seeds": [0, 1]}, where="study")
    run_study(study_recipe, tmp_path / "study", reporter=quiet())
    study = open_study(tmp_path / "study")
    assert study.arms == ["baseline", "baseline+ema", "baseline+swa", "entrodrop", "entrodrop+ema", "plain"]
    assert len(study.runs) == 12 and all(run.complete for run in study.runs.values())
    run = study.run("entrodrop+ema", 1)
    assert run.path == tmp_path / "study" / "runs" / "entrodrop+ema" / "seed-1"
    assert run.manifest["averaged"]["path"] == "../../entrodrop/seed-1"
    for report in check_path(tmp_path / "study"):
        assert report.ok and not report.notes
    # A folder of the user's is no arm.
    (tmp_path / "study" / "runs" / "baseline+notes").mkdir()
    assert open_study(tmp_path / "study").arms == study.arms
    # Again: nothing is left to do, and nothing is written.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "runs").rglob("*") if path.is_file()}
    run_study(study_recipe, tmp_path / "study", reporter=quiet())
    assert before == {path: path.stat().st_mtime_ns for path in before}
    # Its config stands for no recipe: nobody trains an averaged model.
    with pytest.raises(InputError, match="averaged"):
        load_recipe(run.path / "config.yaml")


def test_two_processes_keep_the_same_mean(setting, tmp_path, monkeypatch):
    one_of_two.write(setting, tmp_path / "setting.json")
    for door in DOORS:
        (tmp_path / door).mkdir()
    script = tmp_path / "averaged.py"
    script.write_text(PROCESSES.format(tests=str(Path(one_of_two.__file__).parents[2]), file=one_of_two.__file__))
    launch(tmp_path, [str(script), str(tmp_path / "setting.json"), str(tmp_path)])
    alone = train("DynamicsTrainer", setting, tmp_path / "alone", Training(methods=methods_of_two))
    for door in DOORS:
        assert_exact(left_in(door, setting, tmp_path / door, replace(one_of_two.training(), methods=methods_of_two)))
        for word, run in beside(tmp_path / door).items():
            assert run.complete and check_path(run.path)[0].ok and run.manifest["hardware"]["processes"] == 2
            if door != "DynamicsTrainer":
                continue
            theirs = beside(tmp_path / "alone")[word]
            for epoch in (0, 1, 2):
                one, other = (each.records("validation").loss(epoch) for each in (run, theirs))
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
    assert alone.run.complete


def methods_of_two():
    return [WeightAveraging(decay=0.7), WeightAveraging(kind="swa", start=0.4)]


PROCESSES = """
import sys
from dataclasses import replace
sys.path.insert(0, {tests!r})
from support.doors import one_of_two
from dynamics import WeightAveraging

own = one_of_two.training
methods = lambda: [WeightAveraging(decay=0.7), WeightAveraging(kind="swa", start=0.4)]
one_of_two.training = lambda: replace(own(), methods=methods)
one_of_two.main(*sys.argv[1:])
"""


def test_runs_beside_one_that_diverged_say_so_until_they_go_on(setting, whole, tmp_path, monkeypatch):
    recipe, folder = recipe_of(setting), tmp_path / "run"
    steps = open_run(whole).manifest["steps_per_epoch"]
    compute = trainer_module.batch_loss

    def diverging(*args, loop, **options):
        outputs, total, values = compute(*args, loop=loop, **options)
        # In the second epoch; the weights stay as they are, so that training can go on.
        at = loop.step == steps + 1 and total.requires_grad
        return outputs, (total.detach() * float("nan") + 0 * total.nan_to_num() if at else total), values

    monkeypatch.setattr(trainer_module, "batch_loss", diverging)
    with pytest.raises(TrainingDiverged):
        recipe_run.train(recipe, folder, reporter=quiet())
    runs = [folder, *(folder.with_name(f"{folder.name}-{word}") for word in WORDS)]
    assert [open_run(run).manifest["diverged"] for run in runs] == [{"step": steps + 2}] * 3
    monkeypatch.undo()
    recipe_run.train(recipe, folder, resume=True, reporter=quiet())
    assert all(open_run(run).complete and "diverged" not in open_run(run).manifest for run in runs)
