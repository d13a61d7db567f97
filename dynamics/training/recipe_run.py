"""One run, from a recipe to records: claim the output, prepare, train and record, finish."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from dynamics.errors import InputError, TrainingDiverged
from dynamics.recipe.loading import dump_yaml, resolved
from dynamics.recipe.settings import Recipe
from dynamics.records import schema
from dynamics.records.metrics import append_metrics
from dynamics.records.reader import open_run
from dynamics.records.writer import finished_files, write_tokens
from dynamics.regularizers.base import Regularizer, TrainingData
from dynamics.regularizers.registry import build_regularizers, curricula
from dynamics.reporting import Reporter
from dynamics.training.batches.dataset import SequenceDataset
from dynamics.training.environment.arguments import forward_dtype, training_arguments
from dynamics.training.environment.hardware import hardware, versions
from dynamics.training.environment.interrupts import finishing_steps
from dynamics.training.environment.processes import decided, rank, wait, world_size
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens
from dynamics.training.loop.session import Session, TrainingPass
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.preparation.prepare import Prepared, prepare
from dynamics.training.recording.epoch_recorder import EpochRecorder, choose_sequences
from dynamics.training.resuming.checkpoints import Checkpoints, telling_full_disk
from dynamics.training.resuming.resume_point import discard, finished, restore_threads, resume_point, rewind
from dynamics.training.trainer import DynamicsTrainer


def train(recipe: Recipe, output: Path, *, resume: bool = False, reporter: Reporter) -> None:
    """Run `recipe` into the directory `output`.

    Parameters
    ----------
    recipe : Recipe
    output : Path
        New or empty, unless `resume`.
    resume : bool
        Start a run that is not there, leave a finished one as it is, and go on with one that was interrupted from
        its newest whole checkpoint, as long as recipe, data and starting model are the same.
    reporter : Reporter

    Raises
    ------
    InputError
        For bad input, before anything is written; or if `output` holds another run.
    TrainingDiverged
        The training loss is NaN or infinite, unless the recipe says to go on.
    Interrupted
        A signal asked to stop; what is complete is kept.
    """
    started = time.time()
    # Before anything else, so that the processes of a launcher have met.
    training_arguments(recipe.training, output_dir=output / schema.CHECKPOINTS_FOLDER, seed=recipe.seed)
    if decided(lambda: finished(recipe, output, resume=resume, reporter=reporter)):
        return
    prepared, methods, args = make_ready(recipe, output, reporter)
    config_hash = schema.config_hash(resolved(recipe))
    checkpoints = Checkpoints(output / schema.CHECKPOINTS_FOLDER, config_hash=config_hash)
    point = decided(lambda: resume_point(output, checkpoints, prepared, reporter))
    model = prepared.load_model()
    recorded = {
        split: choose_sequences(
            len(prepared.splits[split].token_id),
            getattr(recipe.recording, f"{split}_sequences"),
            split=split,
        )
        for split in ("train", "validation")
    }
    if point is not None:
        restore_threads(output, reporter)
        started = open_run(output).manifest["timing"]["started"]

    def lay_out() -> dict[str, Any]:
        output.mkdir(parents=True, exist_ok=True)
        if point is not None:
            rewind(output, point, reporter)
            tokens: dict[str, Any] = open_run(output).manifest["tokens"]
            return tokens
        discard(output)
        schema.atomic_write_bytes(output / schema.CONFIG_FILE, dump_yaml(recipe).encode())
        return _write_tokens(output, prepared, recorded)

    tokens = decided(lay_out)
    recorder = EpochRecorder(
        output,
        splits={split: prepared.splits[split] for split in recorded},
        recorded=recorded,
        config_hash=config_hash,
        batch_size=args.per_device_eval_batch_size,
        value_dtype=recipe.recording.dtype,
        forward_dtype=forward_dtype(args),
    )
    train_split = prepared.splits["train"]
    n_sequences = len(train_split.token_id)
    epochs = round(args.num_train_epochs)
    with (
        reporter.progress(n_sequences * (epochs - (point.epoch if point else 0)), "training") as progress,
        finishing_steps() as stops,
    ):
        session = session_of(
            prepared,
            methods,
            metrics=StepMetrics(output / schema.METRICS_FILE),
            on_epoch=_epoch_recorder(recorder, prepared, output, epochs, reporter),
            on_resume=lambda trainer, epoch: recorder.recorded("train", open_run(output).records("train"), epoch),
            on_batch=progress.update,
            training_pass=recipe.recording.training_pass,
            stops=stops,
            on_divergence=_divergence(prepared, checkpoints) if recipe.on_divergence == "stop" else None,
        )
        trainer = DynamicsTrainer(
            model=model,
            args=args,
            train_dataset=SequenceDataset(train_split.token_id, train_split.labels()),
            session=session,
            checkpoints=checkpoints,
        )
        steps = trainer.steps_per_epoch
        manifest: dict[str, Any] = {
            "format_version": schema.FORMAT_VERSION,
            "status": "running",
            "name": recipe.name,
            "config_hash": config_hash,
            "config_sha256": schema.sha256_file(output / schema.CONFIG_FILE),
            "versions": versions(),
            "hardware": {**hardware(), "processes": world_size()},
            "seeds": {"seed": recipe.seed, "base": recipe.base.seed if recipe.base else None},
            **prepared.facts,
            "precision": str(forward_dtype(args)).removeprefix("torch."),
            "tokens": tokens,
            "curriculum": curricula(methods, steps * epochs),
            "steps_per_epoch": steps,
            "total_steps": steps * epochs,
            "timing": {"started": started},
        }
        decided(lambda: schema.write_manifest(output / schema.MANIFEST_FILE, manifest))
        trainer.train(resume_from_checkpoint=None if point is None else str(point.path))
    # Gathered in all processes, where the model is sharded.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if world_size() > 1 else None
    if rank() != 0:
        wait()
        return
    _save_model(trainer, prepared, output, weights)
    schema.write_manifest(
        output / schema.MANIFEST_FILE,
        {
            **manifest,
            "status": "complete",
            **finished_files(output),
            "timing": {"started": started, "seconds": round(time.time() - started, 3)},
        },
    )
    # Last, so that whatever is interrupted before can go on from them.
    shutil.rmtree(output / schema.CHECKPOINTS_FOLDER, ignore_errors=True)
    wait()


def make_ready(
    recipe: Recipe, output: Path, reporter: Reporter
) -> tuple[Prepared, list[Regularizer], TrainingArguments]:
    """Return all that `recipe` trains with; whatever it gets wrong shows here, and nothing is in `output` yet."""
    prepared = prepare(recipe, reporter)
    methods = build_regularizers(recipe.regularizers)
    args = training_arguments(
        _merged_training(recipe, methods), output_dir=output / schema.CHECKPOINTS_FOLDER, seed=recipe.seed, save=True
    )
    for method in methods:
        method.prepare(_training_data(prepared, recipe.seed))
    return prepared, methods, args


def session_of(prepared: Prepared, methods: list[Regularizer], **options: Any) -> Session:
    """Return the session of a run: its sequences are the rows of the training set; `options` as for Session."""
    session = Session(methods, **options)
    shape = prepared.splits["train"].token_id.shape
    session.open(torch.arange(shape[0]), shape[1])
    return session


def _divergence(prepared: Prepared, checkpoints: Checkpoints) -> Callable[[int, list[int]], None]:
    packed = prepared.splits["train"]

    def stop(step: int, rows: list[int]) -> None:
        documents = np.unique(packed.document_id[rows])
        shown = ", ".join(map(str, documents[documents >= 0][:8])) + (", ..." if (documents >= 0).sum() > 8 else "")
        last = next(checkpoints.latest(), None)
        where = "no checkpoint is whole yet" if last is None else f"the last whole checkpoint is {last.path}"
        raise TrainingDiverged(
            f"step {step}: the training loss is NaN or infinite; its batch held the training documents {shown}; "
            f"{where}. Lower training.learning_rate or set training.max_grad_norm; on_divergence: continue trains on"
        )

    return stop


def _write_tokens(output: Path, prepared: Prepared, recorded: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        split: write_tokens(
            output,
            split,
            prepared.splits[split],
            reference_loss=prepared.reference[split].loss,
            reference_entropy=prepared.reference[split].entropy,
            recorded_sequence_id=rows,
        )
        for split, rows in recorded.items()
    }


def _merged_training(recipe: Recipe, methods: list[Regularizer]) -> dict[str, Any]:
    merged = dict(recipe.training)
    for method in methods:
        for key, value in method.training_arguments().items():
            if key in recipe.training:
                raise InputError(f"training.{key} and {type(method).__name__} both set {key}; keep one of them")
            merged[key] = value
    return merged


def _training_data(prepared: Prepared, seed: int) -> TrainingData:
    return TrainingData(
        token_id=prepared.splits["train"].token_id,
        document_id=prepared.splits["train"].document_id,
        predicted=prepared.splits["train"].predicted,
        reference_loss=prepared.reference["train"].loss,
        reference_entropy=prepared.reference["train"].entropy,
        tokenizer=prepared.tokenizer,
        seed=seed,
    )


def _epoch_recorder(recorder: EpochRecorder, prepared: Prepared, output: Path, epochs: int, reporter: Reporter) -> Any:
    tuning = prepared.splits.get("tuning")

    def on_epoch(trainer: Trainer, epoch: int, seen: TrainingPass) -> TokenValues:
        model = trainer.model_wrapped
        means = recorder.record(model, epoch, seen=seen)
        if tuning is not None:
            # The same in every process: it is small, and a sharded model needs all of them.
            values = evaluate_tokens(
                model,
                tuning.token_id,
                tuning.labels(),
                batch_size=trainer.args.per_device_eval_batch_size,
                dtype=forward_dtype(trainer.args),
            )
            row = {"step": trainer.state.global_step, "epoch": float(epoch), "tuning_loss": values.mean_loss}
            if rank() == 0:
                append_metrics(output / schema.METRICS_FILE, [row])
        reporter.line(
            f"epoch {epoch:>{len(str(epochs))}}/{epochs}  train {means['train']:.4f}  "
            f"validation {means['validation']:.4f}"
            + ("" if seen.mean_loss is None else f"  (training loss {seen.mean_loss:.4f})")
        )
        return recorder.values["train"]

    return on_epoch


def _save_model(trainer: DynamicsTrainer, prepared: Prepared, output: Path, weights: dict[str, Any] | None) -> None:
    staged, final = output / (schema.MODEL_FOLDER + schema.PARTIAL_SUFFIX), output / schema.MODEL_FOLDER
    for folder in (staged, final):  # what was interrupted between the model and the last manifest
        shutil.rmtree(folder, ignore_errors=True)
    with telling_full_disk(output):
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(staged, state_dict=weights)
        prepared.tokenizer.save_pretrained(staged)
    os.rename(staged, final)
