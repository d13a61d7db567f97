"""What a regulariser is, and what it is told.

A method is a pure function plus a thin class. Where the class acts is a class attribute, so that it shows:
the trainer asks for exactly four things, each of which does nothing by default.

1. `training_arguments`: fields of transformers.TrainingArguments that carry the method.
2. `prepare`: the run's tokens and reference values, before training.
3. `attach`: hooks on the model, for the length of training.
4. `begin_batch`, `token_weight`, `end_batch`: around each training forward pass.

Nothing here is called in evaluation, generation or recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynamics.validation import Settings

ActsOn = Literal["input embeddings", "hidden states", "token losses", "loss", "optimiser"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The training set as a regulariser sees it, before training.

    Attributes
    ----------
    predicted : ndarray of bool, shape (n_sequences, n_positions)
        Tokens that have a prediction; no others are ever dropped.
    reference_loss, reference_entropy : ndarray of float32, shape (n_sequences, n_positions)
        Values under the frozen starting model, in nats; NaN where not predicted.
    tokenizer : PreTrainedTokenizerBase
    seed : int
        The run's seed.
    """

    predicted: np.ndarray
    reference_loss: np.ndarray
    reference_entropy: np.ndarray
    tokenizer: PreTrainedTokenizerBase
    seed: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of training, and where in training it stands.

    Attributes
    ----------
    sequence_id : Tensor of int64, shape (B,)
    predicted : Tensor of bool, shape (B, T)
    epoch : int
        The pass over the data, from 1.
    progress : float
        Optimiser steps done over all optimiser steps, in [0, 1).
    """

    sequence_id: torch.Tensor
    predicted: torch.Tensor
    epoch: int
    progress: float


class Regularizer:
    """A method that acts on training alone; see the module's text for the contract."""

    acts_on: ClassVar[tuple[ActsOn, ...]]
    settings: Settings

    def training_arguments(self) -> dict[str, Any]:
        """Return the fields of TrainingArguments that this method sets."""
        return {}

    def prepare(self, data: TrainingData) -> None:
        """Learn what the method must know of the training set, once, before training."""

    def attach(self, model: PreTrainedModel) -> Sequence[RemovableHandle]:
        """Put the method's hooks on `model`; the trainer removes them when training ends."""
        return ()

    def begin_batch(self, batch: Batch) -> None:
        """Arm the hooks for one training forward pass."""

    def end_batch(self) -> None:
        """Disarm the hooks."""

    def token_weight(self, batch: Batch) -> torch.Tensor | None:
        """Return a weight for each token's loss, shape (B, T), or None for one each."""
        return None

    def dropped(self, batch: Batch) -> torch.Tensor | None:
        """Return which tokens the method drops in `batch`, bool of shape (B, T), or None if it drops none."""
        return None

    def ratio(self, progress: float) -> float | None:
        """Return the expected share of predicted tokens dropped at `progress`, or None."""
        return None

    @property
    def normalizes_by_kept(self) -> bool:
        """Whether the loss is divided by the tokens with a weight, not by all predicted ones."""
        return False
