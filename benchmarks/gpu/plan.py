"""The steps in order of value: when time runs out, the last are missing."""

from __future__ import annotations

import dataclasses
import importlib

from benchmarks.gpu.protocol import Run


@dataclasses.dataclass(frozen=True)
class Step:
    """One step, and how long it may take.

    Attributes
    ----------
    name : str
    limit_s : float
        Seconds after which it is ended. The sum may exceed what the whole has: most need a fraction of it.
    times : bool
        Whether it measures time, and so needs the device for itself. Neighbours that do not run side by side.
    package : str
        Where the module of that name lies.
    """

    name: str
    limit_s: float
    times: bool = True
    package: str = "benchmarks.gpu.steps"

    @property
    def module(self) -> str:
        return f"{self.package}.{self.name}"


def load(module: str) -> tuple[str, Run]:
    """Return what a step asks, in a line, and the function that runs it."""
    found = importlib.import_module(module)
    return (found.__doc__ or "").partition("\n")[0], found.run


STEPS = (
    Step("environment", 30),
    Step("ceilings", 30),
    Step("kernels", 90),
    Step("doors", 150, times=False),
    Step("suite", 150, times=False),
    Step("resume", 150, times=False),
    Step("packaged_study", 150, times=False),
    Step("compiled", 150, times=False),
    Step("operator_error", 50),
    Step("operator_cost", 110),
    Step("training_step", 170),
    Step("recording_pass", 60),
    Step("large_model", 90),
)
