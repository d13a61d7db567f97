"""What one pass over the data saw: tables over the training set, filled on the device batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.regularizers.base import Batch
from dynamics.training.environment.processes import over_ranks


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The point in training at which something was measured.

    Attributes
    ----------
    epoch : int
        The number of the record: passes over the data, where a partial pass counts as one.
    step : int
        Optimiser steps done.
    passes : float
        Passes over the data; less than `epoch` if the last one was cut short.
    """

    epoch: int
    step: int
    passes: float

    @property
    def whole(self) -> bool:
        """Whether the pass was finished."""
        return self.passes == self.epoch


@dataclass(frozen=True, kw_only=True)
class TrainingPass:
    """What happened in one pass over the data.

    Attributes
    ----------
    dropped : ndarray of bool, shape (S, P), optional
        None if no regulariser drops tokens.
    mean_loss : float, optional
        Mean of the steps' training losses, in nats. None if it is unknown, and before training.
    loss, entropy : ndarray of float32, shape (S, P), optional
        The values that the optimiser saw, in nats; NaN for tokens that it did not see. None unless they are kept.
    """

    dropped: np.ndarray | None = None
    mean_loss: float | None = None
    loss: np.ndarray | None = None
    entropy: np.ndarray | None = None


class PassTables:
    """Tables of a pass. Per training token: one byte for dropped, and eight for values seen. Per sequence: one byte.

    Parameters
    ----------
    shape : (int, int)
        Numbers of sequences S and positions P.
    dropped : bool
        Whether a regulariser drops tokens.
    values : bool
        Whether to keep the values that the optimiser saw.
    """

    def __init__(self, shape: tuple[int, int], *, dropped: bool, values: bool) -> None:
        self._shape = shape
        n_tokens = shape[0] * shape[1]
        # One extra entry takes values that must not be stored: indexing does not make the host wait, selecting would.
        # The tables are on the CPU until there is a batch.
        bits: Any = {"dtype": torch.bool, "device": "cpu"}
        self._tables: dict[str, torch.Tensor] = {"visited": torch.zeros(shape[0] + 1, **bits)}
        if dropped:
            self._tables["dropped"] = torch.zeros(n_tokens + 1, **bits)
        if values:
            for name in ("loss", "entropy"):
                self._tables[name] = torch.full((n_tokens + 1,), torch.nan, dtype=torch.float32, device="cpu")

    def note(
        self,
        batch: Batch,
        *,
        dropped: torch.Tensor | None = None,
        loss: torch.Tensor | None = None,
        entropy: torch.Tensor | None = None,
    ) -> None:
        """Note a micro-batch. All tensors have shape (B, T). This does not wait for the device."""
        for name, table in self._tables.items():
            if table.device != batch.predicted.device:
                self._tables[name] = table.to(batch.predicted.device)
        n_tokens = self._shape[0] * self._shape[1]
        place = batch.sequence_id * self._shape[1] + batch.position
        seen = torch.where(batch.predicted, batch.sequence_id, self._shape[0])
        self._tables["visited"].index_fill_(0, seen.flatten(), True)
        if dropped is not None and "dropped" in self._tables:
            where = torch.where(dropped, place, n_tokens)
            self._tables["dropped"].index_fill_(0, where.flatten(), True)
        where = torch.where(batch.predicted, place, n_tokens).flatten()
        for name, values in (("loss", loss), ("entropy", entropy)):
            if values is not None and name in self._tables:
                self._tables[name].index_copy_(0, where, values.detach().float().flatten())

    def share_visited(self, predicted: np.ndarray) -> float:
        """Return the share of the sequences with predicted tokens that this pass has visited, over all ranks.

        Parameters
        ----------
        predicted : ndarray of bool, shape (S, P)
        """
        visited = over_ranks(self._tables["visited"][:-1].cpu().numpy(), blank=False)
        wanted = predicted.any(axis=1)
        return float((visited & wanted).sum() / max(1, wanted.sum()))

    def whole(self, *, mean_loss: float | None) -> TrainingPass:
        """Return the tables of all ranks merged, as arrays."""
        found = {}
        for name, blank in (("dropped", False), ("loss", np.nan), ("entropy", np.nan)):
            if name in self._tables:
                table = self._tables[name][:-1].cpu().numpy().reshape(self._shape)
                found[name] = over_ranks(table.copy(), blank=blank)
        return TrainingPass(mean_loss=mean_loss, **found)

    def clear(self) -> None:
        """Begin the next pass."""
        for table in self._tables.values():
            table.fill_(False if table.dtype == torch.bool else torch.nan)

    def state(self) -> dict[str, np.ndarray]:
        """Return what this rank has noted, in arrays that safetensors can store: bits and float32."""
        arrays = {name: table.cpu().numpy() for name, table in self._tables.items()}
        return {
            name: np.packbits(array, bitorder="little") if array.dtype == np.bool_ else array
            for name, array in arrays.items()
        }

    def load_state(self, parts: list[Mapping[str, np.ndarray]]) -> None:
        """Restore what one or more ranks had noted when `state` was called."""
        self.clear()
        for part in parts:
            for name, table in self._tables.items():
                if name not in part:
                    continue
                if table.dtype == torch.bool:
                    bits = np.unpackbits(part[name], count=len(table), bitorder="little").astype(np.bool_)
                    table |= torch.from_numpy(bits).to(table.device)
                else:
                    known = torch.from_numpy(part[name].copy()).to(table.device)
                    table.copy_(torch.where(known.isnan(), table, known))
