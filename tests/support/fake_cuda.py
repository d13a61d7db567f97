"""CUDA tensors without values, on a machine, and by a build of torch, without CUDA.

`FakeTensorMode` runs operators on them by shape and type, and refuses to mix devices or to give a value. A build
without CUDA lacks one thing: some of a tensor's methods ask for its device before they do anything. Those are replaced
by the operators that they come to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Within, tensors are made without values, on whatever device."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if not torch.backends.cuda.is_built():
            for name, function in _METHODS.items():
                stack.enter_context(mock.patch.object(torch.Tensor, name, _on_cuda(name, function)))
        yield


def _on_cuda(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    original = getattr(torch.Tensor, name)

    def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return (function if self.device.type == "cuda" else original)(self, *args, **kwargs)

    return method


def _taken(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    dimension = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is None:
            tensor = tensor.unsqueeze(dimension)
        elif isinstance(part, int):
            tensor = tensor.select(dimension, part)
            continue
        elif isinstance(part, slice):
            tensor = aten.slice(tensor, dimension, *part.indices(tensor.shape[dimension]))
        else:
            assert part.dtype == torch.int64, "an index by a mask makes the host wait"
            tensor = aten.index(tensor, [None] * dimension + [part])
        dimension += 1
    return tensor


def _put(tensor: torch.Tensor, index: Any, value: Any) -> None:
    parts = index if isinstance(index, tuple) else (index,)
    assert all(isinstance(part, slice | int) for part in parts), "what an index by a tensor takes is a copy"
    view = _taken(tensor, index)
    aten.copy_(view, value) if isinstance(value, torch.Tensor) else view.fill_(value)


_METHODS: dict[str, Callable[..., Any]] = {
    "__getitem__": _taken,
    "__setitem__": _put,
    "__invert__": aten.bitwise_not,
    "contiguous": aten.contiguous,
    "copy_": aten.copy_,
}
