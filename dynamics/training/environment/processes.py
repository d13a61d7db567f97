"""What several processes that train one model must agree on; with one process all of it does nothing."""

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

# Bytes that one collective carries at a time: an epoch's masks may be larger than a device's free memory.
_PIECE = 1 << 28


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """Return this process's place among them; 0 writes what is written once."""
    return dist.get_rank() if _several() else 0


def launched() -> int:
    """Return how many processes a launcher started, whether or not they have met yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Wait until all processes are here."""
    if _several():
        dist.barrier()


def leave_process_group() -> None:
    """End what the processes were together, once all are here; with one process there is nothing to end.

    Left to the end of the interpreter, a thread of gloo may hold the last tensor that Python knew when there is no
    Python any more, and abort a process whose work is done.
    """
    if _several():
        gc.collect()
        dist.barrier()
        _host_group.clear()
        dist.destroy_process_group()


def on_rank_zero(action: Callable[[], T]) -> T:
    """Return, in all processes, what `action` returns in process 0; bad input is the same error in all.

    Parameters
    ----------
    action : callable
        Called in process 0 alone. What it returns must be picklable.
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
    """Return the highest `number` of all processes. The hosts wait for one another, and for no device."""
    if not _several():
        return number
    found = torch.tensor(number, device="cpu")
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_hosts())
    return int(found)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of `values` over all processes, where they are."""
    if not _several():
        return values
    total = values.to(_device(), copy=True)
    dist.all_reduce(total)
    return total.to(values.device)


def over_ranks(array: np.ndarray, *, blank: float | bool) -> np.ndarray:
    """Return an array of which each process has filled other entries.

    Parameters
    ----------
    array : ndarray of bool or float32
        `blank` where this process knows nothing.
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
            # Where several know a value (a sequence that a loader repeated), theirs are the same: the largest is it.
            known = (~piece.isnan()).to(torch.uint8)
            dist.all_reduce(known, op=dist.ReduceOp.MAX)
            piece = torch.where(piece.isnan(), -torch.inf, piece)
            dist.all_reduce(piece, op=dist.ReduceOp.MAX)
            flat[start : start + step] = torch.where(known.bool(), piece, torch.nan).cpu().numpy()
    return flat.reshape(array.shape)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


# A group of the hosts beside that of the devices; made once, by all processes together.
_host_group: dict[str, Any] = {}


def _hosts() -> Any:
    if dist.get_backend() != "nccl":
        return None
    if "group" not in _host_group:
        _host_group["group"] = dist.new_group(backend="gloo")
    return _host_group["group"]


def _device() -> torch.device:
    # Collectives of nccl take tensors of the device alone.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
