"""What of a training made the host wait."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks.waits import Wait, counting_waits_on
from dynamics.training.driving.trainer_callback import LoopCallback


def waits_of(trainer: Any) -> list[Wait]:
    """Train for four steps, and return what waited in this project between the first one's end and the third's.

    The first step has looked at the model's loss and brought tables to the device.
    """
    found: list[list[Wait]] = []
    counting = ExitStack()
    step = LoopCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        result = step(self, args, state, control, **kwargs)
        if state.global_step == 1:
            found.append(counting.enter_context(counting_waits_on(trainer.args.device.type)))
        if state.global_step == 3:
            counting.close()
        return result

    with pytest.MonkeyPatch.context() as patch, counting:
        patch.setattr(LoopCallback, "on_step_end", on_step_end)
        trainer.train()
    assert len(found) == 1 and trainer.state.global_step >= 3
    return [wait for wait in found[0] if wait.ours]
