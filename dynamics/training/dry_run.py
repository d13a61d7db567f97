"""What a recipe would do, need and write, without training: `dynamics train RECIPE --dry-run`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dynamics.errors import InputError
from dynamics.recipe.settings import Recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.regularizers.registry import build_regularizers
from dynamics.reporting import Reporter
from dynamics.training.batches.batch_reader import BatchReader
from dynamics.training.batches.sequence_dataset import SequenceDataset
from dynamics.training.driving.trainer_callback import LoopCallback
from dynamics.training.dry_run_report import Estimate, Job, report
from dynamics.training.environment.arguments import check_training, forward_dtype, training_arguments
from dynamics.training.environment.hardware import leaving_the_device_free
from dynamics.training.environment.processes import launched
from dynamics.training.loop.clean_pass import evaluate_tokens
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.preparation.corpus_size import CorpusSize, corpus_size
from dynamics.training.preparation.model_size import ModelSize, model_size, offline, saved_bytes
from dynamics.training.preparation.models import build_model, require_room
from dynamics.training.preparation.run_cost import device_bytes, memory_of, run_cost
from dynamics.training.recipe_run import merged_training
from dynamics.training.trainer import DynamicsTrainer

# Steps with more operations than this are not timed: three of them would take minutes.
_MOST_OPERATIONS = {"cpu": 1e12, "cuda": 5e15}
# Number of timed steps, and a limit in seconds. The first step is the slowest; if it exceeds the limit, it is the last.
_STEPS, _SECONDS = 3, 20.0


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the user assumes about data, models and machines that are not available here.

    Attributes
    ----------
    tokens_per_document : float, optional
        Mean length of documents that are not downloaded yet.
    flops : float, optional
        Operations per second that each process reaches in training. By default a step is timed here, if possible.
    processes : int
        Number of processes that train together.
    model_config : Path, optional
        A config.json, or a folder that contains one.
    """

    tokens_per_document: float | None = None
    flops: float | None = None
    processes: int = 1
    model_config: Path | None = None


def dry_run(recipe: Recipe, assumed: Assumptions, reporter: Reporter) -> None:
    """Report what `recipe` (one run or a study) would do: arms, counts, memory, bytes and time.

    Nothing is trained, except a few steps of a temporary model if the time of a step is measured. Nothing is
    downloaded. Nothing is written, except the tokenizer that a recipe trains, which goes into the cache.

    Parameters
    ----------
    recipe : Recipe
        Or a `StudyRecipe`.
    assumed : Assumptions
    reporter : Reporter

    Raises
    ------
    InputError
        An error in the recipe that can be found without a download.
    """
    if launched() > 1:
        raise InputError("--dry-run runs in one process; give the number of training processes with --processes")
    if recipe.base is not None:
        check_training(recipe.base.training, where="base.training")
    jobs = [_job(*one) for one in _recipes(recipe)]
    data = corpus_size(recipe, tokens_per_document=assumed.tokens_per_document)
    size = model_size(
        recipe.model, vocabulary=data.vocabulary, block_size=recipe.block_size, given=assumed.model_config
    )
    saved = None
    if size is not None:
        require_room(
            recipe.model,
            size.config,
            n_vocab=size.vocabulary,
            n_tokens=data.vocabulary or 0,
            block_size=recipe.block_size,
        )
        saved = _saved(recipe, size, jobs[0].args)
    estimates = [_estimate(job, data, size, saved, assumed.processes) for job in jobs]
    rates, how = _rates(recipe, data, size, estimates, assumed)
    report(recipe, data, size, estimates, rates, how, processes=assumed.processes, reporter=reporter)


def _recipes(recipe: Recipe) -> list[tuple[str, int, Recipe, str]]:
    """Return the arms, trials first: name, number of trainings, one of their recipes, and its place in the file."""
    if not isinstance(recipe, StudyRecipe):
        return [(recipe.name, 1, recipe, "training")]
    found = [
        (f"{one.arm} trial {one.number}", 1, one.recipe, f"tune.arms.{one.arm}, trial {one.number}: training")
        for one in recipe.trials()
    ]
    firsts = {run.arm: run.recipe for run in reversed(recipe.plan())}
    return found + [(arm, len(recipe.seeds), firsts[arm], f"arms.{arm}: training") for arm in recipe.arms]


def _job(name: str, runs: int, recipe: Recipe, where: str) -> Job:
    methods = build_regularizers(recipe.regularizers)
    fields = merged_training(recipe, methods)
    check_training(fields, where=where)
    if not torch.cuda.is_available():
        # Without CUDA, TrainingArguments would refuse half precision and TF32, which another machine may support.
        fields = {**{key: value for key, value in fields.items() if key != "tf32"}, "use_cpu": True}
    args = training_arguments(fields, output_dir=Path("unused"), seed=recipe.seed, where=where)
    return Job(name=name, runs=runs, recipe=recipe, methods=methods, args=args)


