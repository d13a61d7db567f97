"""The only writer of a run directory during training: begins, resumes, records epochs, and finishes the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError
from dynamics.ops import chosen_routes
from dynamics.recipe.yaml_reading import dump
from dynamics.records import schema
from dynamics.records.metrics import rewind_metrics
from dynamics.records.reader import Run, open_run
from dynamics.records.writer import discard_epochs, finished_files, write_tokens
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.registry import curricula
from dynamics.training.environment.hardware import hardware, versions
from dynamics.training.environment.processes import on_rank_zero, rank, wait_for_all, world_size
from dynamics.training.loop.clean_pass import TokenValues
from dynamics.training.loop.training_pass import Moment, TrainingPass
from dynamics.training.recording.epoch_recorder import EpochRecorder, choose_sequences
from dynamics.training.resuming.same import Resumption

#: Called after an epoch is recorded, with the model, the moment, the mean loss of each split, and the pass.
OnRecorded = Callable[[torch.nn.Module, Moment, dict[str, float], TrainingPass], None]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What is known about a run before it begins, for every way to train.

    Attributes
    ----------
    output : Path
    name : str
    config : mapping
        The resolved recipe, or settings in its place. Its hash ties every epoch to the run.
    splits : mapping of str to PackedSplit
    reference : mapping of str to TokenValues
        The values of every split under the starting model.
    reference_made : mapping
        The device and precision that computed them, if another run or command did.
    sequences : mapping of str to int or "all"
        How many sequences of each split to record.
    regularizers : sequence of Regularizer
    value_dtype : str
        ``float16`` or ``float32``, on disk.
    forward_dtype : torch.dtype
        The autocast type of training, or float32.
    weight_dtype : torch.dtype
        The dtype of the model's weights, in which it computes without autocast.
    device : torch.device
        The device that computes.
    batch_size : int
        Sequences per forward pass.
    seeds : mapping
    facts : mapping
        Further entries for the manifest: hashes of data, model and tokenizer.
    beside : str, optional
        The name of a model that is measured next to the trained one; None for the trained one.
    """

    output: Path
    name: str
    config: Mapping[str, Any]
    splits: Mapping[str, PackedSplit]
    reference: Mapping[str, TokenValues]
    reference_made: Mapping[str, Any] = field(default_factory=dict)
    sequences: Mapping[str, int | str]
    regularizers: Sequence[Regularizer] = ()
    value_dtype: str = "float16"
    forward_dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    batch_size: int = 8
    seeds: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    beside: str | None = None

    @property
    def precision(self) -> str:
        """The precision of training: `float32`, `bfloat16` or `float16`."""
        dtype = self.weight_dtype if self.forward_dtype == torch.float32 else self.forward_dtype
        return str(dtype).removeprefix("torch.")


def plain_values(value: Any) -> Any:
    """Convert a value for a run's config: mappings, lists, numbers and text are kept, anything else becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(inner) for inner in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def reference_of_run(output: Path, splits: Iterable[str]) -> dict[str, TokenValues]:
    """Return the starting model's values from the run in `output`."""
    return {split: reference_values(output / schema.tokens_file(split)) for split in splits}


def reference_values(file: Path) -> TokenValues:
    """Return the starting model's values from a token file, or from the file next to checkpoints."""
    arrays = load_file(file)
    # The first version used shorter names in the file next to checkpoints.
    loss = arrays["reference_loss"] if "reference_loss" in arrays else arrays["loss"]
    entropy = arrays["reference_entropy"] if "reference_entropy" in arrays else arrays["entropy"]
    return TokenValues(loss=loss, entropy=entropy, correct=np.zeros(loss.shape, dtype=np.bool_))


def _require_precision(run: Run, plan: RunPlan) -> None:
    """Raise InputError if a run would be resumed in another precision."""
    before = run.manifest.get("precision", plan.precision)
    if before != plan.precision:
        raise InputError(
            f"{plan.output} holds a run that was trained in {before}, but training would continue in {plan.precision}; "
            f"continue in {before}, or start from the beginning in a new directory"
        )


