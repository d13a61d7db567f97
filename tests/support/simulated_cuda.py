"""A CUDA device that is not there: a training runs on it as on a real one, its numbers computed by the CPU.

A FakeTensor on "cuda" has neither a backward pass where there is no CUDA runtime, nor numbers. Here a tensor is on the
device if its storage is in a list. Two modes keep that list: results of what is on the device are on it, and so is what
is made or moved there. What code asks of a tensor (`device`, `is_cuda`) is answered by it, and so a training takes the
paths of CUDA. What a real device refuses is refused: an operation on tensors of two places, `numpy()`. What makes the
host wait for a real one is noted. An asynchronous copy to pinned memory holds nonsense until the host has asked its
event often enough; one whose event nobody waits for is never there.

Not simulated: kernels in CUDA or Triton, their rounding and their speed; several devices; graphs; torch.compile.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import import_utils

import dynamics
from dynamics.ops import head_pass, placement

CUDA = torch.device("cuda", 0)
_OURS = str(Path(dynamics.__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_CPU = torch.device("cpu")

# Whose result, or whose result's shape, the host has to know.
_VALUES = {
    *("_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "equal", "is_nonzero", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Which take tensors of two places: from one to the other, or to look at them.
_BETWEEN = {"copy_", "_to_copy", "set_"}
# What torch.use_deterministic_algorithms refuses on CUDA, beside sums along floating-point numbers.
_NOT_DETERMINISTIC = {"put", "put_", "histc", "median", "kthvalue", "bincount", "nll_loss2d_forward"}
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot"}
# How often an event says that it has not come to pass, before it has.
_LAG = 2


@dataclass(frozen=True)
class Wait:
    """What made the host wait, and where: ``file:line function``, the innermost first, without torch's own.

    `ours` is whether the innermost is in this project.
    """

    what: str
    stack: tuple[str, ...]
    ours: bool


@dataclass
class Simulated:
    """The device, and what the host did with it."""

    waits: list[Wait] = field(default_factory=list)
    #: What CUBLAS_WORKSPACE_CONFIG was at the first product: torch looks at it then, once a process.
    workspace: str | None = None
    _on: dict[int, StorageWeakRef] = field(default_factory=dict)
    _pinned: dict[int, StorageWeakRef] = field(default_factory=dict)
    _under_way: list[Callable[[], None]] = field(default_factory=list)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the device."""
        return tensor.untyped_storage()._cdata in self._on

    def put(self, tensor: torch.Tensor, *, here: bool = True) -> None:
        """Note that a tensor is on the device, or not."""
        storage = tensor.untyped_storage()
        if here:
            # The reference keeps the key from being given to another storage.
            self._on[storage._cdata] = StorageWeakRef(storage)
        else:
            self._on.pop(storage._cdata, None)

    def pin(self, tensor: torch.Tensor) -> None:
        """Note that a tensor of the host is pinned."""
        storage = tensor.untyped_storage()
        self._pinned[storage._cdata] = StorageWeakRef(storage)

    def pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor of the host is pinned."""
        return tensor.untyped_storage()._cdata in self._pinned

    def note_wait(self, what: str) -> None:
        """Note that the host waits, and where."""
        frames = [
            (code.co_filename, line, code.co_name)
            for code, line in ((frame.f_code, line) for frame, line in traceback.walk_stack(None))
            if not code.co_filename.startswith((_TORCH, "<")) and code.co_filename != __file__
        ]
        stack = tuple(f"{Path(file).name}:{line} {name}" for file, line, name in frames[:4])
        self.waits.append(Wait(what, stack, bool(frames) and frames[0][0].startswith(_OURS)))

    def copy_later(self, into: torch.Tensor, values: torch.Tensor) -> None:
        """Queue a copy to the host: nonsense until an event that is recorded after it has come to pass."""
        kept = values.detach().clone()
        into.fill_(torch.nan if into.is_floating_point() else torch.iinfo(into.dtype).min)
        self._under_way.append(lambda: into.copy_(kept))

    def event(self) -> Any:
        """Return what torch.cuda.Event() gives."""
        return _Event(self)


class _Event:
    def __init__(self, device: Simulated) -> None:
        self._device = device
        self._copies: list[Callable[[], None]] = []
        self._asked = 0

    def record(self, stream: Any = None) -> None:
        self._copies, self._device._under_way = [*self._device._under_way], []

    def query(self) -> bool:
        self._asked += 1
        if self._asked <= _LAG:
            return False
        self._come_to_pass()
        return True

    def synchronize(self) -> None:
        self._device.note_wait("Event.synchronize")
        self._asked = _LAG
        self._come_to_pass()

    def _come_to_pass(self) -> None:
        copies, self._copies = self._copies, []
        with _quietly():
            for copy in copies:
                copy()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Outside all modes: what the simulation itself does."""
    with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
        yield


