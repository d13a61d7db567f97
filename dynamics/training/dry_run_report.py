"""The report of a dry run: the arms, and a table of numbers with their units and origin."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import TrainingArguments

from dynamics.recipe.settings import Recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.schedules import ScheduleSettings
from dynamics.reporting import Reporter
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.preparation.corpus_size import ASSUMED_TOKEN_BYTES, CorpusSize, SplitSize
from dynamics.training.preparation.model_size import ModelSize
from dynamics.training.preparation.run_cost import CHECKPOINTS, Memory, RunCost, device_bytes

_WIDTH = 80
_UNKNOWN = "unknown"

Row = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Job:
    """An arm, a trial or a single run: the number of its trainings, and one of their recipes."""

    name: str
    runs: int
    recipe: Recipe
    methods: list[Regularizer]
    args: TrainingArguments


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one training of a job costs."""

    job: Job
    cost: RunCost
    memory: Memory | None


def report(
    recipe: Recipe,
    data: CorpusSize,
    size: ModelSize | None,
    estimates: Sequence[Estimate],
    rates: tuple[float, float] | None,
    rates_from: str,
    *,
    processes: int,
    reporter: Reporter,
) -> None:
    """Write what a dry run found.

    Parameters
    ----------
    recipe : Recipe
    data : CorpusSize
    size : ModelSize, optional
    estimates : sequence of Estimate
    rates : (float, float), optional
        Tokens per second in training and in recording, over all processes.
    rates_from : str
        How the rates were found, or why there are none.
    processes : int
    reporter : Reporter
    """
    for line in _arms(recipe, estimates):
        reporter.line(line)
    reporter.line("")
    rows = [
        *_data_rows(data),
        *_step_rows(estimates, data, processes),
        *_model_rows(size),
        *_memory_rows(estimates, size, processes),
        *_disk_rows(estimates, size, data),
        *_time_rows(recipe, estimates, data, rates, processes),
    ]
    reporter.table(("what", "how much", "from"), rows)
    reporter.line("")
    for note in _notes(recipe, data, size, estimates, rates_from):
        for line in textwrap.wrap(note, _WIDTH, subsequent_indent="  ", break_long_words=False):
            reporter.line(line)


def _arms(recipe: Recipe, estimates: Sequence[Estimate]) -> Iterable[str]:
    total = sum(one.job.runs for one in estimates)
    seeds = recipe.seeds if isinstance(recipe, StudyRecipe) else [recipe.seed]
    listed = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    yield from textwrap.wrap(f"{recipe.name}: {total} training{'s' * (total > 1)}, {listed}", _WIDTH)
    for one in estimates:
        parts = [_described(method) for method in one.job.methods]
        changed = {key: value for key, value in one.job.recipe.training.items() if recipe.training.get(key) != value}
        parts += [f"training.{key} {value}" for key, value in changed.items()]
        text = f"{one.job.name} x {one.job.runs}: {'; '.join(parts) or 'no method'}"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _described(method: Regularizer) -> str:
    told = method.settings.model_dump(exclude={"name"}, exclude_none=True)
    return " ".join([method.recipe_name(), *(f"{key} {_plain(value)}" for key, value in told.items())])


def _plain(value: object) -> str:
    """Return a setting as a recipe would write it; for a schedule, its name and the values that are set."""
    if not isinstance(value, dict):
        return str(value)
    changed = {key: one for key, one in value.items() if one != ScheduleSettings.model_fields[key].default}
    return " ".join([str(value["name"]), *(f"{key} {one}" for key, one in changed.items() if key != "name")])


def _data_rows(data: CorpusSize) -> Iterable[Row]:
    how = "counted" if data.counted else "assumed"
    named = {**data.splits, **({} if data.base is None else {"base": data.base})}
    for name, split in named.items():
        short = _short(name, 18)
        documents = "counted" if data.documents_counted else "recipe"
        yield f"{short} documents", _count(split.documents), _from(documents, split.documents)
        yield f"{short} tokens", _count(split.tokens), _from(how, split.tokens)
        yield f"{short} sequences", _count(split.sequences), _from(how, split.sequences)


