"""Prepares a training with a Trainer: its data sets as sequences, the starting model's values, the plan of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import Trainer

from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.tokenizer import token_text_facts
from dynamics.errors import InputError
from dynamics.records.tensors import read_identity, write_tensors
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.weight_averaging import require_whole
from dynamics.training.batches.batch_reader import BatchReader
from dynamics.training.driving.trainer_callback import LoopCallback
from dynamics.training.driving.trainer_data import (
    evaluation_sets,
    examples_per_step,
    pad_token_id,
    read_dataset,
    tokenizer_of,
)
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.environment.hardware import weight_dtype
from dynamics.training.environment.processes import rank, wait_for_all
from dynamics.training.head.causal import require_causal
from dynamics.training.loop.clean_pass import TokenValues
from dynamics.training.loop.methods import training_data
from dynamics.training.loop.other_models import values_of_others
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.recording.epoch_recorder import measure_all
from dynamics.training.recording.run_writer import (
    RunPlan,
    plain_values,
    reference_of_run,
    reference_values,
)
from dynamics.training.recording.run_writers import RunWriters
from dynamics.training.recording.token_recorder import TokenRecorder
from dynamics.training.resuming.beside import methods_beside
from dynamics.training.resuming.loop_state import LoopState
from dynamics.training.resuming.same import Resumption, allowed_changes, require_same_run

#: In the trainer's output_dir: the starting model's values, which a resumed training needs to rank tokens.
REFERENCE_FILE = "reference-values.safetensors"


def loop_of(
    regularizers: Sequence[Regularizer], recorder: TokenRecorder | None, *, losses: bool, fused: bool
) -> LoopCallback:
    """Return the callback for a Trainer. It reads the trainer's data sets when training begins.

    Parameters
    ----------
    regularizers : sequence of Regularizer
    recorder : TokenRecorder, optional
    losses : bool
        Whether the trainer provides the loss of each batch.
    fused : bool
        Whether the trainer uses a model that answers a `HeadRequest`.
    """
    loop = TrainingLoop(regularizers, training_pass=recorder is not None and recorder.training_pass)
    callback = LoopCallback(
        loop, start=lambda trainer, resumed: _start(callback, recorder, losses, trainer, resumed), fused=fused
    )
    return callback


def _start(
    callback: LoopCallback, recorder: TokenRecorder | None, losses: bool, trainer: Trainer, resumed: LoopState | None
) -> None:
    loop = callback.loop
    require_causal(trainer.model)
    require_whole_weights(trainer, loop.methods.all)
    if recorder is not None and resumed is None:
        recorder.claim_output()
    train = read_dataset(trainer, trainer.train_dataset, split="train")
    splits = {"train": train.packed}
    if recorder is not None:
        for split, dataset in evaluation_sets(trainer).items():
            splits[split] = read_dataset(trainer, dataset, split=split).packed
    callback.predicted = train.packed.predicted
    if resumed is not None:
        callback.require_resumable(resumed)
    loop.metrics = StepMetrics(None if recorder is None else recorder.metrics_path, losses=losses)
    loop.open(
        BatchReader(train.keys, train.packed.token_id.shape[1], pad_token_id=pad_token_id(trainer)),
        total_steps=trainer.state.max_steps,
    )
    if recorder is None and not loop.methods.all:
        return
    writer, resumption = None, None
    if recorder is not None and resumed is not None:
        resumption = _resumption(recorder, trainer, loop.methods.all, splits, resumed)
    reference = _references(trainer, splits, recorder, resumed=resumed is not None)
    args, tokenizer = trainer.args, tokenizer_of(trainer)
    others = values_of_others(
        loop.methods.all, train.packed, tokenizer=tokenizer, device=args.device, dtype=forward_dtype(args)
    )
    loop.methods.prepare(
        training_data(train.packed, reference["train"], tokenizer=tokenizer, seed=args.seed, values_of=others)
    )
    if recorder is not None:
        writer = RunWriters(_plan(recorder, trainer, loop.methods.all, splits, reference))
        steps_per_epoch = callback.steps_per_pass or -(-len(train.keys) // examples_per_step(trainer))
        writer.begin(total_steps=trainer.state.max_steps, steps_per_epoch=steps_per_epoch, resumption=resumption)
    loop.recording = writer


def require_whole_weights(trainer: Trainer, regularizers: Sequence[Regularizer]) -> None:
    """Raise InputError if an average of weights is needed but the weights will be sharded. Nothing is written yet."""
    if methods_beside(regularizers):
        require_whole(cast(Any, trainer.model), sharded=trainer.is_fsdp_enabled)


def _plan(
    recorder: TokenRecorder,
    trainer: Trainer,
    regularizers: Sequence[Regularizer],
    splits: Mapping[str, PackedSplit],
    reference: Mapping[str, TokenValues],
) -> RunPlan:
    args = trainer.args
    return RunPlan(
        output=recorder.output,
        name=recorder.name,
        config=_config(recorder.name, trainer, regularizers),
        splits=splits,
        reference=reference,
        sequences={split: recorder.sequences(split) for split in splits},
        regularizers=regularizers,
        value_dtype=recorder.dtype,
        forward_dtype=forward_dtype(args),
        weight_dtype=weight_dtype(cast(Any, trainer.model)),
        device=args.device,
        batch_size=recorder.batch_size or args.per_device_eval_batch_size,
        seeds={"seed": args.seed},
        facts={"token_text": token_text_facts(tokenizer_of(trainer))},
    )


def _resumption(
    recorder: TokenRecorder,
    trainer: Trainer,
    regularizers: Sequence[Regularizer],
    splits: Mapping[str, PackedSplit],
    resumed: LoopState,
) -> Resumption:
    """Return where the run in the recorder's output resumes. Raise InputError if it is another run."""
    what = f"TokenRecorder: {recorder.output}"
    remedy = "use the settings of that run, or give the recorder a new directory and start from the beginning"
    run = require_same_run(recorder.output, splits, what=what)
    now = _config(recorder.name, trainer, regularizers)
    changed = allowed_changes(run.config, now, common_only=True, what=what, remedy=remedy)
    return Resumption(epoch=resumed.recorded, step=trainer.state.global_step, changed=changed)