class _Functions(TorchFunctionMode):
    """What is asked of a tensor by name, and where new ones are made."""

    def __init__(self, device: Simulated) -> None:
        super().__init__()
        self._device = device
        of: Any = torch.Tensor
        self._answers: dict[Any, Callable[..., Any]] = {
            of.device.__get__: self._where,
            of.is_cuda.__get__: lambda tensor: device.holds(tensor),
            of.is_cpu.__get__: lambda tensor: not device.holds(tensor),
            of.get_device: lambda tensor: 0 if device.holds(tensor) else -1,
            of.to: self._to,
            of.cpu: lambda tensor, **options: self._moved(tensor, _CPU, None),
            of.cuda: lambda tensor, *args, **options: self._moved(tensor, CUDA, None),
            of.pin_memory: self._pin,
            of.is_pinned: lambda tensor, *args: device.pinned(tensor),
            of.numpy: self._numpy,
            of.__array__: self._numpy,
            of.tolist: self._tolist,
            of.record_stream: lambda tensor, stream: None,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = self._answers.get(func)
        if answer is not None:
            return answer(*args, **kwargs)
        wanted, pinned = kwargs.get("device"), kwargs.get("pin_memory", False)
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        here = wanted is not None and torch.device(wanted).type == "cuda"
        found = func(*args, **{**kwargs, "device": _CPU} if here else kwargs)
        if wanted is not None and isinstance(found, torch.Tensor):
            self._device.put(found, here=here)
            if here and func in (torch.tensor, torch.as_tensor):
                self._device.note_wait(f"{func.__name__} on the device")
        if pinned:
            self._device.pin(found)
        return found

    def _where(self, tensor: torch.Tensor) -> torch.device:
        return CUDA if self._device.holds(tensor) else tensor.device

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copy = kwargs.pop("copy", False)
        if args and isinstance(args[0], torch.Tensor):
            where, dtype, non_blocking = self._where(args[0]), args[0].dtype, kwargs.get("non_blocking", False)
        else:
            where, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if where is not None and where.type not in ("cpu", "cuda"):
            return tensor.to(where, dtype or tensor.dtype, copy=copy)
        if where is None or (where.type == "cuda") == self._device.holds(tensor):
            return tensor.to(dtype or tensor.dtype, copy=copy)
        return self._moved(tensor, where, dtype, non_blocking=non_blocking)

    def _moved(
        self, tensor: torch.Tensor, where: torch.device, dtype: torch.dtype | None, *, non_blocking: bool = False
    ) -> torch.Tensor:
        device, here = self._device, where.type == "cuda"
        if here == device.holds(tensor):
            return tensor
        if not (here and non_blocking and device.pinned(tensor)):
            device.note_wait(f"a copy to {'the device' if here else 'the host'}")
        found = tensor.to(dtype or tensor.dtype, copy=True)
        device.put(found, here=here)
        return found

    def _pin(self, tensor: torch.Tensor, *args: Any) -> torch.Tensor:
        found = tensor.clone()
        self._device.pin(found)
        return found

    def _numpy(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._device.holds(tensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return tensor.numpy(*args, **kwargs)

    def _tolist(self, tensor: torch.Tensor) -> Any:
        if self._device.holds(tensor):
            self._device.note_wait("tolist")
        return tensor.tolist()


class _Operations(TorchDispatchMode):
    """Where results are, what does not go together, and what waits."""

    def __init__(self, device: Simulated) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = self._device
        given = list(_tensors((args, tuple(kwargs.values()))))
        on = [tensor for tensor in given if device.holds(tensor)]
        name = func.__name__.partition(".")[0]
        if name == "copy_" and device.holds(args[0]) != device.holds(args[1]):
            return self._copy(func, *args, **kwargs)
        if on:
            self._require_one_place(func, name, args, given, on)
            self._require_determinism(name, args)
            if name in _VALUES:
                device.note_wait(name)
        found = _emulated(func, args, kwargs)
        if on:
            for tensor in _tensors(found):
                device.put(tensor)
        return found

    def _require_determinism(self, name: str, args: Any) -> None:
        if name in _PRODUCTS and self._device.workspace is None:
            self._device.workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")
        if not torch.are_deterministic_algorithms_enabled():
            return
        if name in _PRODUCTS and self._device.workspace not in (":16:8", ":4096:8"):
            raise RuntimeError("CUBLAS_WORKSPACE_CONFIG was not set at the first product")
        if name in _NOT_DETERMINISTIC or (name in ("cumsum", "cumsum_") and args[0].is_floating_point()):
            raise RuntimeError(f"{name} has no deterministic implementation on CUDA")

    def _copy(self, func: Any, into: torch.Tensor, values: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        device = self._device
        if device.holds(values) and non_blocking and device.pinned(into):
            with _quietly():
                device.copy_later(into, values)
            return into
        if values.ndim and not (non_blocking and device.pinned(values)):
            device.note_wait("copy_")
        return func(into, values)  # type: ignore[no-any-return]

    def _require_one_place(self, func: Any, name: str, args: Any, given: list[Any], on: list[Any]) -> None:
        if name in _INDEXING:
            places = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in places):
                self._device.note_wait(f"{name} by a mask")
            if not all(map(self._device.holds, places)):
                self._device.note_wait(f"{name} by places that the host has")
                given = [tensor for tensor in given if not any(tensor is index for index in places)]
        # A number that the host has goes along with an operation; joined tensors are all of one place.
        scalars_pass = name not in ("cat", "stack")
        apart = [t for t in given if not self._device.holds(t) and not (t.ndim == 0 and scalars_pass)]
        if apart and name not in _BETWEEN and not name.startswith("_foreach"):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in apart)
            raise RuntimeError(f"{func}: expected all tensors to be on the device, but {shapes} are on the host")


def _tensors(of: Any) -> Iterator[torch.Tensor]:
    if isinstance(of, torch.Tensor):
        yield of
    elif isinstance(of, tuple | list):
        for one in of:
            yield from _tensors(one)


def _emulated(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation; products with a wider result, which a CPU has no kernel for, of wider factors."""
    packet = func.overloadpacket
    if packet not in (torch.ops.aten.mm, torch.ops.aten.addmm) or not func._overloadname.startswith("dtype"):
        return func(*args, **kwargs)
    *tensors, dtype = args[: 3 if packet is torch.ops.aten.mm else 4]
    found = packet(*(tensor.to(dtype) for tensor in tensors), **{k: v for k, v in kwargs.items() if k != "out"})
    return found if "out" not in kwargs else kwargs["out"].copy_(found)


class _Autocast(torch.autocast):
    """Of the device: that of the CPU, which computes."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(_by_cpu(device_type), *args, **kwargs)


def _by_cpu(device_type: str) -> str:
    return "cpu" if device_type == "cuda" else device_type


def _forget_what_was_found() -> None:
    """Let transformers look again at what the machine has."""
    for name, function in vars(import_utils).items():
        if name.startswith("is_torch_") and hasattr(function, "cache_clear"):
            function.cache_clear()


@contextlib.contextmanager
def simulated_cuda(n_devices: int = 1) -> Iterator[Simulated]:
    """Be on a machine with CUDA devices, of which the first is used and the CPU computes in its place."""
    device = Simulated()
    state = torch.zeros(16, dtype=torch.uint8)
    cuda = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "device_count": lambda: n_devices,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda *args: "a simulated device",
        "get_device_capability": lambda *args: (9, 0),
        "get_device_properties": lambda *args: SimpleNamespace(
            name="a simulated device", total_memory=1 << 30, major=9
        ),
        "get_rng_state": lambda *args: state.clone(),
        "set_rng_state": lambda *args: None,
        "manual_seed_all": lambda seed: None,
        "current_stream": lambda *args: None,
        "is_current_stream_capturing": lambda: False,
        "device_of": lambda tensor: contextlib.nullcontext(),
        "empty_cache": lambda: None,
        "synchronize": lambda *args: device.note_wait("synchronize"),
        "Event": device.event,
    }
    enabled, dtype_of = torch.is_autocast_enabled, torch.get_autocast_dtype
    with contextlib.ExitStack() as stack:
        _forget_what_was_found()
        stack.callback(_forget_what_was_found)
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for name in ("get_rng_state", "set_rng_state"):
            stack.enter_context(mock.patch.object(torch.cuda.random, name, cuda[name]))
        for holder in (torch, torch.amp, torch.amp.autocast_mode):
            stack.enter_context(mock.patch.object(holder, "autocast", _Autocast))
        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", lambda kind="cuda": enabled(_by_cpu(kind))))
        stack.enter_context(mock.patch.object(torch, "get_autocast_dtype", lambda kind: dtype_of(_by_cpu(kind))))
        # Within a backward pass the engine knows operations alone, and a tensor would say that it is on the host.
        stack.enter_context(mock.patch.object(placement, "host_computes", lambda device: False))
        stack.enter_context(mock.patch.object(head_pass, "_has_triton", lambda: False))
        stack.enter_context(_Functions(device))
        stack.enter_context(_Operations(device))
        yield device
