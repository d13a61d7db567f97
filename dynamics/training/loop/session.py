"""What goes on beside the steps of any Trainer: regularisers armed and asked, masks and metrics kept, epochs handed on.

A session is a callback. `DynamicsTrainer` drives it from its own loss; `attach` drives it from hooks on the model of a
Trainer that cannot be changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dynamics.errors import InputError
from dynamics.recipe.training_keys import conflict
from dynamics.regularizers.base import Batch, Regularizer, Removable
from dynamics.training.batches.dataset import KeyedOrder
from dynamics.training.batches.dataset_sequences import SequenceIndex, keys_of, where_in
from dynamics.training.environment.arguments import forward_dtype
from dynamics.training.environment.generators import evaluating
from dynamics.training.environment.interrupts import Interrupted
from dynamics.training.environment.processes import any_of, merged
from dynamics.training.loop.clean_pass import TokenValues, forward_values
from dynamics.training.loop.fused_head import fused_head
from dynamics.training.loop.step_metrics import StepMetrics


@dataclass(frozen=True, kw_only=True)
class TrainingPass:
    """What happened in one pass over the data.

    Attributes
    ----------
    dropped : ndarray of bool, shape (n_sequences, n_positions), optional
        None where no regulariser drops tokens.
    mean_loss : float, optional
        Mean of the steps' training losses, in nats; None where it is not known, and before training.
    loss, entropy : ndarray of float32, shape (n_sequences, n_positions), optional
        What the optimiser saw of each token, in nats, NaN where it saw nothing; where it is kept.
    """

    dropped: np.ndarray | None = None
    mean_loss: float | None = None
    loss: np.ndarray | None = None
    entropy: np.ndarray | None = None


OnEpoch = Callable[[Trainer, int, TrainingPass], TokenValues | None]


class Session(TrainerCallback):
    """The regularisers, the metrics and the recording of one training run.

    Parameters
    ----------
    regularizers : sequence of Regularizer
    metrics : StepMetrics, optional
        Receives a row per optimiser step.
    on_epoch : callable, optional
        Called as ``on_epoch(trainer, epoch, seen)`` with a `TrainingPass`, before training (epoch 0) and after each
        epoch. Returns the clean values of the training set as recorded, NaN where they are not, or None.
    on_batch : callable, optional
        Called with the number of rows of each micro-batch, for progress bars.
    training_pass : bool
        Keep what the optimiser saw of each token.
    stops : callable, optional
        Asked after each step whether to end training; then `Interrupted` is raised.
    on_divergence : callable, optional
        Called with a step and its sequences (rows of the training set) once its loss is known to be NaN or infinite,
        which is after the next step, so that no device is waited for; expected to raise. Without, training goes on.
    on_begin : callable, optional
        Called with the trainer before anything else, when training begins: opens the session.
    on_resume : callable, optional
        Called as ``on_resume(trainer, epoch)`` when training goes on after `epoch`; returns what `on_epoch` did then.
    on_end : callable, optional
        Called with the trainer when training is done.

    Raises
    ------
    InputError
        Regularisers contradict each other, naming both.
    """

    def __init__(
        self,
        regularizers: Sequence[Regularizer] = (),
        *,
        metrics: StepMetrics | None = None,
        on_epoch: OnEpoch | None = None,
        on_batch: Callable[[int], None] | None = None,
        training_pass: bool = False,
        stops: Callable[[], bool] = lambda: False,
        on_divergence: Callable[[int, list[int]], None] | None = None,
        on_begin: Callable[[Trainer], None] | None = None,
        on_resume: Callable[[Trainer, int], TokenValues] | None = None,
        on_end: Callable[[Trainer], None] | None = None,
    ) -> None:
        problem = conflict([method.settings.model_dump() for method in regularizers], {})
        if problem is not None:
            raise InputError(problem)
        self.regularizers = tuple(regularizers)
        self.metrics = metrics if metrics is not None else StepMetrics(None)
        self.resumed_state: dict[str, Any] | None = None
        #: Whether the trainer wants a model that answers a `HeadRequest` in training, and whether it has one.
        self.wants_fused = False
        self.fused = False
        #: The order of the training set, where the trainer keys it by epoch.
        self.order: KeyedOrder | None = None
        self._on_epoch = on_epoch
        self._on_batch = on_batch
        self.keeps_training_pass = training_pass
        self._stops = stops
        self._on_divergence = on_divergence
        self._unchecked: tuple[int, torch.Tensor, list[torch.Tensor]] | None = None
        self._rows: list[torch.Tensor] = []
        self._on_begin = on_begin
        self._on_resume = on_resume
        self._on_end = on_end
        self._trainer: Trainer | None = None
        self._index: SequenceIndex | None = None
        self._shape = (0, 0)
        self._pad_token_id: int | None = None
        #: The pass over the data that is under way, or was last.
        self.epoch = 1
        self._learning_rate = 0.0
        self._dropped: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._handles: list[Removable] = []
        self._patches = ExitStack()

    # What a trainer calls. ----------------------------------------------------------------------

    def bind(self, trainer: Trainer) -> None:
        """Say whose session this is."""
        self._trainer = trainer

    def open(self, keys: torch.Tensor, n_positions: int, *, pad_token_id: int | None = None) -> None:
        """Say which sequences there are, and how long the longest is."""
        self._index = SequenceIndex(keys)
        self._shape = (len(keys), n_positions)
        self._pad_token_id = pad_token_id

    def batch(self, inputs: Mapping[str, Any], values: TokenValues | None = None) -> Batch:
        """Return what a collated batch is to regularisers.

        Parameters
        ----------
        inputs : mapping
            As the collator made it; tensors of shape (B, T).
        values : TokenValues of tensors, optional
            What `current_values` returned.

        Raises
        ------
        InputError
            A sequence with predicted tokens is not one of those that the session was opened with.
        """
        assert self._index is not None and self._trainer is not None, "open() and bind() come first"
        where = where_in(inputs, pad_token_id=self._pad_token_id)
        # -1, padding, looks up the last sequence; nothing is predicted there.
        rows = self._index.rows(keys_of(inputs, where))[where.segment]
        unknown = where.predicted & ((rows < 0) | (where.position >= self._shape[1]))
        if unknown.any():
            raise InputError(
                f"{int(unknown.any(dim=1).sum())} rows of a training batch hold a sequence that the training set did "
                "not have when training began; the data set or its collator changes tokens from epoch to epoch, and a "
                "token that is not the same cannot be recorded or dropped by rank"
            )
        state = self._trainer.state
        return Batch(
            sequence_id=rows.clamp_min(0),
            position=where.position.clamp_max(self._shape[1] - 1),
            predicted=where.predicted,
            epoch=self.epoch,
            progress=state.global_step / state.max_steps,
            loss=None if values is None else values.loss,
            entropy=None if values is None else values.entropy,
        )

    def current_values(self, model: torch.nn.Module, inputs: Mapping[str, Any]) -> TokenValues | None:
        """Return clean values of a batch under the weights as they are, if a regulariser wants them.

        One more forward pass, in evaluation mode; the global generators are as before.

        Returns
        -------
        TokenValues of tensors of shape (B, T), or None
        """
        if not any(method.needs_current_values for method in self.regularizers):
            return None
        left_out = ("labels", "sequence_id", "num_items_in_batch")
        forward = {key: value for key, value in inputs.items() if key not in left_out}
        # Of every token: which are predicted is the batch's business.
        with torch.no_grad(), evaluating(model):
            return forward_values(model, forward, inputs["input_ids"], fused=self.fused)

    @contextmanager
    def armed(self, batch: Batch) -> Iterator[None]:
        """Let regularisers act on a forward pass, and note what they drop."""
        for method in self.regularizers:
            method.begin_batch(batch)
        try:
            yield
        finally:
            for method in self.regularizers:
                method.end_batch()

    def token_weight(self, batch: Batch) -> torch.Tensor | None:
        """Return the product of the regularisers' weights, shape (B, T), or None if there are none."""
        weights = [w for method in self.regularizers if (w := method.token_weight(batch)) is not None]
        return torch.stack(weights).prod(dim=0) if weights else None

    def end_batch(self, batch: Batch, loss_sum: torch.Tensor | None, values: TokenValues | None = None) -> None:
        """Note a micro-batch: its share of the step's loss (where known), what was dropped, and what was seen.

        Parameters
        ----------
        batch : Batch
        loss_sum : Tensor, scalar, optional
        values : TokenValues of tensors of shape (B, T), optional
            Of the training forward pass.
        """
        if self.keeps_training_pass:
            assert values is not None, "whoever keeps the training pass gives its values"
            both = torch.stack([values.loss, values.entropy]).float().cpu()
            where = batch.predicted.cpu()
            self._seen.append((batch.sequence_id.cpu()[where], batch.position.cpu()[where], both[:, where]))
        masks = [mask for method in self.regularizers if (mask := method.dropped(batch)) is not None]
        dropped = torch.stack(masks).any(dim=0) if masks else None
        if dropped is not None:
            self._dropped.append((batch.sequence_id, batch.position, dropped))
        self.metrics.add_batch(loss_sum=loss_sum, dropped=dropped, predicted=batch.predicted)
        if self._on_divergence is not None:
            self._rows.append(batch.sequence_id)
        if self._on_batch is not None:
            self._on_batch(len(batch.sequence_id))

    def detach(self) -> None:
        """Take every hook off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._patches.close()
        self.fused = False

    # What the Trainer calls. --------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the session, put every method's hooks on the model, and hand on epoch 0."""
        assert self._trainer is not None, "bind() comes first"
        self.detach()  # what an earlier training left that was cut off
        if self._on_begin is not None:
            self._on_begin(self._trainer)
        if self.wants_fused:
            dtype = forward_dtype(args)
            self.fused = self._patches.enter_context(fused_head(self._trainer.model_wrapped, dtype=dtype))
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        # NEFTune's hooks are there already, so that masks act after its noise.
        for method in self.regularizers:
            self._handles.extend(method.attach(model))
        if state.global_step == 0:
            self._end_epoch(0, None)
            return
        epoch = int((state.epoch or 0.0) + 1e-6)
        values = self._on_resume(self._trainer, epoch) if self._on_resume is not None else None
        self._tell(epoch, values)
        for method in self.regularizers:
            if (kept := (self.resumed_state or {}).get(type(method).__name__)) is not None:
                method.load_state(kept)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note which pass over the data begins, or goes on after a resume within it."""
        self.epoch = int((state.epoch or 0.0) + 1e-6) + 1
        if self.order is not None:
            # Set here, since what several processes wrap around a sampler does not hand the epoch on.
            self.order.set_epoch(self.epoch - 1)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the rate that this step used, before the scheduler moves on."""
        self._learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Finish the step's row of metrics."""
        self._check_loss()
        self._unchecked = (state.global_step, self.metrics.loss_of_step(), self._rows)
        self._rows = []
        progress = (state.global_step - 1) / state.max_steps
        ratios = [r for method in self.regularizers if (r := method.ratio(progress)) is not None]
        self.metrics.end_step(
            {
                "step": state.global_step,
                "epoch": state.epoch,
                "learning_rate": self._learning_rate,
                "ratio": 1.0 - float(np.prod([1.0 - ratio for ratio in ratios])) if ratios else None,
            }
        )
        for method in self.regularizers:
            method.end_step()
        if any_of(self._stops()):
            self._check_loss()
            self.metrics.flush()
            raise Interrupted

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hand on the epoch."""
        self._check_loss()
        self._end_epoch(self.epoch, self.metrics.end_epoch())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was found, and say that training is done."""
        self.detach()
        if self._on_end is not None:
            assert self._trainer is not None
            self._on_end(self._trainer)

    def _end_epoch(self, epoch: int, training_loss: float | None) -> None:
        dropped = None
        if any(method.ratio(0.0) is not None for method in self.regularizers):
            dropped = np.zeros(self._shape, dtype=np.bool_)
            for sequence_id, position, mask in self._dropped:
                where = mask.cpu()
                dropped[sequence_id.cpu()[where].numpy(), position.cpu()[where].numpy()] = True
            dropped = merged(dropped, blank=False)
        self._dropped = []
        values = None
        if self._on_epoch is not None:
            assert self._trainer is not None
            seen = TrainingPass(dropped=dropped, mean_loss=training_loss, **self._seen_values(epoch))
            values = self._on_epoch(self._trainer, epoch, seen)
        self._tell(epoch, values)
        self.metrics.restart_clock()

    def _check_loss(self) -> None:
        unchecked, self._unchecked = self._unchecked, None
        if unchecked is None or self._on_divergence is None:
            return
        step, loss, rows = unchecked
        if not torch.isfinite(loss):
            self.metrics.flush()
            self._on_divergence(step, torch.unique(torch.cat([row.flatten() for row in rows])).tolist())

    def _seen_values(self, epoch: int) -> dict[str, np.ndarray]:
        if not self.keeps_training_pass or epoch == 0:
            return {}
        whole = torch.full((2, *self._shape), torch.nan)
        for sequence_id, position, both in self._seen:
            whole[:, sequence_id, position] = both
        self._seen = []
        loss, entropy = (merged(values.numpy(), blank=np.nan) for values in whole)
        return {"loss": loss, "entropy": entropy}

    def _tell(self, epoch: int, values: TokenValues | None) -> None:
        """Tell the regularisers that an epoch is done, and what was recorded after it."""
        for method in self.regularizers:
            if not method.needs_epoch_values:
                method.end_epoch(epoch, None, None)
                continue
            if values is None:
                raise InputError(
                    f"{type(method).__name__}: ranks tokens by the values of the last epoch, and the training set is "
                    "not recorded; give the trainer a TokenRecorder"
                )
            method.end_epoch(epoch, values.loss, values.entropy)
