"""Token dropout within a pool: the tokens with the lowest, or the highest, values of a signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from dynamics.errors import InputError
from dynamics.regularizers.base import Batch, TrainingData
from dynamics.regularizers.pools import edge_of_share, lowest_share, lowest_share_on_device
from dynamics.regularizers.tables import DeviceTable
from dynamics.regularizers.token_dropout import TokenDropout, TokenDropoutSettings

if TYPE_CHECKING:
    import torch

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class PooledDropoutSettings(TokenDropoutSettings):
    """Token dropout within a pool of tokens that a signal selects."""

    pool: Share = Field(default=0.5, description="share of predicted tokens that may be dropped")
    signal: Literal["entropy", "loss"] = Field(
        default="entropy",
        description="what ranks the tokens: the entropy of the prediction, or the token's loss",
    )
    source: Literal["reference", "previous_epoch", "current"] = Field(
        default="reference",
        description="whose signal: the frozen starting model's, that recorded after the last epoch, or that of the "
        "current weights, by an extra forward pass",
    )
    ranks: Literal["dataset", "sequence", "document"] = Field(
        default="dataset",
        description="within what the pool is the lowest share: the training set, each sequence, or each document",
    )

    @model_validator(mode="after")
    def _kept_are_known(self) -> PooledDropoutSettings:
        if self.source == "current" and self.normalize == "kept":
            raise ValueError(
                "normalize: kept needs to know a batch's tokens before its step, and source: current finds them in "
                "it; use normalize: all"
            )
        return self

    @model_validator(mode="after")
    def _ratio_fits_pool(self) -> PooledDropoutSettings:
        if self.ratio > self.pool:
            raise ValueError(
                f"ratio {self.ratio:g} is above its pool {self.pool:g}: a share of all tokens cannot be dropped from a "
                f"smaller pool; lower ratio or raise pool"
            )
        return self


class PooledDropout(TokenDropout):
    """What EntroDrop and its inverse share; `pool_end` says which end of the signal is the pool."""

    settings: PooledDropoutSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        current = self.settings.source == "current"
        self.needs_current_values = current
        self.needs_epoch_values = self.settings.source == "previous_epoch" or (
            current and self.settings.ranks == "dataset"
        )
        self._tokens: np.ndarray | None = None  # predicted, over the training set
        self._group: np.ndarray | None = None
        self._documents: DeviceTable | None = None  # where parts of documents are ranked in a batch
        self._eligible: DeviceTable | None = None  # where the pool is known beforehand
        self._edge = -np.inf  # the highest value in the pool, where current values are ranked by the last epoch's

    @classmethod
    def ranks_records(cls, settings: Mapping[str, Any]) -> bool:
        return settings.get("source") == "previous_epoch"

    @property
    def pool(self) -> float:
        return self.settings.pool

    def prepare(self, data: TrainingData) -> None:
        super().prepare(data)
        self._tokens = data.predicted
        rows = np.arange(len(data.predicted))[:, None]
        group = {"dataset": None, "sequence": rows, "document": data.document_id}[self.settings.ranks]
        self._group = None if group is None else np.broadcast_to(group, data.predicted.shape)
        if self.settings.ranks == "document":
            self._documents = DeviceTable(data.document_id)
        self._rank(data.reference_loss, data.reference_entropy)

    def end_epoch(self, epoch: int, loss: np.ndarray | None, entropy: np.ndarray | None) -> None:
        if self.needs_epoch_values:
            assert loss is not None and entropy is not None, "the trainer gives what is asked for"
            self._rank(loss, entropy)

    def eligible(self, batch: Batch) -> torch.Tensor:
        if not self.needs_current_values:
            assert self._eligible is not None, "prepare() comes first"
            return batch.look_up(self._eligible)
        assert batch.loss is not None and batch.entropy is not None, "the trainer gives what is asked for"
        values: torch.Tensor = self._signal(batch.loss, batch.entropy)
        if self.settings.ranks == "dataset":
            return values <= self._edge
        # A document's tokens are ranked within its part in this sequence: no other is at hand.
        group = batch.sequence_id if self.settings.ranks == "sequence" else self._part(batch)
        return lowest_share_on_device(values, batch.predicted, self.settings.pool, group)

    def _rank(self, loss: np.ndarray, entropy: np.ndarray) -> None:
        """Rank the training set by values of one model."""
        assert self._tokens is not None, "prepare() comes first"
        values: np.ndarray = self._signal(loss, entropy)
        if self.needs_current_values:
            self._edge = edge_of_share(values, self._tokens, self.settings.pool)
            return
        unknown = (np.isnan(values) & self._tokens).any(axis=1).sum()
        if unknown:
            raise InputError(
                f"{type(self).__name__}: no value is known of {unknown} of {len(values)} sequences, so their tokens "
                "cannot be ranked; record all training sequences (train_sequences: all), and see that none is NaN"
            )
        self._eligible = DeviceTable(lowest_share(values, self._tokens, self.settings.pool, self._group))

    def _signal(self, loss: Any, entropy: Any) -> Any:
        """Return what is ranked, from arrays or tensors: the pool is its lowest share."""
        values = entropy if self.settings.signal == "entropy" else loss
        return -values if self.pool_end == "highest" else values

    def _part(self, batch: Batch) -> torch.Tensor:
        assert self._documents is not None, "prepare() comes first"
        # Documents are numbered below 2**31, and so are sequences.
        return batch.look_up(self._documents).long() + (batch.sequence_id << 32)