def _config(name: str, trainer: Trainer, regularizers: Sequence[Regularizer]) -> dict[str, Any]:
    """Return the config that takes the place of a recipe: the training's settings, as plain values."""
    # Arguments about output folders and logging do not affect what is trained.
    told = ("output_dir", "run_name", "resume_from_checkpoint", "report_to", "disable_tqdm", "log", "save_", "hub_")
    arguments = {key: value for key, value in cast(Any, trainer.args).to_dict().items() if not key.startswith(told)}
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = getattr(model, "config", None)
    return {
        "name": name,
        "trainer": type(trainer).__name__,
        "model": {"name": getattr(config, "name_or_path", None) or type(model).__name__},
        "regularizers": [method.settings.model_dump(mode="json") for method in regularizers],
        "training": plain_values(arguments),
    }


def _references(
    trainer: Trainer, splits: Mapping[str, PackedSplit], recorder: TokenRecorder | None, *, resumed: bool
) -> dict[str, TokenValues]:
    """Return the starting model's values: measured now, or before the training that is resumed."""
    file = Path(cast(str, trainer.args.output_dir)) / REFERENCE_FILE
    if resumed:
        if recorder is None:
            return _kept_reference(file, splits)
        return reference_of_run(recorder.output, splits)
    args = trainer.args
    found = {
        split: measure_all(
            trainer.model_wrapped, packed, batch_size=args.per_device_eval_batch_size, dtype=forward_dtype(args)
        )
        for split, packed in splits.items()
    }
    if recorder is None and rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"reference_loss": found["train"].loss, "reference_entropy": found["train"].entropy}
        write_tensors(file, arrays, {"tokens_hash": splits["train"].tokens_hash()})
    wait_for_all()
    return found


def _kept_reference(file: Path, splits: Mapping[str, PackedSplit]) -> dict[str, TokenValues]:
    remedy = "resume with the original output_dir and the same examples, or start from the beginning"
    if not file.is_file():
        raise InputError(f"{file}, which holds the values of the starting model, is missing; {remedy}")
    if read_identity(file).get("tokens_hash") != splits["train"].tokens_hash():
        raise InputError(f"{file} holds values of different examples than this training's; {remedy}")
    return {"train": reference_values(file)}
