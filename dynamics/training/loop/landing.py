"""Asynchronous copies between device and host, for which training does not wait.

Reading a number from a GPU makes the host wait until all queued work is done. Here a copy is queued, and the number is
read once the copy has arrived, one or two steps later. Sending an array from memory that is not pinned also makes the
host wait.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np
import torch

Tag = TypeVar("Tag")

_TYPES = {torch.int64: np.int64, torch.float32: np.float32, torch.float64: np.float64}


def sent(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on a device."""
    here = torch.from_numpy(values)
    # The allocator keeps the pinned copy for as long as the device reads it.
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


class Landing(Generic[Tag]):
    """Copies that are still in progress, in the order in which they were sent."""

    def __init__(self) -> None:
        self._under_way: deque[tuple[Tag, np.ndarray, torch.cuda.Event | None]] = deque()

    def send(self, tag: Tag, values: torch.Tensor) -> None:
        """Queue a copy of `values` (int64, float32 or float64) to the host."""
        values = values.detach()
        if values.device.type != "cuda":
            here = np.empty(tuple(values.shape), dtype=_TYPES[values.dtype])
            torch.from_numpy(here).copy_(values)
            self._under_way.append((tag, here, None))
            return
        # Only a copy to pinned memory is asynchronous.
        there = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
        there.copy_(values, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(values.device))
        self._under_way.append((tag, there.numpy(), event))

    def arrived(self) -> list[tuple[Tag, np.ndarray]]:
        """Return the copies that have arrived since the last call, oldest first."""
        found = []
        while self._under_way and _is_there(self._under_way[0][2]):
            tag, values, _ = self._under_way.popleft()
            found.append((tag, values))
        return found

    def all(self) -> list[tuple[Tag, np.ndarray]]:
        """Wait for all copies and return them, for example at the end of an epoch."""
        for _, _, event in self._under_way:
            if event is not None:
                event.synchronize()
        return self.arrived()


def _is_there(event: torch.cuda.Event | None) -> bool:
    return event is None or bool(event.query())  # type: ignore[no-untyped-call]
