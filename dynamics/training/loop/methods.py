"""The regularisers of one training: activated in each forward pass, and asked for masks and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError
from dynamics.recipe.training_keys import conflict
from dynamics.regularizers.base import Batch, Regularizer, Removable, TrainingData
from dynamics.training.loop.clean_pass import TokenValues


def training_data(
    packed: PackedSplit,
    reference: TokenValues,
    *,
    tokenizer: Any,
    seed: int,
    values_of: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> TrainingData:
    """Return the training set in the form that regularisers get.

    Parameters
    ----------
    packed : PackedSplit
    reference : TokenValues
        The training set's values under the starting model.
    tokenizer : PreTrainedTokenizerBase, optional
    seed : int
        The run's seed.
    values_of : mapping, optional
        Loss and entropy under other models, from `values_of_others`.
    """
    return TrainingData(
        token_id=packed.token_id,
        document_id=packed.document_id,
        predicted=packed.predicted,
        reference_loss=reference.loss,
        reference_entropy=reference.entropy,
        tokenizer=tokenizer,
        seed=seed,
        values_of=values_of or {},
    )


def require_labels_suffice(method: Regularizer, *, where: str, instead: str) -> None:
    """Raise InputError for a method that needs more than labels and inputs, if the loss is not ours to compute.

    Parameters
    ----------
    method : Regularizer
    where, instead : str
        The entry point that was used and the one to use instead, for the message.
    """
    name = type(method).__name__
    fields = method.training_arguments()
    if fields:
        ready = ", ".join(f"{key}={value!r}" for key, value in fields.items())
        raise InputError(f"{where}: {name} is a setting of the trainer; give its arguments {ready} instead")
    if method.adapts:
        raise InputError(
            f"{where}: {name} weights tokens by their own predictions, which needs a loss of its own; use {instead}"
        )
    if method.normalizes_by_kept:
        raise InputError(
            f"{where}: {name} divides the loss by the kept tokens, but this trainer counts tokens before they are "
            f"known; use normalize: all, or {instead}"
        )


class Methods:
    """Several regularisers, used as one.

    Parameters
    ----------
    regularizers : sequence of Regularizer

    Raises
    ------
    InputError
        Two of them contradict each other. The message names both.
    """

    def __init__(self, regularizers: Sequence[Regularizer] = ()) -> None:
        problem = conflict([method.settings.model_dump() for method in regularizers], {})
        if problem is not None:
            raise InputError(problem)
        self.all = tuple(regularizers)
        self.adapting = tuple(method for method in self.all if method.adapts)
        #: The methods that ask for a second forward pass.
        self.auxiliary = tuple(method for method in self.all if method.auxiliary_weight != 0.0)
        self._handles: list[Removable] = []

    @property
    def needs_current_values(self) -> bool:
        """Whether a method needs the batch's values under the current weights."""
        return any(method.needs_current_values for method in self.all)

    @property
    def needs_logits(self) -> bool:
        """Whether a method computes weights from full logits."""
        return any(method.needs_logits for method in self.adapting)

    @property
    def drop(self) -> bool:
        """Whether a method drops tokens."""
        return any(method.ratio(0.0) is not None for method in self.all)

    @property
    def normalizes_by_kept(self) -> bool:
        """Whether the loss is divided by the kept weight."""
        return any(method.normalizes_by_kept for method in self.all)

    def prepare(self, data: TrainingData) -> None:
        """Give the methods the training set, before training."""
        for method in self.all:
            method.prepare(data)

    def attach(self, model: Any, **options: Any) -> None:
        """Add the methods' hooks to a model, after removing earlier ones."""
        self.detach()
        for method in self.all:
            self._handles.extend(method.attach(model, **options))

    def detach(self) -> None:
        """Remove the methods' hooks."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    @contextmanager
    def armed(self, batch: Batch) -> Iterator[None]:
        """Activate the methods during a forward pass."""
        try:
            for method in self.all:
                method.begin_batch(batch)
            yield
        finally:
            for method in self.all:
                method.end_batch()

    def auxiliary_loss(self, batch: Batch, one_pass: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        """Return what second forward passes add to a micro-batch's loss, or None if no method asks for one.

        Parameters
        ----------
        batch : Batch
            The batch with which the methods are `armed`.
        one_pass : callable
            Repeats the first forward pass and returns its loss.
        """
        total: torch.Tensor | None = None
        for method in self.auxiliary:
            try:
                method.begin_auxiliary(batch)
                loss = method.auxiliary_weight * one_pass()
            finally:
                method.end_auxiliary()
            total = loss if total is None else total + loss
        return total

    def token_weight(self, batch: Batch) -> torch.Tensor | None:
        """Return the product of the methods' weights, shape (B, T), or None if there are none."""
        weights = [w for method in self.all if (w := method.token_weight(batch)) is not None]
        return torch.stack(weights).prod(dim=0) if weights else None

    def adaptive_weight(
        self,
        loss: torch.Tensor,
        entropy: torch.Tensor,
        kept: torch.Tensor,
        logits: torch.Tensor | None = None,
        *,
        rows: Any = slice(None),
    ) -> torch.Tensor:
        """Return the product of the weights that depend on the predictions: float32, shape (N,).

        Parameters
        ----------
        loss, entropy : Tensor, shape (N,)
        kept : Tensor of bool, shape (N,)
            False for rows without a meaningful value or weight.
        logits : Tensor, shape (N, V), optional
            Given if a method needs them.
        rows : slice or Tensor of int64, shape (N,)
            The rows' indices among the B (T - 1) tokens of the micro-batch.
        """
        product = torch.ones_like(loss, dtype=torch.float32)
        for method in self.adapting:
            told = {"rows": rows} if method.needs_rows else {}
            product = product * method.adaptive_weight(loss, entropy, kept, logits, **told).float()
        return torch.where(kept, product, 0.0)

    def dropped(self, batch: Batch) -> torch.Tensor | None:
        """Return the tokens of a batch that any method drops: bool of shape (B, T), or None if no method drops."""
        masks = [mask for method in self.all if (mask := method.dropped(batch)) is not None]
        return torch.stack(masks).any(dim=0) if masks else None

    def ratio(self, progress: float) -> float | None:
        """Return the expected share of predicted tokens that the methods drop together, or None."""
        ratios = [ratio for method in self.all if (ratio := method.ratio(progress)) is not None]
        return 1.0 - float(np.prod([1.0 - ratio for ratio in ratios])) if ratios else None

    def end_step(self) -> None:
        """Tell the methods that an optimiser step is done."""
        for method in self.all:
            method.end_step()

    def end_epoch(self, epoch: int, values: TokenValues | None) -> None:
        """Tell the methods that a pass is done, and give them its recorded values.

        Raises
        ------
        InputError
            A method needs the recorded values, but there are none.
        """
        for method in self.all:
            if not method.needs_epoch_values:
                method.end_epoch(epoch, None, None)
            elif values is None:
                raise InputError(
                    f"{type(method).__name__}: ranks tokens by the values of the last epoch, but the training set is "
                    "not recorded; give the trainer a TokenRecorder"
                )
            else:
                method.end_epoch(epoch, values.loss, values.entropy)

    def state(self) -> dict[str, Any]:
        """Return the state that the methods need to resume, as JSON values by key."""
        return {method.key: method.state() for method in self.all}

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the tensors that the methods need to resume, by key; only for methods that have any."""
        return {method.key: found for method in self.all if (found := method.tensors())}

    def load_state(self, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Restore what `state` and `tensors` returned.

        Raises
        ------
        InputError
            A method needs tensors, but there are none.
        """
        for method in self.all:
            if (kept := state.get(method.key)) is not None:
                method.load_state(kept)
            if method.key in tensors:
                method.load_tensors(tensors[method.key])
            elif method.tensors():
                raise InputError(
                    f"{type(method).__name__}: the checkpoint was written without this method and has none of its "
                    "tensors; resume from one that was written with it, or start from the beginning"
                )
