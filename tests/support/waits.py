"""What makes the host wait for a device, and where it stands: as CUDA says, or found on a CPU.

On a CPU nothing waits. Counted there are operations whose result, or whose result's shape, the host has to know, and
copies from one device to another. A batch on the `meta` device shows copies that a CPU hides.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import dynamics
from dynamics.ops import placement
from dynamics.training.driving.trainer_callback import LoopCallback

_OURS = str(Path(dynamics.__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_SHAPES_OR_VALUES = {
    *("_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "equal", "is_nonzero", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
# What never reaches the dispatcher on a CPU.
_METHODS = {getattr(torch.Tensor, name): name for name in ("tolist", "numpy", "cpu", "__array__")}


@dataclass(frozen=True)
class Wait:
    """An operation that waits.

    Attributes
    ----------
    op : str
    stack : tuple of str
        ``file:line function``, the innermost first, without torch's own.
    ours : bool
        Whether the innermost is in this project.
    """

    op: str
    stack: tuple[str, ...]
    ours: bool


@contextmanager
def counting_waits() -> Iterator[list[Wait]]:
    """Collect what waits inside the context, in order, into the list that it gives."""
    found: list[Wait] = []
    with _Functions(found), _Operations(found):
        yield found


@contextmanager
def told_waits(says: str = "synchronizing CUDA operation") -> Iterator[list[Wait]]:
    """Collect what CUDA says has waited inside the context: each warning of torch that holds `says`."""
    found: list[Wait] = []

    def note(message: Warning | str, *about: Any, **more: Any) -> None:
        if says in str(message):
            _note(found, str(message).splitlines()[0])

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # called where the operation is: its stack is there
        yield found


@contextmanager
def waits_on(device: torch.device) -> Iterator[list[Wait]]:
    """Collect what waits for a device; a CPU is taken for an accelerator."""
    if device.type == "cuda":
        with told_waits() as found:
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return
    with pytest.MonkeyPatch.context() as patch, counting_waits() as found:
        patch.setattr(placement, "host_computes", lambda device: False)
        yield found


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
            found.append(counting.enter_context(waits_on(trainer.args.device)))
        if state.global_step == 3:
            counting.close()
        return result

    with pytest.MonkeyPatch.context() as patch, counting:
        patch.setattr(LoopCallback, "on_step_end", on_step_end)
        trainer.train()
    assert len(found) == 1 and trainer.state.global_step >= 3
    return [wait for wait in found[0] if wait.ours]


def _note(found: list[Wait], op: str) -> None:
    frames = [
        frame
        for frame in reversed(traceback.extract_stack())
        if not frame.filename.startswith(_TORCH) and frame.filename not in (__file__, warnings.__file__, "<string>")
    ]
    stack = tuple(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[:4])
    found.append(Wait(op, stack, bool(frames) and frames[0].filename.startswith(_OURS)))


class _Functions(TorchFunctionMode):
    def __init__(self, found: list[Wait]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METHODS:
            _note(self._found, _METHODS[func])
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, found: list[Wait]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _waits(func.__name__, args, kwargs):
            _note(self._found, func.__name__)
        return func(*args, **kwargs)


def _waits(full: str, args: Any, kwargs: Any) -> bool:
    name, _, overload = full.partition(".")
    if name in _SHAPES_OR_VALUES:
        return True
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    if name == "repeat_interleave":
        return overload == "Tensor" and kwargs.get("output_size") is None
    if name == "_to_copy":
        return _other(args[0], kwargs.get("device"))
    if name == "copy_":
        return _other(args[0], args[1].device)
    return False


def _other(tensor: Any, device: Any) -> bool:
    return device is not None and torch.device(device).type != tensor.device.type
