"""What a regulariser is, and what it is told. Loads no torch, and neither does any method's file: recipes read them.

A method is a pure function plus a thin class, in a file that says all of the method's facts: its settings, and as class
attributes where it acts and what others must know of it. `registry` is the list of them all.

While training goes on a method never waits for the device: it reads no tensor on the host, and selects nothing by a
mask, since that makes a shape that the host has to know.
Each of the following does nothing by default:

1. `training_arguments`: fields of transformers.TrainingArguments that carry the method.
2. `prepare`: the run's tokens and reference values, before training.
3. `attach`: hooks on the model, for the length of training.
4. `begin_batch`, `token_weight`, `adaptive_weight`, `end_batch`: around each training forward pass.
5. `begin_auxiliary`, `end_auxiliary`: around a second forward pass of each micro-batch, where a method asks for one.
6. `end_step`, `end_epoch`: what a method learns while training goes on.

Nothing of these is called in evaluation, generation or recording. One more is, for a method that keeps a model of its
own beside the trained one (`beside`):

7. `averaged`: around a recording, with that model's weights in the places of the trained ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from dynamics.errors import InputError
from dynamics.validation import Settings, shown, validated

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from dynamics.regularizers.other_model import OtherModel
    from dynamics.regularizers.tables import DeviceTable

ActsOn = Literal[
    "input embeddings", "attention", "hidden states", "token losses", "loss", "optimiser", "copy of the weights"
]
PoolEnd = Literal["lowest", "highest", "any"]

Init = TypeVar("Init", bound=Callable[..., None])


def signature_of_settings(init: Init) -> Init:
    """Let a method's ``__init__`` be the signature of its settings: people and editors read it, no code runs in it.

    `Regularizer.__init__` takes the keywords as they were given, so that `settings_model` alone has the defaults that
    count, and knows which keys were given. tests/regularizers/test_signatures.py holds both to the same names, types
    and defaults.
    """

    @wraps(init)
    def construct(self: Regularizer, *positional: Any, **settings: Any) -> None:
        Regularizer.__init__(self, *positional, **settings)

    return construct  # type: ignore[return-value]


class Removable(Protocol):
    """What `Regularizer.attach` leaves on a model, and takes off again."""

    def remove(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The training set as a regulariser sees it, before training.

    Attributes
    ----------
    token_id, document_id : ndarray of int32, shape (n_sequences, n_positions)
        `document_id` is -1 at padding.
    predicted : ndarray of bool, shape (n_sequences, n_positions)
        Tokens that have a prediction; no others are ever dropped.
    reference_loss, reference_entropy : ndarray of float32, shape (n_sequences, n_positions)
        Values under the frozen starting model, in nats; NaN where not predicted.
    tokenizer : PreTrainedTokenizerBase, optional
        None where the training set came as ids.
    seed : int
        The run's seed.
    values_of : mapping of str to (ndarray, ndarray)
        Loss and entropy as above under other models, by `OtherModel.model`: those that methods asked for.
    """

    token_id: np.ndarray
    document_id: np.ndarray
    predicted: np.ndarray
    reference_loss: np.ndarray
    reference_entropy: np.ndarray
    tokenizer: PreTrainedTokenizerBase | None
    seed: int
    values_of: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of training, and where in training it stands.

    A row of a batch may hold one sequence, or several (packed, with position_ids); so each token says which
    sequence it belongs to, and where in it.

    Attributes
    ----------
    sequence_id : Tensor of int64, shape (B, T)
        Row of the training set; any row where `predicted` is false.
    position : Tensor of int64, shape (B, T)
        Position in that row.
    predicted : Tensor of bool, shape (B, T)
    epoch : int
        The pass over the data, from 1.
    progress : float
        Optimiser steps done over all optimiser steps, in [0, 1).
    loss, entropy : Tensor of float32, shape (B, T), optional
        Clean values under the current weights, in nats, for methods that ask for them (`needs_current_values`).
    """

    sequence_id: torch.Tensor
    position: torch.Tensor
    predicted: torch.Tensor
    epoch: int
    progress: float
    loss: torch.Tensor | None = None
    entropy: torch.Tensor | None = None

    def look_up(self, table: DeviceTable) -> torch.Tensor:
        """Return the entries of a table over the training set, (n_sequences, n_positions), as shape (B, T)."""
        return table.on(self.sequence_id.device)[self.sequence_id, self.position]


class Regularizer:
    """A method that acts on training alone; see the module's text for the contract.

    A method declares its settings in an ``__init__`` under `signature_of_settings`, and makes what it needs besides
    them in `set_up`.

    Parameters
    ----------
    **settings
        Fields of `settings_model`.

    Raises
    ------
    InputError
        A setting is given by position, is unknown, of the wrong type or out of range, or settings contradict each
        other.
    """

    #: What the method can be told; its field `name` has the method's name in a recipe as its one value.
    settings_model: ClassVar[type[Settings]]
    acts_on: ClassVar[tuple[ActsOn, ...]]
    #: The setting that TrainingArguments carries in the method's place, and its field there.
    argument: ClassVar[tuple[str, str] | None] = None
    #: Methods with the same word here compare the same draw of each token with different thresholds, so that arms
    #: differ in as few tokens as they can; their masks are not independent.
    draws: ClassVar[str | None] = None
    #: Which end of a signal a method drops tokens from; None if it drops none by rank.
    pool_end: ClassVar[PoolEnd | None] = None

    settings: Settings

    #: Whether `Batch.loss` and `Batch.entropy` must be filled, by an extra forward pass.
    needs_current_values: bool = False
    #: Whether `end_epoch` must be given the clean values of the training set.
    needs_epoch_values: bool = False
    #: Whether `adaptive_weight` depends on the step's own predictions.
    adapts: bool = False
    #: Whether `adaptive_weight` must be given whole logits, which then are computed and held for every token.
    needs_logits: bool = False
    #: What the loss of a second forward pass counts, which is added to that of the first; 0 where none is asked for.
    #: In it all methods act as in the first one, and this one as `begin_auxiliary` arms it. Its loss is weighed and
    #: divided as the first one's. What a run records is the first pass's.
    auxiliary_weight: float = 0.0
    #: Whether `adaptive_weight` must be told by a keyword `rows` which tokens it is asked about: a slice or int64
    #: indices into the B (T - 1) tokens of the micro-batch that have one before them in their row.
    needs_rows: bool = False

    def __init__(self, *positional: Any, **settings: Any) -> None:
        name = type(self).__name__
        if positional:
            keys = [key for key in self.settings_model.model_fields if key != "name"]
            raise InputError(
                f"{name}: settings are given by name, such as {name}({keys[0]}=...), and {shown(positional[0])} has "
                f"none; there are {', '.join(keys)}"
            )
        self.settings = validated(self.settings_model, settings, where=name)
        self.set_up()

    def set_up(self) -> None:
        """Make what the method keeps besides its settings, once these are known."""

    @classmethod
    def recipe_name(cls) -> str:
        """Return the method's name in a recipe."""
        name: str = cls.settings_model.model_fields["name"].default
        return name

    @classmethod
    def divisor(cls, settings: Mapping[str, Any]) -> str | None:
        """Return by what such settings want the loss divided: `all` predicted tokens, or those `kept`.

        None where the method leaves no token out of the loss, or leaves out what is known only once the losses are,
        and so has no say.
        """
        return None

    @classmethod
    def ranks_records(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether such settings rank every training token by what was recorded of it."""
        return False

    @classmethod
    def told_apart(cls, settings: Mapping[str, Any]) -> str:
        """Return what tells one with such settings from another of the same method, where both may act together."""
        return ""

    @property
    def key(self) -> str:
        """What a checkpoint calls the method by."""
        return type(self).__name__

    @property
    def beside(self) -> str | None:
        """What a model is called that the method keeps beside the trained one, to be recorded too; None: there is none.

        A word for names of folders.
        """
        return None

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights of the one beside it; asked for if there is one."""
        return nullcontext()

    def training_arguments(self) -> dict[str, Any]:
        """Return the fields of TrainingArguments that this method sets: that of `argument`, if it has one."""
        if self.argument is None:
            return {}
        setting, field = self.argument
        return {field: getattr(self.settings, setting)}

    @property
    def other_model(self) -> OtherModel | None:
        """The model beside the one that is trained whose values `prepare` must be given, if there is one."""
        return None

    def prepare(self, data: TrainingData) -> None:
        """Learn what the method must know of the training set, once, before training."""

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        """Put the method's hooks on `model`; whoever trains removes them when training ends.

        Parameters
        ----------
        model : Module
            As it stands beneath what several processes wrap around it.
        embedding : Module, optional
            Its input embedding, for a model that has no `get_input_embeddings`.
        """
        return ()

    def begin_batch(self, batch: Batch) -> None:
        """Arm the hooks for one training forward pass."""

    def end_batch(self) -> None:
        """Disarm the hooks."""

    def begin_auxiliary(self, batch: Batch) -> None:
        """Arm the hooks for a second forward pass of the same micro-batch; called if `auxiliary_weight` is not 0."""

    def end_auxiliary(self) -> None:
        """Disarm what `begin_auxiliary` armed."""

    def token_weight(self, batch: Batch) -> torch.Tensor | None:
        """Return a weight for each token's loss, shape (B, T), or None for one each."""
        return None

    def adaptive_weight(
        self, loss: torch.Tensor, entropy: torch.Tensor, kept: torch.Tensor, logits: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a weight for each token's loss that depends on its own prediction; asked for if `adapts`.

        Asked any number of times in a micro-batch, each time about other tokens of it, and of an auxiliary pass as of
        the first. Must not wait for the device: nothing is selected by a mask, since that makes a shape that the host
        has to know.

        Parameters
        ----------
        loss, entropy : Tensor of float32, shape (N,)
            In nats, detached; anything, NaN too, where not `kept`.
        kept : Tensor of bool, shape (N,)
            Tokens that count: predicted, and not left out by another method. The weights of the rest are not read.
        logits : Tensor, shape (N, V), optional
            Detached; given if `needs_logits`.

        Returns
        -------
        Tensor of float32, shape (N,)
        """
        raise AssertionError(f"{type(self).__name__} does not adapt")

    def dropped(self, batch: Batch) -> torch.Tensor | None:
        """Return which tokens the method drops in `batch`, bool of shape (B, T), or None if it drops none."""
        return None

    def ratio(self, progress: float) -> float | None:
        """Return the expected share of predicted tokens dropped at `progress`, or None."""
        return None

    @property
    def normalizes_by_kept(self) -> bool:
        """Whether the loss is divided by the sum of the tokens' weights, not by the number of predicted tokens."""
        return self.divisor(self.settings.model_dump()) == "kept"

    def end_step(self) -> None:
        """Note that an optimiser step is done."""

    def end_epoch(self, epoch: int, loss: np.ndarray | None, entropy: np.ndarray | None) -> None:
        """Note that a pass over the data is done (0: before training).

        Parameters
        ----------
        epoch : int
        loss, entropy : ndarray of float, shape (n_sequences, n_positions), optional
            Clean values of the training set as they are recorded, in nats; NaN where nothing is predicted or
            recorded. Given if `needs_epoch_values`.
        """

    def state(self) -> dict[str, Any]:
        """Return what must be kept for training to resume, as JSON values."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what else must be kept, too large for JSON: tensors by name, the same in all processes."""
        return {}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up what `tensors` returned, after `load_state`; on the host."""
