"""What a step is given and what it returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # who only reads results needs no torch
    import torch


@dataclasses.dataclass(frozen=True)
class Where:
    """Where a step runs, and how much of it.

    Attributes
    ----------
    device : str
        "cuda" or "cpu".
    tiny : bool
        Sizes at which the step takes seconds on a CPU: it shows that the script works, and its speeds mean nothing.
    keep : callable
        Keeps what was found so far, for when the step is ended at its limit.
    """

    device: str
    tiny: bool
    keep: Callable[[Found], None] = dataclasses.field(default=lambda found: None, compare=False, repr=False)

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.device)

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclasses.dataclass(frozen=True)
class Check:
    """One claim, what was found, and whether it holds.

    Attributes
    ----------
    what : str
        The claim in words, its unit included.
    value : float, int, bool or str
    limit : float or int, optional
        The largest value at which the claim holds.
    met : bool, optional
        None where it is not judged: a speed at tiny sizes.
    target : bool
        Of a speed: missing it is told, but is no failure of what was run.
    """

    what: str
    value: float | int | bool | str
    limit: float | int | None
    met: bool | None
    target: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """What a step returns.

    Attributes
    ----------
    measured : dict
        As JSON takes it: everything that was measured, with units in the names.
    checks : list of Check
    """

    measured: dict[str, Any]
    checks: list[Check]


Run = Callable[[Where], Found]


def at_most(what: str, value: float, limit: float) -> Check:
    """Return a check that a value is at most its limit; NaN never is."""
    return Check(what, value, limit, math.isfinite(value) and value <= limit)


def holds(what: str, value: bool | str, met: bool | None = None) -> Check:
    """Return a check of something that is so or not; `met` where `value` is text that says how it is."""
    return Check(what, value, None, bool(value) if met is None else met)


def speed(what: str, value: float, limit: float, where: Where) -> Check:
    """Return a target: a ratio of times that should be at most its limit, not judged at tiny sizes."""
    met = None if where.tiny else math.isfinite(value) and value <= limit
    return Check(what, value, limit, met, target=True)
