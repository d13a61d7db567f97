"""One run, from a recipe to records: check the output folder, prepare, train and record, finish."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainingArguments

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError, TrainingDiverged
from dynamics.recipe.loading import resolved
from dynamics.recipe.settings import Recipe
from dynamics.records import schema
from dynamics.records.metrics import append_metrics
from dynamics.records.reader import open_run
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.registry import build_regularizers
from dynamics.reporting import Reporter
from dynamics.training.batches.batch_reader import BatchReader
from dynamics.training.batches.sequence_dataset import SequenceDataset
from dynamics.training.driving.trainer_callback import LoopCallback
from dynamics.training.driving.trainer_start import require_whole_weights
from dynamics.training.environment.arguments import forward_dtype, training_arguments
from dynamics.training.environment.hardware import leaving_the_device_free
from dynamics.training.environment.interrupts import finishing_steps
from dynamics.training.environment.processes import on_rank_zero, rank, wait_for_all, world_size
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens
from dynamics.training.loop.methods import training_data
from dynamics.training.loop.other_models import values_of_others
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.loop.training_pass import Moment, TrainingPass
from dynamics.training.preparation.prepare import Prepared
from dynamics.training.pretraining import prepare_recipe
from dynamics.training.recording.run_writer import OnRecorded, RunPlan, reference_of_run
from dynamics.training.recording.run_writers import RunWriters
from dynamics.training.resuming.checkpoints import Checkpoint, Checkpoints, telling_full_disk
from dynamics.training.resuming.resume_point import claim, config_hash_of, discard, resume_point
from dynamics.training.resuming.same import Resumption, another_start, restore_hardware
from dynamics.training.trainer import DynamicsTrainer


def train(recipe: Recipe, output: Path, *, resume: bool = False, reporter: Reporter) -> None:
    """Train `recipe` and write the run into the directory `output`.

    Parameters
    ----------
    recipe : Recipe
    output : Path
        New or empty, unless `resume`.
    resume : bool
        Start the run if it does not exist, leave a finished one unchanged, and continue an interrupted one from its
        newest complete checkpoint. Data, starting model and all settings that affect training must be the same.
    reporter : Reporter

    Raises
    ------
    InputError
        Bad input, raised before anything is written; or `output` holds another run.
    TrainingDiverged
        The training loss is NaN or infinite, unless the recipe says to continue.
    DeviceFull
        The device has no memory left.
    Interrupted
        A signal asked to stop. All finished epochs are kept.
    """
    with leaving_the_device_free():
        _train(recipe, output, resume=resume, reporter=reporter)


def _train(recipe: Recipe, output: Path, *, resume: bool, reporter: Reporter) -> None:
    # First of all, so that the ranks of a launcher are connected.
    training_arguments(recipe.training, output_dir=output / schema.CHECKPOINTS_FOLDER, seed=recipe.seed)
    finished, changed = on_rank_zero(lambda: claim(recipe, output, resume=resume, reporter=reporter))
    if finished:
        return
    prepared, methods, args = make_ready(recipe, output, reporter)
    plan = _plan(recipe, output, prepared, methods, args)
    config_hash = on_rank_zero(lambda: config_hash_of(recipe, output))
    checkpoints = Checkpoints(output / schema.CHECKPOINTS_FOLDER, config_hash=config_hash)
    writer = RunWriters(
        plan, on_recorded=lambda one: _after_epoch(prepared, args, one, reporter), completes=False, claimed=True
    )
    beside = [one.plan.output for one in writer.beside]
    point = on_rank_zero(
        lambda: resume_point(
            output, checkpoints, splits=plan.splits, facts=plan.facts, reporter=reporter, beside=beside
        )
    )
    model = prepared.load_model()
    resumption = None
    if point is None:
        on_rank_zero(lambda: discard(output, *beside))
    else:
        resumption = Resumption(epoch=point.epoch, step=point.step, changed=changed)
        for line in restore_hardware(output, args.device):
            reporter.line(line)
        _rank_as_before(methods, prepared, args, output, seed=recipe.seed)
    epochs = round(args.num_train_epochs)
    n_sequences = len(plan.splits["train"].token_id)
    remaining = n_sequences * (epochs - (point.epoch if point else 0))
    with reporter.progress(remaining, "training") as progress, finishing_steps() as stops:
        loop = TrainingLoop(
            methods,
            metrics=StepMetrics(output / schema.METRICS_FILE),
            recording=writer,
            on_batch=progress.update,
            training_pass=recipe.recording.training_pass,
            stops=stops,
            on_divergence=_divergence(prepared, checkpoints, writer) if recipe.on_divergence == "stop" else None,
        )
        trainer = trainer_of(prepared, loop, args, model, checkpoints)
        require_whole_weights(trainer, methods)
        steps = trainer.steps_per_epoch
        writer.begin(total_steps=steps * epochs, steps_per_epoch=steps, resumption=resumption)
        trainer.train(resume_from_checkpoint=None if point is None else str(point.path))
    _finish(trainer, prepared, output)


def make_ready(
    recipe: Recipe, output: Path, reporter: Reporter
) -> tuple[Prepared, list[Regularizer], TrainingArguments]:
    """Return everything that `recipe` trains with. Errors in the recipe show here, before `output` is written."""
    # A resumed run keeps its own precision, whatever this device would choose.
    precision = open_run(output).manifest.get("precision") if (output / schema.MANIFEST_FILE).exists() else None
    prepared = prepare_recipe(recipe, reporter, precision=precision)
    _say_where_starts_differ(recipe, output, prepared, reporter)
    methods = build_regularizers(recipe.regularizers)
    args = training_arguments(
        merged_training(recipe, methods),
        output_dir=output / schema.CHECKPOINTS_FOLDER,
        seed=recipe.seed,
        save=True,
        precision=precision,
    )
    _show(methods, prepared, prepared.reference["train"], args, seed=recipe.seed)
    return prepared, methods, args


def _say_where_starts_differ(recipe: Recipe, output: Path, prepared: Prepared, reporter: Reporter) -> None:
    """Compare with another run of the same study: raise InputError, or report, if its starting model differs."""
    other = on_rank_zero(lambda: another_start(output, prepared.facts))
    if other is None:
        return
    if recipe.base is None:
        raise InputError(
            f"model.name: {recipe.model.name!r} is not the model that {other} started from, but runs of one study are "
            "compared; restore the model (its hash is in that run's manifest), or name a new directory"
        )
    # A base that was pretrained on another machine or with other versions can differ in its last bits.
    reporter.line(f"{output}: its pretrained starting model is not bit-identical to that of {other}")


def _show(
    methods: list[Regularizer], prepared: Prepared, reference: TokenValues, args: TrainingArguments, *, seed: int
) -> None:
    """Give methods the training set, and its values under the starting model and any model that they name."""
    packed, tokenizer = prepared.splits["train"], prepared.tokenizer
    others = values_of_others(methods, packed, tokenizer=tokenizer, device=args.device, dtype=forward_dtype(args))
    data = training_data(packed, reference, tokenizer=tokenizer, seed=seed, values_of=others)
    for method in methods:
        method.prepare(data)


def _rank_as_before(
    methods: list[Regularizer], prepared: Prepared, args: TrainingArguments, output: Path, *, seed: int
) -> None:
    """Give methods the reference values that the run in `output` began with, if the current ones differ.

    A cache that was filled on another device holds different values, and the masks would change during the run.
    """
    here, before = prepared.reference["train"], reference_of_run(output, ["train"])["train"]
    pairs = ((here.loss, before.loss), (here.entropy, before.entropy))
    if not all(np.array_equal(*pair, equal_nan=True) for pair in pairs):
        _show(methods, prepared, before, args, seed=seed)


def trainer_of(
    prepared: Prepared, loop: TrainingLoop, args: TrainingArguments, model: Any, checkpoints: Checkpoints | None = None
) -> DynamicsTrainer:
    """Return the trainer of a recipe's run, with the rows of the training set as sequences. Opens `loop`."""
    train_split = prepared.splits["train"]
    n_sequences, n_positions = train_split.token_id.shape
    loop.open(BatchReader(torch.arange(n_sequences, device="cpu"), n_positions), total_steps=1)
    trainer = DynamicsTrainer(
        model=model,
        args=args,
        train_dataset=SequenceDataset(train_split.token_id, train_split.labels()),
        callback=LoopCallback(loop, fused=True),
        checkpoints=checkpoints,
    )
    # Its output would interleave with ours. Trackers get the same values.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _plan(
    recipe: Recipe, output: Path, prepared: Prepared, methods: list[Regularizer], args: TrainingArguments
) -> RunPlan:
    splits = _recorded(prepared, output)
    return RunPlan(
        output=output,
        name=recipe.name,
        config=resolved(recipe),
        splits=splits,
        reference=prepared.reference,
        reference_made=prepared.reference_made,
        # All validation sets share one setting: "validation-general" is one of them.
        sequences={split: getattr(recipe.recording, f"{split.partition('-')[0]}_sequences") for split in splits},
        regularizers=methods,
        value_dtype=recipe.recording.dtype,
        forward_dtype=forward_dtype(args),
        device=args.device,
        batch_size=args.per_device_eval_batch_size,
        seeds={"seed": recipe.seed, "base": recipe.base.seed if recipe.base else None},
        facts={**prepared.facts, **({} if recipe.tuned is None else {"tuned": recipe.tuned.model_dump(mode="json")})},
    )