def _step_rows(estimates: Sequence[Estimate], data: CorpusSize, processes: int) -> Iterable[Row]:
    how = "exact" if data.counted else "from assumptions"
    yield "epochs", _range([one.cost.epochs for one in estimates]), "recipe"
    batches = [
        one.job.args.per_device_train_batch_size * processes * one.job.args.gradient_accumulation_steps
        for one in estimates
    ]
    yield "sequences per step", _range(batches), f"{processes} process{'es' * (processes > 1)}"
    yield "steps per epoch", _range([one.cost.steps_per_epoch for one in estimates]), how
    yield "steps per run", _range([one.cost.steps for one in estimates]), how


def _model_rows(size: ModelSize | None) -> Iterable[Row]:
    if size is None:
        yield "parameters", _UNKNOWN, "needs its config.json"
    else:
        yield "parameters", f"{size.parameters:,}", _short(size.source, 30)


def _memory_rows(estimates: Sequence[Estimate], size: ModelSize | None, processes: int) -> Iterable[Row]:
    known = [one for one in estimates if one.memory is not None]
    if size is None or not known:
        yield "memory per process", _UNKNOWN, ""
        return
    most = max(known, key=lambda one: (one.memory.total or 0) if one.memory is not None else 0)
    memory, args = most.memory, most.job.args
    assert memory is not None
    sharded = f", over {processes}" if processes > 1 and args.fsdp else ""
    yield "memory: weights", _bytes(memory.weights), f"4 bytes each{sharded}"
    yield "memory: gradients", _bytes(memory.gradients), f"4 bytes each{sharded}"
    yield (
        "memory: optimiser",
        _bytes(memory.optimiser),
        f"{'8 bytes each' if memory.optimiser else args.optim}{sharded}",
    )
    if memory.averages:
        yield "memory: averaged weights", _bytes(memory.averages), f"4 bytes each{sharded}"
    dtype = str(forward_dtype(args)).removeprefix("torch.")
    yield "memory: copies of weights", _bytes(memory.copies), dtype
    yield "memory: activations", _bytes(memory.activations), f"batch of {args.per_device_train_batch_size}"
    yield "memory: head", _bytes(memory.head), "logits and gradient"
    room = device_bytes(args.device)
    place = "device" if args.device.type == "cuda" else "machine"
    if memory.total is None or room is None:
        yield "memory per process", _UNKNOWN, ""
    else:
        # Each process has its own GPU, but all processes share the memory of the machine.
        needed = memory.total * (1 if args.device.type == "cuda" else processes)
        fits = "fits" if needed <= room else "does NOT fit"
        yield "memory per process", _bytes(memory.total), f"{fits}: {_bytes(room)} {place}"


def _disk_rows(estimates: Sequence[Estimate], size: ModelSize | None, data: CorpusSize) -> Iterable[Row]:
    how = "shapes and types" if data.counted else "from assumptions"
    yield "disk: tokens/ per run", _range([one.cost.tokens_bytes for one in estimates], _bytes), how
    yield "disk: epochs/ per run", _range([one.cost.epochs_bytes for one in estimates], _bytes), how
    if size is None:
        yield "disk: model, checkpoints", _UNKNOWN, ""
        return
    models = [4 * size.parameters * one.cost.models for one in estimates]
    yield "disk: model/ per run", _range(models, _bytes), "4 bytes each"
    states = [
        # Weights, the state of AdamW, and averaged weights that methods keep.
        size.parameters
        * ((4 if one.memory is None or one.memory.optimiser is None else 12) + 4 * (one.cost.models - 1))
        for one in estimates
    ]
    yield "disk: during a run", _bytes(CHECKPOINTS * max(states)), f"{CHECKPOINTS} checkpoints"
    kept = [
        None
        if one.cost.tokens_bytes is None or one.cost.epochs_bytes is None
        else one.job.runs * (one.cost.tokens_bytes + one.cost.epochs_bytes + model)
        for one, model in zip(estimates, models, strict=True)
    ]
    total = None if None in kept else sum(part for part in kept if part is not None)
    yield "disk: total at the end", _bytes(total), how


