"""What must be the same where a run goes on, what may differ, and how to say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError
from dynamics.ops import restore_routes
from dynamics.recipe.loading import differing_keys
from dynamics.records import schema
from dynamics.records.reader import Run, open_run
from dynamics.regularizers.registry import completed
from dynamics.training.environment.hardware import hardware
from dynamics.training.environment.processes import world_size

# Fields of TrainingArguments that change no weight: where things go, what is told, how batches are fetched, evaluation.
_HARMLESS = {
    "output_dir", "overwrite_output_dir", "run_name", "project", "report_to", "disable_tqdm", "do_train", "do_eval",
    "do_predict", "prediction_loss_only", "per_device_eval_batch_size", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "push_to_hub", "resume_from_checkpoint", "batch_eval_metrics",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_pin_memory",
    "dataloader_multiprocessing_context", "dataloader_in_order", "torch_empty_cache_steps", "skip_memory_metrics",
    "ddp_timeout", "label_names", "remove_unused_columns", "restore_callback_states_from_checkpoint", "local_rank",
    "use_cpu", "debug", "enable_jit_checkpoint", "logging_nan_inf_filter",
    "use_for_hub", "length_column_name", "bf16_full_eval", "fp16_full_eval",
}  # fmt: skip
_HARMLESS_PREFIXES = ("eval_", "log_", "logging_", "save_", "hub_", "include_", "trackio_", "report_", "ddp_bucket_")
# How long training lasts: a run may go on for longer, or shorter, than it was planned; it is noted.
_LENGTH = ("num_train_epochs", "max_steps", "total_steps")
# Whose content is known by hash: a corpus, a model or an output may have moved.
_BY_HASH = ("name", "corpus", "tokenizer", "model", "base", "validation", "tuning")


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """Where a run goes on.

    Attributes
    ----------
    epoch : int
        The last one whose records are kept.
    step : int
        Optimiser steps done.
    changed : mapping
        What differs from the run's own settings and is allowed to: key, before and now.
    """

    epoch: int
    step: int
    changed: Mapping[str, Any] = field(default_factory=dict)

    def entry(self, total_steps: int) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {"step": self.step, "total_steps": total_steps, "changed": dict(self.changed)}


def allowed_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, common_only: bool, what: str, remedy: str
) -> dict[str, Any]:
    """Return the settings that differ and may, each as ``[before, now]``.

    Parameters
    ----------
    before, now : mapping
        Resolved recipes, or what stands for them.
    common_only : bool
        Leave keys out that one of them lacks: another version of transformers has others.
    what : str
        The run, for the message.
    remedy : str
        What to do where the settings cannot be as they were.

    Raises
    ------
    InputError
        Others differ, naming each with both values.
    """
    changed, refused = {}, []
    before, now = _completed(before), _completed(now)
    for key in differing_keys(before, now):
        one, other = _at(before, key), _at(now, key)
        # What is kept of documents is in no hash.
        by_hash = key.split(".")[0] in _BY_HASH and key != "corpus.keep"
        if by_hash or (common_only and (one is _ABSENT or other is _ABSENT)):
            continue
        field_name = key.removeprefix("training.")
        if key.startswith("training.") and (
            field_name in _HARMLESS or field_name.startswith(_HARMLESS_PREFIXES) or field_name in _LENGTH
        ):
            changed[key] = [None if value is _ABSENT else value for value in (one, other)]
        else:
            refused.append(f"{key} ({_shown(one)} then, {_shown(other)} now)")
    if refused:
        raise InputError(f"{what} holds a run that differs in {', '.join(refused)}; {remedy}")
    return changed


def require_same_run(output: Path, splits: Mapping[str, PackedSplit], *, what: str) -> Run:
    """Return the run in `output`; raise InputError unless it holds the very tokens of `splits`."""
    run = open_run(output)
    remedy = "resume with the examples of that run, or name a new directory and start anew"
    require_same_tokens(run, splits, what=what, remedy=remedy)
    return run


def require_same_tokens(run: Run, splits: Mapping[str, PackedSplit], *, what: str, remedy: str) -> None:
    """Raise InputError unless a run holds the very tokens of `splits`."""
    found = {split: entry["tokens_hash"] for split, entry in run.manifest["tokens"].items()}
    expected = {split: packed.tokens_hash() for split, packed in splits.items()}
    differing = sorted(split for split in {*found, *expected} if found.get(split) != expected.get(split))
    if differing:
        raise InputError(f"{what} holds a run of other examples than are given now ({', '.join(differing)}); {remedy}")


def require_same_facts(run: Run, facts: Mapping[str, Any], *, what: str, remedy: str) -> None:
    """Raise InputError unless data, tokenizer and starting model are those of a run, by their hashes."""
    # Where a model or a corpus lies is not what it is.
    differing = [
        key
        for key in differing_keys({key: run.manifest.get(key) for key in facts}, dict(facts))
        if not key.endswith(".name")
    ]
    if differing:
        raise InputError(f"{what} holds a run of other data than is given now ({', '.join(differing)}); {remedy}")


def another_start(output: Path, facts: Mapping[str, Any]) -> Path | None:
    """Return a run of the study in which `output` lies that started from another model than `facts` say, if any.

    A name in a recipe may mean another model by the time that a study's next run begins.
    """
    kind = output.absolute().parent.parent  # runs/ARM/seed-S, or a trial's like it
    if kind.name not in (schema.RUNS_FOLDER, schema.TUNING_FOLDER) or not (kind.parent / schema.STUDY_FILE).is_file():
        return None
    for file in sorted(kind.parent.glob(f"*/*/*/{schema.MANIFEST_FILE}")):
        try:
            begun = json.loads(file.read_bytes())["model"]["hash"]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # whoever reads that run says what is wrong with it
        if file.parent != output.absolute() and begun != facts["model"]["hash"]:
            return file.parent
    return None


def restore_hardware(output: Path, device: torch.device) -> list[str]:
    """Compute with as many threads, and the same matrix products, as the run in `output`; return what to say of it.

    Parameters
    ----------
    output : Path
    device : torch.device
        Where training computes now.
    """
    before, now = open_run(output).manifest["hardware"], {**hardware(device), "processes": world_size()}
    said = []
    restore_routes(open_run(output).manifest.get("head_routes", {}))
    threads = before.get("threads", now["threads"])
    if threads != now["threads"]:
        said.append(f"{output}: {threads} threads, as the run began with, instead of {now['threads']}")
        torch.set_num_threads(threads)
    differing = [
        key for key in ("machine", "processor", "device", "processes") if before.get(key, now[key]) != now[key]
    ]
    if differing:
        said.append(
            f"{output}: the run began on other hardware ({', '.join(differing)}); it goes on, but not in the same bits"
        )
    return said


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which the methods say all of theirs: an earlier version may have known fewer."""
    methods = settings.get("regularizers")
    return {**settings, **({"regularizers": [completed(one) for one in methods]} if methods else {})}


class _Absent:
    pass


_ABSENT: Any = _Absent()


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return _ABSENT
        settings = settings[part]
    return settings


def _shown(value: Any) -> str:
    text = "not set" if value is _ABSENT else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
