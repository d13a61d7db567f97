"""Ctrl-C and a scheduler's SIGTERM: the current step is finished, and complete epochs are kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training stopped at the end of a step, because of a signal."""


@contextmanager
def finishing_steps() -> Iterator[Callable[[], bool]]:
    """Catch the first signal and let the current step finish. A second signal stops at once.

    Yields
    ------
    callable
        Returns whether a signal came. Outside the main thread, which alone receives signals, always False.
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
