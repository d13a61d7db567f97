"""A recipe, and the two trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from dynamics import DynamicsTrainer, TokenRecorder, attach
from dynamics.records.reader import open_run
from dynamics.training import recipe_run
from support.doors.own_loop import loader, train_plain
from support.doors.setting import Setting, Trained, Training, pretrained
from support.models import Padder
from support.tiny import quiet


def train(door: str, setting: Setting, folder: Path, training: Training) -> Trained:
    """Train through a door, with a recorder in ``folder/run``, and keep the weights after each epoch."""
    if door == "recipe":
        model = bare(_recipe(setting, folder, training))
    elif door == "plain loop":
        model = train_plain(setting, folder, training)
    else:
        trainer = make_trainer(door, setting, folder, training)
        checkpoint = folder / "out" / f"checkpoint-{training.save_at}"
        trainer.train(resume_from_checkpoint=str(checkpoint) if training.resume else None)
        model = finish(trainer, folder)
    return left_in(door, setting, folder, training, model)


def left_in(
    door: str, setting: Setting, folder: Path, training: Training, model: torch.nn.Module | None = None
) -> Trained:
    """What a training left in its folder."""
    run, load = open_run(folder / "run"), training.load or pretrained
    if door == "recipe":
        # Its checkpoints go when it is done.
        weights = {run.epochs[-1]: run.path / "model"}
    elif door == "plain loop":
        weights = {int(file.stem.split("-")[1]): file for file in folder.glob("weights-*.pt")}
        load = loader(setting, training)
    else:
        steps = {run.step(epoch): epoch for epoch in run.epochs}
        saved = {int(path.name.split("-")[1]): path for path in (folder / "out").glob("checkpoint-*")}
        weights = {steps[step]: path for step, path in saved.items() if step in steps}
        if run.epochs[-1] not in weights:
            weights[run.epochs[-1]] = folder / "last"
    if training.wrap is None and door != "plain loop":
        weights[0] = setting.model
    return Trained(
        run=run,
        model=model,
        weights=weights,
        load=load,
        train=setting.train,
        validation=setting.validation,
        training=training,
    )


class Stops(TrainerCallback):
    """Somebody interrupts a training within a step, when its gradients are there."""

    def __init__(self, step: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self._step = step
        self._error = error

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step - 1:
            raise self._error


# A recipe. ---------------------------------------------------------------------------------------


def recipe_fields(training: Training) -> dict[str, Any]:
    """The `training:` part that says the same."""
    fields = {
        "num_train_epochs": training.epochs,
        "max_steps": training.steps,
        "per_device_train_batch_size": training.batch,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": training.rate,
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


def _recipe(setting: Setting, folder: Path, training: Training) -> Any:
    methods = [method.settings.model_dump(mode="json") for method in training.methods()]
    recording = {"dtype": "float32", "training_pass": training.training_pass}
    recipe = setting.recipe(recipe_fields(training), methods, seed=training.seed, recording=recording)
    made: list[Any] = []
    own = recipe_run.trainer_of

    def trainer_of(*parts: Any) -> Any:
        made.append(own(*parts))
        if training.stop_at is not None:
            made[-1].add_callback(Stops(training.stop_at))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_run, "trainer_of", trainer_of)
        recipe_run.train(recipe, folder / "run", resume=training.resume, reporter=quiet())
    return made[0]


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
        "learning_rate": training.rate,
        "seed": training.seed,
        "bf16": training.bf16,
        "dataloader_drop_last": training.drop_last,
        "torch_compile": training.compiled,
        "label_smoothing_factor": training.smoothing,
        "report_to": "none",
        "save_strategy": "epoch",
        "save_only_model": training.save_at is None,
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    if training.save_at is not None:
        fields |= {"save_strategy": "steps", "save_steps": 1}
    if training.steps is not None:
        fields["max_steps"] = training.steps
    if training.grouped:
        fields["train_sampling_strategy"] = "group_by_length"
    if training.sgd:
        fields |= {"optim": "sgd", "max_grad_norm": 0.0}
    if training.compiled:
        fields["torch_compile_backend"] = "aot_eager"
    return TrainingArguments(**{**fields, **training.arguments})


def make_trainer(door: str, setting: Setting, folder: Path, training: Training, **more: Any) -> Any:
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
        trainer = DynamicsTrainer(**common, regularizers=training.methods(), recorder=recorder)
    else:
        trainer = Trainer(**common)
        attach(trainer, recorder, *training.methods())
    if training.stop_at is not None:
        trainer.add_callback(Stops(training.stop_at))
    return trainer


def finish(trainer: Any, folder: Path) -> torch.nn.Module:
    """Save the last weights, where the last step is no end of an epoch; return the model."""
    trainer.save_model(str(folder / "last"))
    return bare(trainer)


def finished(door: str, trainer: Any, setting: Setting, folder: Path, training: Training) -> Trained:
    """What a trainer of one's own that saved each epoch left."""
    return left_in(door, setting, folder, training, finish(trainer, folder))