def _recorded(prepared: Prepared, output: Path) -> dict[str, PackedSplit]:
    """Return the splits to record: all, except that runs begun before tuning records existed leave out "tuning"."""
    if "tuning" not in prepared.splits or not (output / schema.MANIFEST_FILE).exists():
        return prepared.splits
    begun = open_run(output).splits
    return {split: packed for split, packed in prepared.splits.items() if split != "tuning" or split in begun}


def _finish(trainer: DynamicsTrainer, prepared: Prepared, output: Path) -> None:
    """Save the trained model and the averaged ones, and write the manifests of the complete runs."""
    writer = trainer.loop.recording
    assert isinstance(writer, RunWriters)
    _save_model(trainer, prepared, output)
    for one in writer.beside:
        with one.method.averaged():
            _save_model(trainer, prepared, one.plan.output)
    writer.complete()
    if rank() == 0:
        # Removed last, so that a run interrupted before this point can still be resumed.
        shutil.rmtree(output / schema.CHECKPOINTS_FOLDER, ignore_errors=True)
    wait_for_all()


def _divergence(prepared: Prepared, checkpoints: Checkpoints, writer: RunWriters) -> Callable[[int, list[int]], None]:
    packed = prepared.splits["train"]

    def stop(step: int, rows: list[int]) -> None:
        writer.diverged(step)
        documents = np.unique(packed.document_id[rows])
        shown = ", ".join(map(str, documents[documents >= 0][:8])) + (", ..." if (documents >= 0).sum() > 8 else "")
        last: Checkpoint | None = next(checkpoints.latest(), None)
        where = "no checkpoint is complete yet" if last is None else f"the last complete checkpoint is {last.path}"
        raise TrainingDiverged(
            f"step {step}: the training loss is NaN or infinite; its batch held the training documents {shown}; "
            f"{where}. Lower training.learning_rate or set training.max_grad_norm; to train on, set "
            "on_divergence: continue"
        )

    return stop


