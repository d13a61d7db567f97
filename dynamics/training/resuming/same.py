"""What must be the same when a run is resumed, what may differ, and the messages about it."""

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

# Fields of TrainingArguments that do not affect the weights: folders, logging, data loading, evaluation.
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
# The length of training. A run may be resumed with a longer or shorter one; the manifest notes it.
_LENGTH = ("num_train_epochs", "max_steps", "total_steps")
# Settings that are compared by the hash of their content, because a corpus, model or output may have moved.
_BY_HASH = ("name", "corpus", "tokenizer", "model", "base", "validation", "tuning")


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """The point at which a run is resumed.

    Attributes
    ----------
    epoch : int
        The last epoch whose records are kept.
    step : int
        Optimiser steps that are done.
    changed : mapping
        Permitted differences from the run's settings: key, old value and new value.
    """

    epoch: int
    step: int
    changed: Mapping[str, Any] = field(default_factory=dict)

    def entry(self, total_steps: int) -> dict[str, Any]:
        """Return the entry for the manifest."""
        return {"step": self.step, "total_steps": total_steps, "changed": dict(self.changed)}


def allowed_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, common_only: bool, what: str, remedy: str
) -> dict[str, Any]:
    """Return the permitted differences between settings, each as ``[before, now]``.

    Parameters
    ----------
    before, now : mapping
        Resolved recipes, or the settings of a run without one.
    common_only : bool
        Ignore keys that only one of them has, because versions of transformers have different keys.
    what : str
        Describes the run in the message.
    remedy : str
        What the user can do if the settings cannot be restored.

    Raises
    ------
    InputError
        Another setting differs. The message names each one with both values.
    """
    changed, refused = {}, []
    before, now = _completed(before), _completed(now)
    for key in differing_keys(before, now):
        one, other = _at(before, key), _at(now, key)
        # The choice of documents that are kept is not part of any hash.
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
    """Return the run in `output`. Raise InputError unless it holds exactly the tokens of `splits`."""
    run = open_run(output)
    remedy = "resume with the examples of that run, or start from the beginning in a new directory"
    require_same_tokens(run, splits, what=what, remedy=remedy)
    return run


def require_same_tokens(run: Run, splits: Mapping[str, PackedSplit], *, what: str, remedy: str) -> None:
    """Raise InputError unless a run holds exactly the tokens of `splits`."""
    found = {split: entry["tokens_hash"] for split, entry in run.manifest["tokens"].items()}
    expected = {split: packed.tokens_hash() for split, packed in splits.items()}
    differing = sorted(split for split in {*found, *expected} if found.get(split) != expected.get(split))
    if differing:
        raise InputError(f"{what} holds a run with different examples ({', '.join(differing)}); {remedy}")


def require_same_facts(run: Run, facts: Mapping[str, Any], *, what: str, remedy: str) -> None:
    """Raise InputError unless data, tokenizer and starting model have the same hashes as those of a run."""
    # The path of a model or corpus does not matter.
    differing = [
        key
        for key in differing_keys({key: run.manifest.get(key) for key in facts}, dict(facts))
        if not key.endswith(".name")
    ]
    if differing:
        raise InputError(f"{what} holds a run with different data ({', '.join(differing)}); {remedy}")


def another_start(output: Path, facts: Mapping[str, Any]) -> Path | None:
    """Return a run of the same study as `output` with another starting model than in `facts`, or None.

    A model's name may refer to different weights by the time that a study's next run starts.
    """
    kind = output.absolute().parent.parent  # of runs/ARM/seed-S, or the same for trials
    if kind.name not in (schema.RUNS_FOLDER, schema.TUNING_FOLDER) or not (kind.parent / schema.STUDY_FILE).is_file():
        return None
    for file in sorted(kind.parent.glob(f"*/*/*/{schema.MANIFEST_FILE}")):
        try:
            begun = json.loads(file.read_bytes())["model"]["hash"]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # an unreadable run is reported when it is read itself
        if file.parent != output.absolute() and begun != facts["model"]["hash"]:
            return file.parent
    return None


def restore_hardware(output: Path, device: torch.device) -> list[str]:
    """Use the number of threads and the matrix precision of the run in `output`. Return messages about it.

    Parameters
    ----------
    output : Path
    device : torch.device
        The device of the resumed training.
    """
    before, now = open_run(output).manifest["hardware"], {**hardware(device), "processes": world_size()}
    said = []
    restore_routes(open_run(output).manifest.get("head_routes", {}))
    threads = before.get("threads", now["threads"])
    if threads != now["threads"]:
        said.append(f"{output}: uses {threads} threads, as the run did at its start, instead of {now['threads']}")
        torch.set_num_threads(threads)
    differing = [
        key for key in ("machine", "processor", "device", "processes") if before.get(key, now[key]) != now[key]
    ]
    if differing:
        said.append(
            f"{output}: the run began on other hardware ({', '.join(differing)}); it continues, but not bit-identically"
        )
    return said


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in settings of methods that an earlier version did not have."""
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
