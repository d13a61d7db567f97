"""Ctrl-C and a scheduler's SIGTERM: the step under way is finished, and what is complete stays."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training ended at a step's end, as a signal asked for."""


@contextmanager
def finishing_steps() -> Iterator[Callable[[], bool]]:
    """Note signals instead of ending at once; a second one ends at once.

    Yields
    ------
    callable
        Says whether a signal came. Always false outside the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
