"""Regularisers and recording on a Trainer that people already have: hooks and a callback, no subclass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.numpy import load_file
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.records.tensors import read_identity, write_tensors
from dynamics.regularizers.base import Regularizer, TrainingData
from dynamics.training.batches.dataset_sequences import Survey, survey
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.environment.generators import isolated_rng
from dynamics.training.environment.processes import world_size
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens
from dynamics.training.loop.session import Session
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.recording.token_recorder import TokenRecorder

#: In the trainer's output_dir: what a resumed training, whose model has changed, ranks tokens by.
REFERENCE_FILE = "reference-values.safetensors"


def attach(trainer: Trainer, *parts: TokenRecorder | Regularizer) -> Session:
    """Put recording and regularisers on a Trainer of any class, for all trainings from now on.

    The trainer computes its loss as it always does; what acts on the loss of single tokens takes their labels away
    before the model sees them. A token is known by its place in its sequence, and a sequence by its tokens, so that
    collators that pad or pack need not keep anything.

    Parameters
    ----------
    trainer : transformers.Trainer
        Or any subclass, TRL's SFTTrainer among them.
    *parts : TokenRecorder or Regularizer
        At most one recorder, and any number of regularisers.

    Returns
    -------
    Session
        The callback that was added.

    Raises
    ------
    InputError
        A part is neither, there are two recorders, or a method needs a loss of its own (use `DynamicsTrainer`).
    """
    recorders = [part for part in parts if isinstance(part, TokenRecorder)]
    methods = [part for part in parts if isinstance(part, Regularizer)]
    for part in parts:
        if not isinstance(part, TokenRecorder | Regularizer):
            raise InputError(f"attach: {part!r} is neither a TokenRecorder nor a regulariser; give an instance of one")
    if len(recorders) > 1:
        raise InputError(f"attach: {len(recorders)} recorders were given; one records everything")
    for method in methods:
        _require_attachable(method)
    if any(recorder.training_pass for recorder in recorders):
        raise InputError(
            "attach: training_pass=True records what the optimiser saw, which this trainer does not tell; use "
            "DynamicsTrainer"
        )
    session = open_session(methods, recorders[0] if recorders else None, losses=False, driver=_Hooks)
    session.bind(trainer)
    trainer.add_callback(session)
    return session


def open_session(
    regularizers: Sequence[Regularizer],
    recorder: TokenRecorder | None,
    *,
    losses: bool,
    driver: type[Session] = Session,
) -> Session:
    """Return a session that surveys the trainer's data sets when training begins.

    Parameters
    ----------
    regularizers : sequence of Regularizer
    recorder : TokenRecorder, optional
    losses : bool
        Whether the trainer tells the loss of each batch.
    driver : type
        The class of the session.
    """
    metrics = StepMetrics(None if recorder is None else recorder.metrics_path, losses=losses)

    def begin(trainer: Trainer) -> None:
        if world_size() > 1:
            raise InputError(
                f"{world_size()} processes train this model; recording and regularisers of one's own trainer work in "
                "one process so far: use `dynamics train` with a recipe, or start one process"
            )
        surveys = {"train": _survey(trainer, trainer.train_dataset)}
        if recorder is not None and trainer.eval_dataset is not None:
            surveys["validation"] = _survey(trainer, trainer.eval_dataset)
        splits = {split: found.packed for split, found in surveys.items()}
        reference = _references(trainer, splits, recorder) if recorder is not None or regularizers else {}
        train = surveys["train"].packed
        for method in regularizers:
            method.prepare(
                TrainingData(
                    token_id=train.token_id,
                    document_id=train.document_id,
                    predicted=train.predicted,
                    reference_loss=reference["train"].loss,
                    reference_entropy=reference["train"].entropy,
                    tokenizer=tokenizer_of(trainer),
                    seed=trainer.args.seed,
                )
            )
        session.open(surveys["train"].keys, train.token_id.shape[1], pad_token_id=_pad_token_id(trainer))
        if recorder is not None:
            recorder.begin(trainer, splits, reference, regularizers)

    session = driver(
        regularizers,
        metrics=metrics,
        training_pass=recorder is not None and recorder.training_pass,
        on_begin=begin,
        on_epoch=None if recorder is None else recorder.on_epoch,
        on_resume=None if recorder is None else recorder.on_resume,
        on_end=None if recorder is None else recorder.finish,
    )
    return session


class _Hooks(Session):
    """A session that stands around the model's own forward pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hooks: list[RemovableHandle] = []
        self._armed = ExitStack()
        self._batch: Any = None
        self._inside = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        assert self._trainer is not None
        model: Any = self._trainer.model
        self._hooks = [
            # First of all: what it arms are hooks of the same kind.
            model.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def detach(self) -> None:
        super().detach()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _before(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Evaluation, generation, recording, and passes that only measure are left alone.
        if self._inside or not (model.training and torch.is_grad_enabled()):
            return None
        self._inside = True
        try:
            values = self.current_values(model, kwargs)
        finally:
            self._inside = False
        self._batch = self.batch(kwargs, values)
        self._armed.enter_context(self.armed(self._batch))
        weight = self.token_weight(self._batch)
        if weight is None:
            return None
        # The trainer divides by the tokens that it counted beforehand: all predicted ones.
        return args, {**kwargs, "labels": kwargs["labels"].masked_fill(weight == 0, IGNORE_INDEX)}

    def _after(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._batch is None or self._inside:
            return
        batch, self._batch = self._batch, None
        self.end_batch(batch, None)
        self._armed.close()


def tokenizer_of(trainer: Trainer) -> Any:
    """Return the trainer's tokenizer, or None."""
    given = trainer.processing_class
    return getattr(given, "tokenizer", given)


def _require_attachable(method: Regularizer) -> None:
    name = type(method).__name__
    fields = method.training_arguments()
    if fields:
        ready = ", ".join(f"{key}={value!r}" for key, value in fields.items())
        raise InputError(f"attach: {name} is a setting of the trainer; give its arguments {ready} instead")
    if method.adapts:
        raise InputError(
            f"attach: {name} weighs tokens by their own predictions, which needs a loss of its own; use DynamicsTrainer"
        )
    if method.normalizes_by_kept:
        raise InputError(
            f"attach: {name} divides the loss by the kept tokens, and this trainer counts them before they are known; "
            "use normalize: all, or DynamicsTrainer"
        )


def _survey(trainer: Trainer, dataset: Any) -> Survey:
    if dataset is None:
        raise InputError("the trainer has no train_dataset; recording and regularisers need one")
    if isinstance(dataset, dict):
        raise InputError(
            f"eval_dataset is a mapping of data sets ({', '.join(dataset)}); recording needs one, so give one of them"
        )
    # In the order of the data set, through the trainer's own collator.
    with isolated_rng():
        return survey(
            trainer.get_eval_dataloader(dataset),
            tokenizer=tokenizer_of(trainer),
            pad_token_id=_pad_token_id(trainer),
        )


def _pad_token_id(trainer: Trainer) -> int | None:
    found = getattr(tokenizer_of(trainer), "pad_token_id", None)
    return found if found is not None else getattr(getattr(trainer.model, "config", None), "pad_token_id", None)


def _references(
    trainer: Trainer, splits: dict[str, PackedSplit], recorder: TokenRecorder | None
) -> dict[str, TokenValues]:
    """Return the values of the starting model: measured now, or before the training that is resumed."""
    file = Path(cast(str, trainer.args.output_dir)) / REFERENCE_FILE
    if trainer.state.global_step > 0:
        if recorder is not None:
            return recorder.saved_reference(splits)
        return _saved_reference(file, splits)
    found = {
        split: evaluate_tokens(
            trainer.model_wrapped,
            packed.token_id,
            packed.labels(),
            batch_size=trainer.args.per_device_eval_batch_size,
            dtype=forward_dtype(trainer.args),
        )
        for split, packed in splits.items()
    }
    if recorder is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"loss": found["train"].loss, "entropy": found["train"].entropy}
        write_tensors(file, arrays, {"tokens_hash": splits["train"].tokens_hash()})
    return found


def _saved_reference(file: Path, splits: dict[str, PackedSplit]) -> dict[str, TokenValues]:
    remedy = "resume from the output_dir in which training began, with the same examples, or start anew"
    if not file.is_file():
        raise InputError(f"{file} is missing, which holds the values of the starting model; {remedy}")
    if read_identity(file).get("tokens_hash") != splits["train"].tokens_hash():
        raise InputError(f"{file} holds the values of other examples than those of this training; {remedy}")
    arrays = load_file(file)
    correct = np.zeros(arrays["loss"].shape, dtype=np.bool_)
    return {"train": TokenValues(loss=arrays["loss"], entropy=arrays["entropy"], correct=correct)}
