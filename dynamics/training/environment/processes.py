"""Communication between the ranks of a distributed training. With one process these functions do nothing."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from dynamics.errors import InputError

T = TypeVar("T")

# Bytes per collective call: the masks of an epoch may be larger than the free memory of a device.
_PIECE = 1 << 28


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """Return the rank of this process. Rank 0 writes the shared files."""
    return dist.get_rank() if _several() else 0


def launched() -> int:
    """Return how many processes a launcher started, whether or not they are connected yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Wait until all ranks get here."""
    if _several():
        dist.barrier()


def leave_process_group() -> None:
    """Destroy the process group once all ranks get here. With one process there is nothing to do.

    If this is left to the exit of the interpreter, a gloo thread may still hold a Python tensor after Python has shut
    down, and abort a process that has finished its work.
    """
    if _several():
        gc.collect()
        dist.barrier()
        _host_group.clear()
        dist.destroy_process_group()


def on_rank_zero(action: Callable[[], T]) -> T:
    """Return the result of `action`, run on rank 0, on all ranks. If it raises InputError, all ranks raise it.

    Parameters
    ----------
    action : callable
        Called on rank 0 only. Its result must be picklable.
    """
    if not _several():
        return action()
    said: list[Any] = [None, None]
    if rank() == 0:
        try:
            said = [action(), None]
        except InputError as error:
            said = [None, str(error)]
    dist.broadcast_object_list(said, src=0)
    result, problem = said
    if problem is not None:
        raise InputError(problem)
    found: T = result
    return found


def highest_of_ranks(number: int) -> int:
    """Return the highest `number` over all ranks. This waits for the other hosts, but not for a device."""
    if not _several():
        return number
    found = torch.tensor(number, device="cpu")
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_hosts())
    return int(found)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of `values` over all ranks, on the device of `values`."""
    if not _several():
        return values
    total = values.to(_device(), copy=True)
    dist.all_reduce(total)
    return total.to(values.device)


def over_ranks(array: np.ndarray, *, blank: float | bool) -> np.ndarray:
    """Merge an array in which each rank has filled different entries.

    Parameters
    ----------
    array : ndarray of bool or float32
        `blank` in the entries that this rank does not know.
    blank : False or NaN
    """
    if not _several():
        return array
    flat = array.reshape(-1)
    step = _PIECE // array.itemsize
    for start in range(0, len(flat), step):
        piece = torch.from_numpy(flat[start : start + step]).to(_device())
        if blank is False:
            piece = piece.to(torch.uint8)
            dist.all_reduce(piece, op=dist.ReduceOp.MAX)
            flat[start : start + step] = piece.bool().cpu().numpy()
        else:
            # Several ranks may know an entry (a loader can repeat a sequence). Their values are equal, so take the max.
            known = (~piece.isnan()).to(torch.uint8)
            dist.all_reduce(known, op=dist.ReduceOp.MAX)
            piece = torch.where(piece.isnan(), -torch.inf, piece)
            dist.all_reduce(piece, op=dist.ReduceOp.MAX)
            flat[start : start + step] = torch.where(known.bool(), piece, torch.nan).cpu().numpy()
    return flat.reshape(array.shape)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


# A process group of the hosts (gloo), in addition to that of the devices. Created once, by all ranks together.
_host_group: dict[str, Any] = {}


def _hosts() -> Any:
    if dist.get_backend() != "nccl":
        return None
    if "group" not in _host_group:
        _host_group["group"] = dist.new_group(backend="gloo")
    return _host_group["group"]


def _device() -> torch.device:
    # nccl only accepts tensors on the device.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
