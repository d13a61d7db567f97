"""A recipe, and the two trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from dynamics import DynamicsTrainer, TokenRecorder, attach
from dynamics.records.reader import open_run
from dynamics.training import recipe_run
from support.doors.own_loop import train_plain
from support.doors.setting import Setting, Trained, Training, pretrained
from support.models import Padder
from support.tiny import quiet


def train(door: str, setting: Setting, folder: Path, training: Training) -> Trained:
    """Train through a door, with a recorder in ``folder/run``, and keep the weights after each epoch."""
    through = {"recipe": _recipe, "plain loop": train_plain}.get(door)
    return through(setting, folder, training) if through else _trainer(door, setting, folder, training)


def recipe_fields(training: Training) -> dict[str, Any]:
    """The `training:` part that says the same."""
    fields = {
        "num_train_epochs": training.epochs,
        "max_steps": training.steps,
        "per_device_train_batch_size": training.batch,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": training.bf16 or None,
        "dataloader_drop_last": training.drop_last or None,
        "train_sampling_strategy": "group_by_length" if training.grouped else None,
        "torch_compile": training.compiled or None,
        "torch_compile_backend": "aot_eager" if training.compiled else None,
        "optim": "sgd" if training.sgd else None,
        "max_grad_norm": 0.0 if training.sgd else None,
        "label_smoothing_factor": training.smoothing or None,
        **training.arguments,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _recipe(setting: Setting, folder: Path, training: Training) -> Trained:
    methods = [method.settings.model_dump(mode="json") for method in training.methods()]
    recording = {"dtype": "float32", "training_pass": training.training_pass}
    recipe = setting.recipe(recipe_fields(training), methods, seed=training.seed, recording=recording)
    with pytest.MonkeyPatch.context() as patch:
        made: list[Any] = []
        own = recipe_run.trainer_of
        patch.setattr(recipe_run, "trainer_of", lambda *parts: made.append(own(*parts)) or made[-1])
        recipe_run.train(recipe, folder / "run", resume=training.resume, reporter=quiet())
    run = open_run(folder / "run")
    return Trained(
        run=run,
        model=bare(made[0]),
        # Its checkpoints go when it is done.
        weights={0: setting.model, run.epochs[-1]: run.path / "model"},
        load=pretrained,
        train=setting.train,
        validation=setting.validation,
        training=training,
    )


def bare(trainer: Any) -> torch.nn.Module:
    """A trainer's model without what accelerate puts on it for autocast."""
    model: torch.nn.Module = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return model


# Trainers. ---------------------------------------------------------------------------------------


def arguments(folder: Path, training: Training) -> TrainingArguments:
    """TrainingArguments that say the same."""
    fields = {
        "output_dir": str(folder / "out"),
        "num_train_epochs": training.epochs,
        "per_device_train_batch_size": training.batch,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": 1e-2,
        "seed": training.seed,
        "bf16": training.bf16,
        "dataloader_drop_last": training.drop_last,
        "torch_compile": training.compiled,
        "label_smoothing_factor": training.smoothing,
        "report_to": "none",
        "save_strategy": "epoch",
        "save_only_model": True,
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    if training.steps is not None:
        fields["max_steps"] = training.steps
    if training.grouped:
        fields["train_sampling_strategy"] = "group_by_length"
    if training.sgd:
        fields |= {"optim": "sgd", "max_grad_norm": 0.0}
    if training.compiled:
        fields["torch_compile_backend"] = "aot_eager"
    return TrainingArguments(**{**fields, **training.arguments})


def make_trainer(
    door: str, setting: Setting, folder: Path, training: Training, *, kind: type = Trainer, **more: Any
) -> Any:
    """A trainer behind one of the two doors, recording into ``folder/run``."""
    recorder = TokenRecorder(folder / "run", dtype="float32", training_pass=training.training_pass)
    common = {
        "model": (training.wrap or (lambda model: model))(setting.fresh()),
        "args": arguments(folder, training),
        "train_dataset": (training.rows or list)(setting.train),
        "eval_dataset": setting.validation,
        "data_collator": Padder(),
        **more,
    }
    if door == "DynamicsTrainer":
        return DynamicsTrainer(**common, regularizers=training.methods(), recorder=recorder)
    trainer = kind(**common)
    attach(trainer, recorder, *training.methods())
    return trainer


def _trainer(door: str, setting: Setting, folder: Path, training: Training) -> Trained:
    trainer = make_trainer(door, setting, folder, training)
    trainer.train()
    return finished(trainer, setting, folder, training)


def finished(trainer: Any, setting: Setting, folder: Path, training: Training) -> Trained:
    """What a trainer that saved each epoch left."""
    run = open_run(folder / "run")
    steps = {run.step(epoch): epoch for epoch in run.epochs}
    saved = {int(path.name.split("-")[1]): path for path in (folder / "out").glob("checkpoint-*")}
    weights = {steps[step]: path for step, path in saved.items() if step in steps}
    if training.wrap is None:
        weights[0] = setting.model
    # Where the last step is no end of an epoch, and no best model was put in its place.
    if run.epochs[-1] not in weights:
        trainer.save_model(str(folder / "last"))
        weights[run.epochs[-1]] = folder / "last"
    return Trained(
        run=run,
        model=bare(trainer),
        weights=weights,
        load=training.load or pretrained,
        train=setting.train,
        validation=setting.validation,
        training=training,
        trainer=trainer,
    )
