"""Token dropout within a pool: the tokens with the lowest, or the highest, values of a signal.

Whose values rank the tokens, and among which they are ranked, decides what is known when. What a token is told of its
place (`_told`) is the same in every case; `chances` makes the probability of being dropped from it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from dynamics.errors import InputError
from dynamics.regularizers.base import Batch, TrainingData
from dynamics.regularizers.chances import by_distance, falling, lowest, uniform
from dynamics.regularizers.other_model import OtherModel, require_same_values, values_hash
from dynamics.regularizers.pools import in_order, of_next, ranks, ranks_on_device
from dynamics.regularizers.tables import DeviceTable
from dynamics.regularizers.token_dropout import TokenDropout, TokenDropoutSettings

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class PooledDropoutSettings(TokenDropoutSettings):
    """Token dropout within a pool of tokens that a signal selects."""

    pool: Share | None = Field(
        default=0.5, description="share of predicted tokens that may be dropped; null with a threshold"
    )
    threshold: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="in nats, instead of `pool`: tokens at or below it may be dropped (inverse: above)"
    )
    choice: Literal["uniform", "graded", "lowest"] = Field(
        default="uniform",
        description="who of the pool is dropped: any, each with the same probability; the lower the likelier; or the "
        "lowest of all, by no draw",
    )
    signal: Literal["entropy", "loss"] = Field(
        default="entropy",
        description="what ranks the tokens: the entropy of the prediction, or the token's loss",
    )
    distribution: Literal["of_token", "at_token"] = Field(
        default="of_token",
        description="which prediction that is: that of the token itself, or the one that the model makes at its place, "
        "of the token after it",
    )
    source: Literal["reference", "previous_epoch", "current"] | OtherModel = Field(
        default="reference",
        description="whose signal: the frozen starting model's, that recorded after the last epoch, that of the "
        "current weights, by an extra forward pass, or that of another model, {model: FOLDER or hub name}",
    )
    ranks: Literal["dataset", "sequence", "document", "batch"] = Field(
        default="dataset",
        description="within what the pool is the lowest share: the training set, each sequence, each document, or each "
        "micro-batch of a process",
    )

    @model_validator(mode="before")
    @classmethod
    def _threshold_alone(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("threshold") is not None and "pool" not in value:
            return {**value, "pool": None}
        return value

    @model_validator(mode="after")
    def _one_pool(self) -> PooledDropoutSettings:
        if (self.pool is None) == (self.threshold is None):
            both = "pool and threshold both say" if self.pool is not None else "neither pool nor threshold says"
            raise ValueError(f"{both} which tokens may be dropped; give one of them (pool: null beside a threshold)")
        if self.threshold is None:
            return self
        if self.ranks != "dataset":
            raise ValueError(f"ranks: {self.ranks} is not read with a threshold, which ranks nothing; leave it out")
        if self.choice == "lowest":
            raise ValueError(
                "choice: lowest drops the lowest share of all tokens, wherever a threshold lies; leave threshold out"
            )
        return self

    @model_validator(mode="after")
    def _draws_are_rescaled(self) -> PooledDropoutSettings:
        if self.choice == "lowest" and self.rescale == "token":
            raise ValueError(
                "rescale: token has nothing to scale with choice: lowest, where tokens that are kept are kept for "
                "certain; use rescale: mean or none"
            )
        return self

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
        if self.pool is not None and self.ratio > self.pool:
            raise ValueError(
                f"ratio {self.ratio:g} is above its pool {self.pool:g}: a share of all tokens cannot be dropped from a "
                f"smaller pool; lower ratio or raise pool"
            )
        return self


class PooledDropout(TokenDropout):
    """What EntroDrop and its inverse share; `pool_end` says which end of the signal is the pool."""

    settings: PooledDropoutSettings

    def set_up(self) -> None:
        super().set_up()
        current = self.settings.source == "current"
        self.needs_current_values = current
        self.needs_epoch_values = self.settings.source == "previous_epoch" or (
            current and self.settings.ranks == "dataset"
        )
        self._tokens: np.ndarray | None = None  # predicted, over the training set
        self._group: np.ndarray | None = None
        self._documents: DeviceTable | None = None  # where parts of documents are ranked in a batch
        self._table: DeviceTable | None = None  # what each token is told, where that is known beforehand
        self._values: DeviceTable | None = None  # what is ranked, where that is known and ranks are not
        self._order: DeviceTable | None = None  # the last epoch's values, among which current ones are ranked
        self._values_hash: str | None = None  # of another model's values
        # Of the pool under a threshold: its share of the predicted tokens, and the distances in it.
        self._share, self._mean, self._highest = 0.0, 0.0, 0.0

    @classmethod
    def ranks_records(cls, settings: Mapping[str, Any]) -> bool:
        return settings.get("source") == "previous_epoch"

    @property
    def pool(self) -> float:
        return self._share if self.settings.pool is None else self.settings.pool

    @property
    def other_model(self) -> OtherModel | None:
        return self.settings.source if isinstance(self.settings.source, OtherModel) else None

    def prepare(self, data: TrainingData) -> None:
        super().prepare(data)
        self._tokens = data.predicted
        rows = np.arange(len(data.predicted))[:, None]
        group = {"sequence": rows, "document": data.document_id}.get(self.settings.ranks)
        self._group = None if group is None else np.broadcast_to(group, data.predicted.shape)
        if self.settings.ranks == "document":
            self._documents = DeviceTable(data.document_id)
        if self.other_model is None:
            self._rank(data.reference_loss, data.reference_entropy)
        else:
            values = data.values_of[self.other_model.model]
            self._values_hash = values_hash(*values)
            self._rank(*values)
        if self.settings.threshold is not None and self.settings.ratio > self._share:
            raise InputError(
                f"{type(self).__name__}: threshold {self.settings.threshold:g} leaves {100 * self._share:.3g} % of the "
                f"predicted tokens to drop from, less than ratio {self.settings.ratio:g}; lower ratio or move threshold"
            )

    def end_epoch(self, epoch: int, loss: np.ndarray | None, entropy: np.ndarray | None) -> None:
        if self.needs_epoch_values:
            assert loss is not None and entropy is not None, "the trainer gives what is asked for"
            self._rank(loss, entropy)
            if self.settings.threshold is not None and self.settings.ratio > self._share:
                log.warning(
                    "%s: after epoch %d, threshold %g leaves %.3g %% of the predicted tokens to drop from; no more "
                    "than these are dropped, whatever the ratio",
                    type(self).__name__, epoch, self.settings.threshold, 100 * self._share,
                )  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {} if self.other_model is None else {"values": self._values_hash}

    def load_state(self, state: dict[str, Any]) -> None:
        require_same_values(self._values_hash, state.get("values"), self.other_model)

    def probability(self, batch: Batch) -> torch.Tensor:
        share = self.ratio(batch.progress)
        # A pool under a threshold may have become smaller than what is asked for, and then all of it is dropped.
        chance = min(1.0, share / self.pool) if self.pool > 0.0 else 0.0
        told = self._told_in(batch)
        match self.settings.choice:
            case "lowest":
                return lowest(told, share)
            case "graded" if self.settings.threshold is None:
                return falling(told, chance)
            case "graded":
                return by_distance(told, chance, mean=self._mean, highest=self._highest)
            case "uniform":
                return uniform(told, chance)
        raise AssertionError(self.settings.choice)

    def _told_in(self, batch: Batch) -> torch.Tensor:
        """Return what the choice goes by of the tokens of a batch, shape (B, T)."""
        import torch

        if self._table is not None:
            return batch.look_up(self._table)
        if self._values is not None:
            values = batch.look_up(self._values)
        else:
            assert self._tokens is not None, "prepare() comes first"
            assert batch.loss is not None and batch.entropy is not None, "the trainer gives what is asked for"
            values = self._signal(batch.loss, batch.entropy, batch.predicted)
        if self.settings.ranks != "dataset":
            return self._told(values, *ranks_on_device(values, batch.predicted, self._group_in(batch)))
        # No step sees the whole training set: values are ranked among those that were recorded last.
        assert self._order is not None, "prepare() comes first"
        order = self._order.on(values.device).to(values.dtype)
        rank = torch.where(values.isnan(), len(order), torch.searchsorted(order, values.contiguous()))
        return self._told(values, rank, torch.full_like(rank, len(order)))

    def _told(self, values: torch.Tensor, rank: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Return what `chances` goes by in this reading.

        Parameters
        ----------
        values : Tensor, any shape
            The lower, the sooner they are dropped.
        rank, count : Tensor of int64, same shape
            Where they stand, and among how many.

        Returns
        -------
        Tensor, same shape
            uniform: bool, whether the token is in the pool. lowest: its place among all, float64. graded: float32,
            its place in the pool, or the distance to the threshold; NaN outside.
        """
        import torch

        if self.settings.choice == "lowest":
            return (rank.double() + 0.5) / count
        if self.settings.threshold is None:
            size = torch.round(self.pool * count.double())
            inside = rank < size
            return inside if self.settings.choice == "uniform" else _where(inside, (rank.double() + 0.5) / size)
        edge = -self.settings.threshold if self.pool_end == "highest" else self.settings.threshold
        inside = values <= edge
        return inside if self.settings.choice == "uniform" else _where(inside, edge - values)

    def _rank(self, loss: np.ndarray, entropy: np.ndarray) -> None:
        """Rank the training set by values of one model."""
        import torch

        tokens = self._tokens
        assert tokens is not None, "prepare() comes first"
        values: np.ndarray = self._signal(loss, entropy, tokens)
        known = tokens & ~np.isnan(entropy if self.settings.signal == "entropy" else loss)
        if self.settings.threshold is not None:
            self._measure_pool(values, known)
        if self.needs_current_values:
            self._order = DeviceTable(in_order(values, known))
            return
        unknown = (tokens & ~known).any(axis=1).sum()
        if unknown:
            raise InputError(
                f"{type(self).__name__}: no value is known of {unknown} of {len(values)} sequences, so their tokens "
                "cannot be ranked; record all training sequences (train_sequences: all), and see that none is NaN"
            )
        if self.settings.ranks == "batch":
            self._values = DeviceTable(values)
            return
        # Of a run that is resumed they are mapped from its files, and torch wants what may be written to.
        placed = [
            torch.from_numpy(np.require(one, requirements="W")) for one in (values, *ranks(values, tokens, self._group))
        ]
        self._table = DeviceTable(self._told(*placed).numpy())

    def _measure_pool(self, values: np.ndarray, known: np.ndarray) -> None:
        """Note how large the pool under the threshold is, and how far its tokens lie from it."""
        assert self.settings.threshold is not None
        edge = -self.settings.threshold if self.pool_end == "highest" else self.settings.threshold
        distance = (edge - values[known]).astype(np.float64)
        inside = distance[distance >= 0.0]
        self._share = len(inside) / max(1, len(distance))
        self._mean, self._highest = (float(inside.mean()), float(inside.max())) if len(inside) else (0.0, 0.0)

    def _signal(self, loss: Any, entropy: Any, predicted: Any) -> Any:
        """Return what is ranked, from arrays or tensors: the pool is its lowest share."""
        values = entropy if self.settings.signal == "entropy" else loss
        if self.settings.distribution == "at_token":
            values = of_next(values, predicted)
        return -values if self.pool_end == "highest" else values

    def _group_in(self, batch: Batch) -> torch.Tensor:
        """Return by number which tokens of a batch are ranked together, int64 of shape (B, T)."""
        if self.settings.ranks == "batch":
            return batch.sequence_id * 0
        if self.settings.ranks == "sequence":
            return batch.sequence_id
        assert self._documents is not None, "prepare() comes first"
        # A document's tokens are ranked within its part in this sequence: no other is at hand. Documents are numbered
        # below 2**31, and so are sequences.
        return batch.look_up(self._documents).long() + (batch.sequence_id << 32)


def _where(inside: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(inside, values, torch.nan).float()