def _saved(recipe: Recipe, size: ModelSize, args: TrainingArguments) -> tuple[int, int] | None:
    try:
        return saved_bytes(size, recipe.model, block_size=recipe.block_size, dtype=forward_dtype(args))
    except Exception:  # a model's own code may need real tensors, and raise any error
        return None


def _estimate(
    job: Job, data: CorpusSize, size: ModelSize | None, saved: tuple[int, int] | None, processes: int
) -> Estimate:
    memory = None
    if size is not None:
        memory = memory_of(size, saved, job.args, job.methods, block_size=job.recipe.block_size, processes=processes)
    cost = run_cost(job.recipe, data.splits, job.args, job.methods, processes=processes)
    return Estimate(job=job, cost=cost, memory=memory)


def _rates(
    recipe: Recipe, data: CorpusSize, size: ModelSize | None, estimates: Sequence[Estimate], assumed: Assumptions
) -> tuple[tuple[float, float] | None, str]:
    """Return tokens per second in training and recording, over all processes, and how they were found."""
    if size is None:
        return None, "unknown, because the model is unknown: see --model-config"
    if assumed.flops is not None:
        rate = assumed.flops * assumed.processes / size.parameters
        return (rate / 6, rate / 2), f"6 N FLOP a token trained, 2 N recorded, {assumed.flops:.3g} FLOP/s per process"
    first = estimates[-1]  # an arm, not a trial
    args, total = first.job.args, None if first.memory is None else first.memory.total
    if not size.weights_here or data.packed is None:
        return None, "not measured: the model or the data is not on this machine; give --flops"
    if assumed.processes > 1:
        return None, "not measured: only one process runs here; give --flops"
    room = device_bytes(args.device)
    if total is None or room is None or total > room / 2:
        return None, "not measured: it may not fit into memory here; give --flops"
    step = 6 * size.parameters * args.train_batch_size * args.gradient_accumulation_steps * recipe.block_size
    if step > _MOST_OPERATIONS.get(args.device.type, 0.0):
        return None, f"not measured: a step takes {step:.2g} operations; give --flops"
    with leaving_the_device_free(), offline():
        *rates, n = _measured(recipe, data, args)
        return (rates[0], rates[1]), f"{n} step{'s' * (n > 1)} and a recorded batch timed here, without methods"


def _measured(recipe: Recipe, data: CorpusSize, args: TrainingArguments) -> tuple[float, float, int]:
    """Return tokens per second of training and of recording on the recipe's batches, and the number of steps timed."""
    packed, tokenizer = data.packed, data.tokenizer
    assert packed is not None and tokenizer is not None
    model = build_model(recipe.model, tokenizer=tokenizer, block_size=recipe.block_size)
    of_step = args.train_batch_size * args.gradient_accumulation_steps
    rows = np.arange(of_step * _STEPS) % len(packed.token_id)
    labels = packed.labels()
    loop = TrainingLoop(recording=_Nothing())
    loop.open(BatchReader(torch.arange(len(rows), device="cpu"), recipe.block_size), total_steps=1)
    clock = _Clock(args.device)
    with tempfile.TemporaryDirectory() as folder:
        fields: dict[str, Any] = {**recipe.training, "report_to": "none", "num_train_epochs": 1}
        if args.use_cpu:
            fields = {**{key: value for key, value in fields.items() if key != "tf32"}, "use_cpu": True}
        trainer = DynamicsTrainer(
            model=model,
            args=training_arguments(fields, output_dir=Path(folder), seed=recipe.seed),
            train_dataset=SequenceDataset(packed.token_id[rows], labels[rows]),
            callback=LoopCallback(loop, fused=True),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
    seconds = np.diff(clock.moments)
    steps = seconds[1:] if len(seconds) > 1 else seconds
    batch = np.arange(args.per_device_eval_batch_size) % len(packed.token_id)

    def record() -> None:
        evaluate_tokens(model, packed.token_id[batch], labels[batch], batch_size=len(batch), dtype=forward_dtype(args))

    first = _seconds(record)
    recording = _seconds(record) if first < _SECONDS else first
    return of_step * recipe.block_size / float(steps.mean()), len(batch) * recipe.block_size / recording, len(steps)


def _seconds(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


class _Clock(TrainerCallback):
    """Notes the start of training and the end of each step, and stops training after `_SECONDS`."""

    def __init__(self, device: torch.device) -> None:
        self.moments: list[float] = []
        self._device = device

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._note()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self._note()
        control.should_training_stop |= self.moments[-1] - self.moments[0] > _SECONDS
        return control

    def _note(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.moments.append(time.perf_counter())


class _Nothing:
    """A `Recording` that keeps nothing."""

    def epoch(self, model: torch.nn.Module, moment: Any, seen: Any) -> None:
        return None

    def recorded(self, epoch: int) -> None:
        return None

    def finish(self) -> None:
        return None
