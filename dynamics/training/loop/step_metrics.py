"""The metrics of each optimiser step, collected without making a GPU wait."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dynamics.records.metrics import append_metrics
from dynamics.training.environment.processes import rank, sum_over_ranks
from dynamics.training.loop.landing import Landing


class _Bunch(NamedTuple):
    """Rows whose sums are being copied to the host, and the seconds that their steps took."""

    rows: list[dict[str, Any]]
    seconds: float


class StepMetrics:
    """Collects a row per optimiser step on the device, and writes rows to metrics.jsonl in groups.

    Parameters
    ----------
    path : Path, optional
        metrics.jsonl. None writes nothing.
    every : int
        Steps between writes. `tokens_per_second` is the mean over each group of steps.
    losses : bool
        Whether the loss of each batch is known. Without it, rows have no `training_loss`.
    """

    def __init__(self, path: Path | None, *, every: int = 50, losses: bool = True) -> None:
        self._path = path
        self._every = every
        self._with_losses = losses
        self._rows: list[tuple[dict[str, Any], torch.Tensor]] = []
        self._sums: torch.Tensor | None = None
        self._landing: Landing[_Bunch] = Landing()
        #: The training losses of the current pass that have arrived on the host.
        self.losses: list[float] = []
        self._started = time.perf_counter()

    def add_batch(
        self,
        *,
        loss_sum: torch.Tensor | None,
        dropped: torch.Tensor | None,
        predicted: torch.Tensor,
        auxiliary: torch.Tensor | None = None,
    ) -> None:
        """Add one micro-batch: its part of the step's loss, and its numbers of dropped and predicted tokens.

        `auxiliary` is what second forward passes add to the loss; given for every micro-batch of a training, or none.
        """
        assert (loss_sum is not None) == self._with_losses, "losses are known, or not"
        if loss_sum is None:
            loss_sum = predicted.new_zeros((), dtype=torch.float64)
        n_dropped = (
            predicted.new_zeros((), dtype=torch.float64) if dropped is None else dropped.sum(dtype=torch.float64)
        )
        parts = [loss_sum.detach().double(), n_dropped, predicted.sum(dtype=torch.float64)]
        if auxiliary is not None:
            parts.append(auxiliary.detach().double())
        sums = torch.stack(parts)
        self._sums = sums if self._sums is None else self._sums + sums

    @property
    def has_batch(self) -> bool:
        """Whether the current step has a batch."""
        return self._sums is not None

    def loss_of_step(self) -> torch.Tensor:
        """Return the loss of the step that is about to end, auxiliary passes included: a scalar on the device."""
        assert self._sums is not None, "a step without a batch"
        return self._sums[0] + self._sums[3:].sum()

    def end_step(self, row: Mapping[str, Any]) -> None:
        """Finish the row of an optimiser step."""
        assert self._sums is not None, "a step without a batch"
        self._rows.append((dict(row), self._sums))
        self._sums = None
        if len(self._rows) >= self._every:
            self._send()

    def end_epoch(self) -> float | None:
        """Write the remaining rows. Return the mean training loss of the epoch's steps, or None if there were none."""
        self.flush()
        losses, self.losses = self.losses, []
        return sum(losses) / len(losses) if losses else None

    def flush(self) -> None:
        """Wait for all collected rows and write them."""
        self._send()
        self._write(self._landing.all())

    def restart_clock(self) -> None:
        """Exclude the time since the last group (recording, saving) from the next throughput."""
        self._started = time.perf_counter()

    def _send(self) -> None:
        if self._rows:
            now = time.perf_counter()
            bunch = _Bunch([row for row, _ in self._rows], now - self._started)
            self._started = now
            # Summed over ranks: each has a part of every step's batch.
            self._landing.send(bunch, sum_over_ranks(torch.stack([sums for _, sums in self._rows])))
            self._rows = []
        self._write(self._landing.arrived())

    def _write(self, landed: list[tuple[_Bunch, Any]]) -> None:
        for bunch, sums in landed:
            rate = float(sums[:, 2].sum()) / max(bunch.seconds, 1e-9)
            rows = []
            for row, (loss, n_dropped, n_predicted, *auxiliary) in zip(bunch.rows, sums.tolist(), strict=True):
                rows.append(
                    {
                        **row,
                        **({"training_loss": loss} if self._with_losses else {}),
                        **({"auxiliary_loss": auxiliary[0]} if auxiliary else {}),
                        "dropped_share": n_dropped / n_predicted if n_predicted else 0.0,
                        "tokens_per_second": round(rate, 1),
                    }
                )
            if self._path is not None and rank() == 0:
                append_metrics(self._path, rows)
            if self._with_losses:
                self.losses += [row["training_loss"] for row in rows]