class RunWriter:
    """Writes a run during training. Implements the loop's `Recording`.

    Parameters
    ----------
    plan : RunPlan
    on_recorded : callable, optional
        See `OnRecorded`.
    completes : bool
        Whether the run is complete when training ends. If not, something else must still be written (the model),
        and the caller then calls `complete`.
    """

    def __init__(self, plan: RunPlan, *, on_recorded: OnRecorded | None = None, completes: bool = True) -> None:
        self._plan = plan
        self._completes = completes
        self._on_recorded = on_recorded
        self._recorder: EpochRecorder | None = None
        self._manifest: dict[str, Any] = {}
        self._moment = Moment(epoch=0, step=0, passes=0.0)

    def begin(self, *, total_steps: int, steps_per_epoch: int | None, resumption: Resumption | None) -> None:
        """Write what is known before training; or return the existing run to the point where training resumes.

        Parameters
        ----------
        total_steps : int
            The planned number.
        steps_per_epoch : int, optional
            None if it is unknown; then the first pass determines it.
        resumption : Resumption, optional
            From `dynamics.training.resuming.same`, which has checked that the run is the same.
        """
        plan = self._plan
        recorded = {
            split: choose_sequences(len(packed.token_id), plan.sequences[split], split=split)
            for split, packed in plan.splits.items()
        }
        started, config_hash, history = time.time(), schema.config_hash(plan.config), []
        reference_made, facts = dict(plan.reference_made), dict(plan.facts)
        if resumption is not None:
            before = open_run(plan.output)
            _require_precision(before, plan)
            started, config_hash = before.manifest["timing"]["started"], before.manifest["config_hash"]
            reference_made = before.manifest.get("reference", {})
            # This hash is of the texts in the token files, which do not change.
            facts.pop("token_text", None)
            facts |= {key: before.manifest[key] for key in ("token_text",) if key in before.manifest}
            # A run resumed without changes gets no entry, so its files equal those of an uninterrupted run.
            entries = [resumption.entry(total_steps)] if resumption.changed else []
            history = [*before.manifest.get("resumed", []), *entries]
            recorded = {split: before.records(split).sequence_id for split in plan.splits}

        def lay_out() -> dict[str, Any]:
            plan.output.mkdir(parents=True, exist_ok=True)
            if resumption is not None:
                discard_epochs(plan.output, after=resumption.epoch)
                rewind_metrics(plan.output / schema.METRICS_FILE, step=resumption.step)
                tokens: dict[str, Any] = open_run(plan.output).manifest["tokens"]
                return tokens
            schema.atomic_write_bytes(plan.output / schema.CONFIG_FILE, dump(dict(plan.config)).encode())
            return {split: self._write_tokens(split, rows) for split, rows in recorded.items()}

        tokens = on_rank_zero(lay_out)
        self._recorder = EpochRecorder(
            plan.output,
            splits=plan.splits,
            recorded=recorded,
            config_hash=config_hash,
            batch_size=plan.batch_size,
            value_dtype=plan.value_dtype,
            forward_dtype=plan.forward_dtype,
        )
        self._manifest = {
            "format_version": schema.FORMAT_VERSION,
            "status": "running",
            "name": plan.name,
            "config_hash": config_hash,
            "config_sha256": schema.sha256_file(plan.output / schema.CONFIG_FILE),
            "versions": versions(),
            "hardware": {**hardware(plan.device), "processes": world_size()},
            "seeds": dict(plan.seeds),
            **facts,
            "precision": plan.precision,
            **({"reference": reference_made} if reference_made else {}),
            "tokens": tokens,
            "curriculum": curricula(plan.regularizers, total_steps),
            "steps_per_epoch": total_steps if steps_per_epoch is None else steps_per_epoch,
            "total_steps": total_steps,
            # Which kernels computed the head's products. The choice was measured, and is reused when the run resumes.
            "head_routes": chosen_routes(),
            **({"resumed": history} if history else {}),
            "timing": {"started": started},
        }
        on_rank_zero(lambda: self._write_manifest(self._manifest))

    def epoch(self, model: torch.nn.Module, moment: Moment, seen: TrainingPass) -> TokenValues:
        """Measure and write a moment. Return the clean values of the training set as recorded."""
        assert self._recorder is not None, "begin() comes first"
        means = self._recorder.record(model, moment, seen=seen)
        self._moment = moment
        before = dict(self._manifest)
        if moment.epoch == 1 and moment.whole:
            self._manifest["steps_per_epoch"] = moment.step
        self._manifest["head_routes"] = {**before["head_routes"], **chosen_routes()}
        # Only rank 0 decides. Other ranks may have chosen other routes, and need not be asked.
        if rank() == 0 and self._manifest != before:
            self._write_manifest(self._manifest)
        if self._on_recorded is not None:
            self._on_recorded(model, moment, means, seen)
        return self._recorder.values["train"]

    def recorded(self, epoch: int) -> TokenValues:
        """Return the clean values of the training set that were recorded at `epoch`."""
        assert self._recorder is not None, "begin() comes first"
        run = open_run(self._plan.output)
        self._moment = Moment(epoch=epoch, step=run.step(epoch) or 0, passes=run.passes(epoch))
        return self._recorder.recorded("train", run.records("train"), epoch)

    def diverged(self, step: int) -> None:
        """Note that training ends because the loss at `step` is not finite. Resuming removes the note."""
        self._manifest["diverged"] = {"step": step}
        if rank() == 0:
            self._write_manifest(self._manifest)

    def finish(self) -> None:
        """Note that training is done."""
        if self._completes:
            self.complete()

    def complete(self) -> None:
        """Write the manifest of the complete run, including what was trained if it differs from the plan."""
        if rank() == 0:
            plan, moment = self._plan, self._moment
            done: dict[str, Any] = {"total_steps": moment.step, "epochs_trained": moment.passes}
            if moment.step != self._manifest["total_steps"]:
                done["planned_steps"] = self._manifest["total_steps"]
                done["curriculum"] = curricula(plan.regularizers, self._manifest["total_steps"], done=moment.step)
            started = self._manifest["timing"]["started"]
            timing = {"started": started, "seconds": round(time.time() - started, 3)}
            files = finished_files(plan.output)
            self._write_manifest({**self._manifest, **done, "status": "complete", **files, "timing": timing})
        wait_for_all()

    def _write_manifest(self, content: Mapping[str, Any]) -> None:
        schema.write_manifest(self._plan.output / schema.MANIFEST_FILE, content)

    def _write_tokens(self, split: str, rows: np.ndarray) -> dict[str, Any]:
        packed, reference = self._plan.splits[split], self._plan.reference[split]
        return write_tokens(
            self._plan.output,
            split,
            packed,
            reference_loss=reference.loss,
            reference_entropy=reference.entropy,
            recorded_sequence_id=rows,
            unlabelled=packed.unlabelled,
            document_fields=packed.document_fields,
        )
