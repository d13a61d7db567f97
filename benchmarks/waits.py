"""What makes the host wait for a device: each such operation, and where it stands.

On CUDA torch itself tells. On a CPU nothing waits, and what would is found all the same: operations whose result, or
whose result's shape, the host has to know, and copies from one device to another. A batch on the `meta` device shows
copies that a CPU hides.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import dynamics
from dynamics.ops import placement

_OURS = str(Path(dynamics.__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_SHAPES_OR_VALUES = {
    *("_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "equal", "is_nonzero", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
# torch's own words, where its debug mode is on.
_SYNCHRONISES = "called a synchronizing CUDA operation"
# What never reaches the dispatcher on a CPU.
_METHODS = {getattr(torch.Tensor, name): name for name in ("tolist", "numpy", "cpu", "__array__")}


@dataclass(frozen=True)
class Wait:
    """An operation that waits.

    Attributes
    ----------
    op : str
        Its name; on CUDA the line of code that called it.
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
    """Collect what would wait inside the context, in order, into the list that it gives."""
    found: list[Wait] = []
    with _Functions(found), _Operations(found):
        yield found


@contextmanager
def told_waits(says: str = _SYNCHRONISES) -> Iterator[list[Wait]]:
    """Collect what torch tells inside the context: each of its warnings that holds `says`, and where it stands."""
    found: list[Wait] = []

    def show(message: Any, *given: Any, **more: Any) -> None:
        if says in str(message):
            _note(found, None)
        else:
            others(message, *given, **more)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{says}")
        others, warnings.showwarning = warnings.showwarning, show
        yield found


@contextmanager
def counting_cuda_waits() -> Iterator[list[Wait]]:
    """Collect what made the host wait for a CUDA device inside the context, as torch's debug mode tells."""
    with told_waits() as found:
        warnings.filterwarnings("ignore", message="Synchronization debug mode")  # says that it is a prototype
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)


@contextmanager
def counting_waits_on(device: str) -> Iterator[list[Wait]]:
    """Collect what waits for "cuda"; on "cpu" what would, down the route that accelerators take."""
    if device == "cuda":
        with counting_cuda_waits() as found:
            yield found
        return
    with mock.patch.object(placement, "host_computes", lambda device: False), counting_waits() as found:
        yield found


def _note(found: list[Wait], op: str | None) -> None:
    frames = [
        frame
        for frame in reversed(traceback.extract_stack())
        if not frame.filename.startswith(_TORCH) and frame.filename not in (__file__, warnings.__file__, "<string>")
    ]
    stack = tuple(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[:4])
    called = op or (frames[0].line if frames else None) or "unknown"
    found.append(Wait(called, stack, bool(frames) and frames[0].filename.startswith(_OURS)))


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