def _time_rows(
    recipe: Recipe,
    estimates: Sequence[Estimate],
    data: CorpusSize,
    rates: tuple[float, float] | None,
    processes: int,
) -> Iterable[Row]:
    if rates is None:
        yield "time", _UNKNOWN, "see below"
        return
    training, recording = rates
    yield "training", f"{training:,.0f} tokens/s", "see below"
    yield "recording", f"{recording:,.0f} tokens/s", "see below"
    each = [_seconds_of(one.cost, rates) for one in estimates]
    yield "time: one run", _range(each, _duration), "see below"
    tokens = [None if one.sequences is None else one.sequences * recipe.block_size for one in data.splits.values()]
    # These steps run once, in one process.
    once = None if None in tokens else sum(one for one in tokens if one is not None) / recording * processes
    yield "time: reference pass", _duration(once), "once, one process"
    base: float | None = 0.0
    if recipe.base is not None and data.base is not None:
        base = None if data.base.sequences is None else data.base.sequences * recipe.block_size * recipe.base.epochs
        base = None if base is None else base / training * processes
        yield "time: pretraining", _duration(base), "once, one process"
    parts = [once, base, *(None if s is None else s * one.job.runs for s, one in zip(each, estimates, strict=True))]
    total = None if None in parts else sum(part for part in parts if part is not None)
    yield "time: all runs in turn", _duration(total), "see below"


def _seconds_of(cost: RunCost, rates: tuple[float, float]) -> float | None:
    if cost.train_tokens is None or cost.recorded_tokens is None:
        return None
    return cost.train_tokens / rates[0] + cost.recorded_tokens / rates[1]


def _notes(
    recipe: Recipe, data: CorpusSize, size: ModelSize | None, estimates: Sequence[Estimate], rates_from: str
) -> Iterable[str]:
    missing = list(data.missing)
    if size is None:
        yield (
            f"model {recipe.model.name}: its config.json would have to be downloaded; to use a local one, give "
            "--model-config PATH"
        )
    if size is None or not size.weights_here:
        missing.append(f"model {recipe.model.name}")
    for name in missing:
        yield f"would be downloaded: {name}"
    if not data.counted:
        train = data.splits["train"]
        if train.documents is None:
            yield "documents: the recipe does not set corpus.documents, so all are used; their number is unknown here"
        elif train.tokens is None:
            yield "tokens: unknown before the download; give --tokens-per-document N to assume a length"
        else:
            yield (
                f"assumed: {_per_document(train)} tokens per document (--tokens-per-document), {ASSUMED_TOKEN_BYTES} "
                "bytes of text per token; nothing was counted"
            )
    if size is not None and any(one.memory is not None and one.memory.activations is None for one in estimates):
        yield "activations: unknown, because this model's code cannot be traced without real tensors"
    yield "time: " + rates_from
    if any(method.other_model is not None for one in estimates for method in one.job.methods):
        yield "time: does not include the pass over other models whose values methods need"
    if estimates[0].job.args.device.type == "cpu" and not all(
        one.job.recipe.training.get("use_cpu") for one in estimates
    ):
        yield "memory: there is no CUDA device here, so the comparison is with the memory of this machine"
    yield "memory: does not include the framework itself and memory lost to fragmentation"


def _per_document(split: SplitSize) -> str:
    assert split.tokens is not None and split.documents
    return f"{split.tokens / split.documents:,.6g}"


def _range(values: Sequence[float | None], text: object = None) -> str:
    """Return the one value, or the lowest and the highest."""
    shown = text if callable(text) else _count
    if any(value is None for value in values):
        return _UNKNOWN
    low, high = min(v for v in values if v is not None), max(v for v in values if v is not None)
    return str(shown(low)) if shown(low) == shown(high) else f"{shown(low)} to {shown(high)}"


def _from(how: str, value: int | None) -> str:
    return "" if value is None else how


def _count(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.0f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value / size:.0f} {unit}"
    return f"{value:.0f} B"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:,.4g} h"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