def merged_training(recipe: Recipe, methods: list[Regularizer]) -> dict[str, Any]:
    """Return the training arguments of a recipe and its methods. Raise InputError if both set the same one."""
    merged = dict(recipe.training)
    for method in methods:
        for key, value in method.training_arguments().items():
            if key in recipe.training:
                raise InputError(f"training.{key} and {type(method).__name__} both set {key}; keep one of them")
            merged[key] = value
    return merged


def _after_epoch(prepared: Prepared, args: TrainingArguments, plan: RunPlan, reporter: Reporter) -> OnRecorded:
    """Return a callback that reports each epoch, and measures the tuning split."""
    tuning = prepared.splits.get("tuning")
    epochs = round(args.num_train_epochs)

    def after(model: torch.nn.Module, moment: Moment, means: dict[str, float], seen: TrainingPass) -> None:
        if tuning is not None:
            # A run that began without records of this split continues with its mean loss only.
            mean = means["tuning"] if "tuning" in means else _mean_loss(model, tuning, args)
            row = {"step": moment.step, "epoch": float(moment.epoch), "tuning_loss": mean}
            if rank() == 0:
                append_metrics(plan.output / schema.METRICS_FILE, [row])
        if plan.beside is not None:
            note: str | None = f"{plan.beside} of the weights"
        else:
            note = None if seen.mean_loss is None else f"training loss {seen.mean_loss:.3f}"
        told = [split for split in schema.in_split_order(means) if split != "tuning"]
        reporter.line(
            f"epoch {moment.epoch:>{len(str(epochs))}}/{epochs}  "
            + "  ".join(f"{split} {means[split]:.3f}" for split in told)
            + (f"  ({note})" if note else "")
        )

    return after


def _mean_loss(model: torch.nn.Module, packed: PackedSplit, args: TrainingArguments) -> float:
    # Every rank computes this: the split is small, and a sharded model needs all ranks.
    values = evaluate_tokens(
        model,
        packed.token_id,
        packed.labels(),
        batch_size=args.per_device_eval_batch_size,
        dtype=forward_dtype(args),
    )
    return values.mean_loss


def _save_model(trainer: DynamicsTrainer, prepared: Prepared, output: Path) -> None:
    # If the model is sharded, all ranks must take part in gathering the weights.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if world_size() > 1 else None
    if rank() != 0:
        return
    staged, final = output / (schema.MODEL_FOLDER + schema.PARTIAL_SUFFIX), output / schema.MODEL_FOLDER
    for folder in (staged, final):  # left by an attempt that was interrupted before the last manifest
        shutil.rmtree(folder, ignore_errors=True)
    with telling_full_disk(output):
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(staged, state_dict=weights)
        prepared.tokenizer.save_pretrained(staged)
    os.rename(staged, final)
