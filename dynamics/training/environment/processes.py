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


def wait() -> None:
    """Wait until all processes are here."""
    if _several():
        dist.barrier()


def part() -> None:
    """End what the processes were together, once all are here; with one process there is nothing to end.

    Left to the end of the interpreter, a thread of gloo may hold the last tensor that Python knew when there is no
    Python any more, and abort a process whose work is done.
    """
    if _several():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def decided(decide: Callable[[], T]) -> T:
    """Return what process 0 decides, in all of them; bad input is the same error in all.

    Parameters
    ----------
    decide : callable
        Called in process 0 alone. What it returns must be picklable.
    """
    if not _several():
        return decide()
    said: list[Any] = [None, None]
    if rank() == 0:
        try:
            said = [decide(), None]
        except InputError as error:
            said = [None, str(error)]
    dist.broadcast_object_list(said, src=0)
    result, problem = said
    if problem is not None:
        raise InputError(problem)
    found: T = result
    return found


def any_of(flag: bool) -> bool:
    """Return whether `flag` is set in any process."""
    if not _several():
        return flag
    found = torch.tensor(int(flag), device=_device())
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def sum_of(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of `values` over all processes."""
    if not _several():
        return values
    total = values.to(_device())
    dist.all_reduce(total)
    return total.to(values.device)


def merged(array: np.ndarray, *, blank: float | bool) -> np.ndarray:
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
            # A sequence is trained by one process, so that at most one of them knows a value.
            known = (~piece.isnan()).to(torch.uint8)
            dist.all_reduce(known, op=dist.ReduceOp.MAX)
            piece = piece.nan_to_num(nan=0.0)
            dist.all_reduce(piece)
            flat[start : start + step] = torch.where(known.bool(), piece, torch.nan).cpu().numpy()
    return flat.reshape(array.shape)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _device() -> torch.device:
    # Collectives of nccl take tensors of the device alone.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
