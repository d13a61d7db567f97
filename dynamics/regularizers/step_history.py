"""How often each of a few thousand values came up in the last optimiser steps, counted where they are.

Thresholds of methods that select tokens by their current losses come from these counts. They are the same for any
split of a step into micro-batches and processes, take the same memory however many tokens a step has, do not depend
on the order of tokens, and no step waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class StepHistory:
    """Counts by bin, of the step under way and of each of the last `window` steps.

    Parameters
    ----------
    n_bins, window : int
    """

    def __init__(self, n_bins: int, window: int) -> None:
        import torch

        self._window = window
        #: Optimiser steps that are done.
        self.steps = 0
        # On the host, until there is a batch.
        self._step = torch.zeros(n_bins, dtype=torch.int32, device="cpu")  # of the step that is under way
        self._history = torch.zeros(window, n_bins, dtype=torch.int32, device="cpu")  # step s in row s % window

    def note(self, bins: torch.Tensor, counted: torch.Tensor) -> None:
        """Count values of the step under way.

        Parameters
        ----------
        bins : Tensor of int64, shape (N,)
        counted : Tensor of bool, shape (N,)
            What does not count may have any bin.
        """
        import torch

        if self._step.device != bins.device:
            self._step, self._history = self._step.to(bins.device), self._history.to(bins.device)
        self._step.index_add_(0, bins, counted.to(torch.int32))

    def end_step(self) -> None:
        """Note that an optimiser step is done, in all processes."""
        import torch.distributed as dist

        # A collective of the device, which the host does not wait for.
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._step)
        self._history[self.steps % self._window] = self._step
        self._step.zero_()
        self.steps += 1

    def counts(self) -> torch.Tensor:
        """Return the counts of the last `window` steps together, int64 of shape (n_bins,)."""
        return self._history.sum(dim=0)

    def state(self) -> dict[str, Any]:
        """Return the number of steps, and the non-zero counts of each step in the window, the oldest first."""
        first = max(0, self.steps - self._window)
        rows = [self._history[step % self._window].cpu() for step in range(first, self.steps)]
        at = [row.nonzero()[:, 0] for row in rows]
        return {
            "steps": self.steps,
            "bins": [places.tolist() for places in at],
            "counts": [row[places].tolist() for row, places in zip(rows, at, strict=True)],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        import torch

        self.steps = state["steps"]
        self._history.zero_()
        first = self.steps - len(state["bins"])
        for step, (places, counts) in enumerate(zip(state["bins"], state["counts"], strict=True), first):
            row = self._history[step % self._window]
            at = torch.tensor(places, dtype=torch.int64, device=row.device)
            row[at] = torch.tensor(counts, dtype=torch.int32, device=row.device)
