"""Numbers on their way from the device to the host and back, for which nobody waits.

Reading a number off a GPU stops the host until all that was queued before it is done. Here a copy is queued, and the
number is read once the copy has arrived, which is a step or two later. Sending one from memory that is not pinned stops
the host in the same way.
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
    # The pinned copy is kept for as long as the device reads it, by the allocator that it is from.
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


class Landing(Generic[Tag]):
    """Copies under way, in the order in which they were sent."""

    def __init__(self) -> None:
        self._under_way: deque[tuple[Tag, np.ndarray, torch.cuda.Event | None]] = deque()

    def send(self, tag: Tag, values: torch.Tensor) -> None:
        """Queue a copy of `values`: int64, float32 or float64."""
        values = values.detach()
        if values.device.type != "cuda":
            here = np.empty(tuple(values.shape), dtype=_TYPES[values.dtype])
            torch.from_numpy(here).copy_(values)
            self._under_way.append((tag, here, None))
            return
        # Only pinned memory is copied to without the host.
        there = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
        there.copy_(values, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(values.device))
        self._under_way.append((tag, there.numpy(), event))

    def arrived(self) -> list[tuple[Tag, np.ndarray]]:
        """Return what has arrived since it was last asked for, the oldest first."""
        found = []
        while self._under_way and _is_there(self._under_way[0][2]):
            tag, values, _ = self._under_way.popleft()
            found.append((tag, values))
        return found

    def all(self) -> list[tuple[Tag, np.ndarray]]:
        """Wait for what is under way, and return it: at the end of an epoch, say."""
        for _, _, event in self._under_way:
            if event is not None:
                event.synchronize()
        return self.arrived()


def _is_there(event: torch.cuda.Event | None) -> bool:
    return event is None or bool(event.query())  # type: ignore[no-untyped-call]
