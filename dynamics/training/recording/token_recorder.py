"""Recording for one's own trainer: a run directory like any other, from the data sets of a Trainer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.numpy import load_file
from transformers import Trainer

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError
from dynamics.recipe.loading import differing_keys
from dynamics.recipe.yaml_reading import dump
from dynamics.records import schema
from dynamics.records.metrics import rewind_metrics
from dynamics.records.reader import Run, open_run
from dynamics.records.writer import discard_epochs, finished_files, write_tokens
from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.registry import curricula
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.environment.hardware import hardware, versions
from dynamics.training.loop.clean_pass import TokenValues
from dynamics.training.loop.session import TrainingPass
from dynamics.training.recording.epoch_recorder import EpochRecorder, choose_sequences


class TokenRecorder:
    """Writes loss, entropy and correctness of every token, before training and after each epoch, as a run.

    Give it to `DynamicsTrainer` or `attach`. What it writes opens with `open_run`; each example is a document. The
    training set and, where the trainer has one, its eval_dataset (as validation) are recorded.

    Parameters
    ----------
    output : path
        A new or empty directory; or that of the run which the trainer resumes.
    name : str, optional
        Of the run; by default that of the directory.
    train_sequences, validation_sequences : int or "all"
        How many sequences to record, chosen at random once.
    dtype : {"float16", "float32"}
        Of loss and entropy on disk.
    training_pass : bool
        Record also, apart from the clean values, what the optimiser saw of each token: with `DynamicsTrainer` alone,
        at the cost of its bytes.
    batch_size : int, optional
        Sequences per forward pass; by default the trainer's per_device_eval_batch_size.

    Raises
    ------
    InputError
        A setting is out of range.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        *,
        name: str | None = None,
        train_sequences: int | str = "all",
        validation_sequences: int | str = "all",
        dtype: str = "float16",
        training_pass: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if dtype not in schema.VALUE_DTYPES:
            raise InputError(f"TokenRecorder: dtype {dtype!r} is none of {', '.join(schema.VALUE_DTYPES)}")
        self._wanted = {"train": train_sequences, "validation": validation_sequences}
        for split, wanted in self._wanted.items():
            if wanted != "all" and (isinstance(wanted, str) or isinstance(wanted, bool) or wanted < 1):
                raise InputError(f'TokenRecorder: {split}_sequences {wanted!r} is neither "all" nor a number from 1')
        self.output = Path(output)
        self._name = name or self.output.absolute().name
        self._dtype = dtype
        self.training_pass = training_pass
        self._batch_size = batch_size
        self._recorder: EpochRecorder | None = None
        self._manifest: dict[str, Any] = {}
        self._started = 0.0

    @property
    def metrics_path(self) -> Path:
        """Where the scalars of each step go."""
        return self.output / schema.METRICS_FILE

    def begin(
        self,
        trainer: Trainer,
        splits: Mapping[str, PackedSplit],
        reference: Mapping[str, TokenValues],
        regularizers: Sequence[Regularizer],
    ) -> None:
        """Write what is known before training; go on with the run in the output if the trainer resumes it.

        Raises
        ------
        InputError
            The output holds something, and the trainer does not resume; or it holds another run.
        """
        self._started = time.time()
        args, state = trainer.args, trainer.state
        config = _config(self._name, trainer, regularizers)
        recorded = {
            split: choose_sequences(len(packed.token_id), self._wanted[split], split=split)
            for split, packed in splits.items()
        }
        if state.global_step == 0:
            self._require_free()
            self.output.mkdir(parents=True, exist_ok=True)
            schema.atomic_write_bytes(self.output / schema.CONFIG_FILE, dump(config).encode())
            tokens = {
                split: write_tokens(
                    self.output,
                    split,
                    packed,
                    reference_loss=reference[split].loss,
                    reference_entropy=reference[split].entropy,
                    recorded_sequence_id=recorded[split],
                    unlabelled=packed.unlabelled,
                )
                for split, packed in splits.items()
            }
        else:
            tokens = self._resume(trainer, config, splits)
        self._recorder = EpochRecorder(
            self.output,
            splits=splits,
            recorded=recorded,
            config_hash=schema.config_hash(config),
            batch_size=self._batch_size or args.per_device_eval_batch_size,
            value_dtype=self._dtype,
            forward_dtype=forward_dtype(args),
        )
        epochs = args.num_train_epochs
        self._manifest = {
            "format_version": schema.FORMAT_VERSION,
            "status": "running",
            "name": self._name,
            "config_hash": schema.config_hash(config),
            "config_sha256": schema.sha256_file(self.output / schema.CONFIG_FILE),
            "versions": versions(),
            "hardware": hardware(),
            "seeds": {"seed": args.seed},
            "precision": str(forward_dtype(args)).removeprefix("torch."),
            "tokens": tokens,
            "curriculum": curricula(regularizers, state.max_steps),
            "steps_per_epoch": max(1, round(state.max_steps / epochs)),
            "total_steps": state.max_steps,
            "timing": {"started": self._started},
        }
        schema.write_manifest(self.output / schema.MANIFEST_FILE, self._manifest)

    def saved_reference(self, splits: Mapping[str, PackedSplit]) -> dict[str, TokenValues]:
        """Return the values of the starting model that the run in the output holds.

        Raises
        ------
        InputError
            There is no run in the output, or one of other examples.
        """
        self._require_same_tokens(open_run(self.output), splits)
        found = {}
        for split in splits:
            arrays = load_file(self.output / schema.tokens_file(split))
            loss, entropy = arrays["reference_loss"], arrays["reference_entropy"]
            found[split] = TokenValues(loss=loss, entropy=entropy, correct=np.zeros(loss.shape, dtype=np.bool_))
        return found

    def on_epoch(self, trainer: Trainer, epoch: int, seen: TrainingPass) -> TokenValues:
        """Record an epoch; return the clean values of the training set, as recorded."""
        assert self._recorder is not None, "begin() comes first"
        self._recorder.record(trainer.model_wrapped, epoch, seen=seen)
        return self._recorder.values["train"]

    def on_resume(self, trainer: Trainer, epoch: int) -> TokenValues:
        """Return the clean values of the training set that were recorded after `epoch`."""
        assert self._recorder is not None, "begin() comes first"
        return self._recorder.recorded("train", open_run(self.output).records("train"), epoch)

    def finish(self, trainer: Trainer) -> None:
        """Write the manifest of the complete run."""
        timing = {"started": self._started, "seconds": round(time.time() - self._started, 3)}
        complete = {**self._manifest, "status": "complete", **finished_files(self.output), "timing": timing}
        schema.write_manifest(self.output / schema.MANIFEST_FILE, complete)

    def _require_free(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"TokenRecorder: {self.output} is a file; name a new directory")
        if self.output.exists() and any(self.output.iterdir()):
            raise InputError(
                f"TokenRecorder: {self.output} is not empty, and training starts from its first step; name a new "
                "directory, or resume the training whose run it holds"
            )

    def _resume(self, trainer: Trainer, config: Mapping[str, Any], splits: Mapping[str, PackedSplit]) -> dict[str, Any]:
        run = open_run(self.output)
        self._require_same_tokens(run, splits)
        differing = differing_keys(run.config, _plain(config))
        if differing:
            raise InputError(
                f"TokenRecorder: {self.output} holds a run that differs in {', '.join(differing)} from the training "
                "that is resumed; name a new directory"
            )
        discard_epochs(self.output, after=int(trainer.state.epoch or 0))
        rewind_metrics(self.metrics_path, step=trainer.state.global_step)
        return dict(run.manifest["tokens"])

    def _require_same_tokens(self, run: Run, splits: Mapping[str, PackedSplit]) -> None:
        found = {split: entry["tokens_hash"] for split, entry in run.manifest["tokens"].items()}
        if found != {split: packed.tokens_hash() for split, packed in splits.items()}:
            raise InputError(
                f"TokenRecorder: {self.output} holds a run of other examples than the training that is resumed; name "
                "a new directory"
            )


def _config(name: str, trainer: Trainer, regularizers: Sequence[Regularizer]) -> dict[str, Any]:
    """Return what stands for a recipe: what the run was trained with, as plain values."""
    # What says where things go, and how often they are told, is no part of what was trained.
    told = ("output_dir", "run_name", "resume_from_checkpoint", "report_to", "disable_tqdm", "log", "save_", "hub_")
    arguments = {key: value for key, value in cast(Any, trainer.args).to_dict().items() if not key.startswith(told)}
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "name": name,
        "trainer": type(trainer).__name__,
        "model": {"name": model.config.name_or_path or type(model).__name__},
        "regularizers": [method.settings.model_dump(mode="json") for method in regularizers],
        "training": _plain(arguments),
    }


def _plain(value: Any) -> Any:
    """Return a value as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
