"""Chooses between the two routes that torch offers for a head's products. Measured once, cached, reported, restored.

Only measuring tells which route is faster: it differs between processors of one family, and between shapes. But the
outcome of a timing must not change the results of a run. Therefore the choice is cached by processor, torch version,
threads and shape, and later processes use it. A run can also record its routes, and restore them later.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch.utils._python_dispatch import _disable_current_modes

from dynamics.cache import cached_entry
from dynamics.errors import InputError
from dynamics.ops.chunking import rows_per_chunk
from dynamics.ops.products import Route, accumulate_outer_, has_onednn, hidden_product, logits_product, weight_slices

log = logging.getLogger(__name__)

ROUTES: tuple[Route, ...] = get_args(Route)
VARIABLE = "DYNAMICS_HEAD_ROUTE"
_FILE = "head-routes"

# Shapes are rounded up to powers of two. Smaller shapes than these are treated alike.
_LEAST_HIDDEN = 64
_LEAST_VOCABULARY = 1024

# The size of a timing: about 8 ms per call on one slow core. Other work may disturb calls, so the minimum is used.
_OPERATIONS = 8e8
_FEWEST_ROUNDS = 5
_MOST_ROUNDS = 9
_ENOUGH_SECONDS = 0.06

# How much faster oneDNN must be. If both are about equal, timing noise should not decide.
_MARGIN = 0.95

_lock = threading.RLock()
_chosen: dict[str, Route] = {}
_forced: Route | None = None


def head_route(n_hidden: int, n_vocab: int, dtype: torch.dtype, device: torch.device) -> Route:
    """Return the route of a head's products.

    If there are two (`products.has_onednn`), it is the first of these: the one that this process has used or restored
    for the shape, the environment variable DYNAMICS_HEAD_ROUTE, the cached one, the faster one.

    Parameters
    ----------
    n_hidden, n_vocab : int
        H and V of the weight.
    dtype : torch.dtype
        The dtype of the factors.
    device : torch.device

    Returns
    -------
    "onednn" or "mm"

    Raises
    ------
    InputError
        The environment variable names no route.
    """
    if not has_onednn(dtype, device):
        return "mm"
    if _forced is not None:
        return _forced
    h, v = _bucket(n_hidden, _LEAST_HIDDEN), _bucket(n_vocab, _LEAST_VOCABULARY)
    key = f"{_machine()}; H {h}; V {v}"
    route = _chosen.get(key)
    if route is None:
        with _lock:
            route = _chosen.get(key)
            if route is None:
                route = _chosen[key] = _override() or _from_cache(key, functools.partial(_measure, h, v))
    return route


def chosen_routes() -> dict[str, str]:
    """Return the routes that this process has used or restored, for a run to record.

    Returns
    -------
    dict
        Maps a description of processor, torch, threads and shape to "onednn" or "mm". Empty if there is nothing to
        choose.

    Examples
    --------
    >>> restore_routes(chosen_routes())  # in another process: uses the same routes, and measures nothing
    """
    with _lock:
        return dict(sorted(_chosen.items()))


def restore_routes(routes: Mapping[str, str]) -> None:
    """Use these routes from now on, whatever the cache says, without measuring their shapes.

    Parameters
    ----------
    routes : mapping
        From `chosen_routes`. Entries for other machines, versions and numbers of threads are kept but not used.

    Raises
    ------
    InputError
        `routes` is not such a mapping, or DYNAMICS_HEAD_ROUTE contradicts it for this machine.
    """
    if not isinstance(routes, Mapping):
        raise InputError(f"routes are {routes!r}: give what chosen_routes() returned")
    override = _override()
    found: dict[str, Route] = {}
    for key, name in routes.items():
        if not isinstance(key, str):
            raise InputError(f"routes have the key {key!r}: give what chosen_routes() returned")
        found[key] = _checked(name, f"the route of {key!r}")
        if override is not None and override != name and key.startswith(f"{_machine()};"):
            raise InputError(
                f"{VARIABLE} is {override}, but the resumed run used {name}: unset {VARIABLE}, or set it to {name}"
            )
    with _lock:
        _chosen.update(found)


@contextlib.contextmanager
def forced(route: Route) -> Iterator[None]:
    """Temporarily use a route, if there are two, and do not remember it. For comparisons.

    Parameters
    ----------
    route : "onednn" or "mm"
    """
    global _forced
    before, _forced = _forced, _checked(route, "route")
    try:
        yield
    finally:
        _forced = before


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor, as precisely as the system reports it."""
    path = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    flags = fields.get("flags", "").split()
    simd = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')}, {simd})"


def faster(seconds: Mapping[Route, float]) -> Route:
    """Return the route to use, given the seconds of each."""
    return "onednn" if seconds["onednn"] <= _MARGIN * seconds["mm"] else "mm"


def time_routes(
    calls: Mapping[Route, Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> dict[Route, float]:
    """Return the fewest seconds that each call took. Calls alternate, after a first warm-up round.

    Parameters
    ----------
    calls : mapping
        One call for each route.
    clock : callable
        Returns seconds.

    Returns
    -------
    dict
    """
    least = dict.fromkeys(calls, float("inf"))
    begin = clock()
    for round_ in range(_MOST_ROUNDS + 1):
        for route in list(calls)[:: 1 if round_ % 2 else -1]:
            start = clock()
            calls[route]()
            if round_:
                least[route] = min(least[route], clock() - start)
        if round_ >= _FEWEST_ROUNDS and clock() - begin >= _ENOUGH_SECONDS:
            break
    return least


def _bucket(size: int, least: int) -> int:
    """Return the smallest power of two that is at least `size` and `least`."""
    return 1 << (max(size, least) - 1).bit_length()


def _machine() -> str:
    return f"{processor()}; torch {torch.__version__}; threads {torch.get_num_threads()}"


def _checked(name: Any, what: str) -> Route:
    for route in ROUTES:
        if name == route:
            return route
    raise InputError(f"{what} is {name!r}: give one of {', '.join(ROUTES)}")


def _override() -> Route | None:
    name = os.environ.get(VARIABLE)
    return _checked(name, VARIABLE) if name else None


def _from_cache(key: str, measure: Callable[[], dict[Route, float]]) -> Route:
    """Return the cached route; or measure, and cache the faster one."""
    made: list[dict[str, Any]] = []

    def make() -> dict[str, Any]:
        seconds = measure()
        made.append({"route": faster(seconds), "seconds": seconds})
        return made[-1]

    try:
        entry = cached_entry(_FILE, key, make)
    except OSError as error:
        _warn(f"{type(error).__name__}: {error}")
        entry = made[-1] if made else make()
    return _checked(entry.get("route") if isinstance(entry, dict) else entry, f"the cache's {_FILE}.json, {key!r}")


@functools.cache
def _warn(problem: str) -> None:
    """Warn once per process, because the warning would be the same for every shape."""
    log.warning(
        "the cache cannot keep which route of the head's products is faster (%s): another run may take the other, and "
        "differ in rounding; set DYNAMICS_CACHE to a folder that can be written, or %s",
        problem,
        VARIABLE,
    )


def _measure(h: int, v: int) -> dict[Route, float]:
    """Return the seconds of one chunk's three products, by each route.

    For a large vocabulary only a part is measured, which takes the same time per column. No random numbers are drawn,
    and the caller's torch state (autograd, autocast, modes that watch or replace operators) is not involved.
    """
    cpu = torch.device("cpu")
    n = rows_per_chunk(v, torch.float32, cpu)
    v = min(v, max(_LEAST_VOCABULARY, int(_OPERATIONS / (6 * n * h)) // 64 * 64))
    with _disable_current_modes(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        hidden, weight = _data(n, h), _data(v, h)
        total = torch.zeros(v, h, dtype=torch.float32, device=cpu)

        def chunk(route: Route, slices: tuple[torch.Tensor, ...]) -> None:
            logits = logits_product(hidden, slices, None, route)
            hidden_product(logits, weight, route)
            accumulate_outer_(total, logits, hidden, route, first=False)

        calls = {route: functools.partial(chunk, route, weight_slices(weight, route)) for route in ROUTES}
        # With one thread, processor time is used, which other work on the same core does not affect.
        return time_routes(calls, time.thread_time if torch.get_num_threads() == 1 else time.perf_counter)


def _data(rows: int, columns: int) -> torch.Tensor:
    """Return some numbers in [-0.5, 0.5)."""
    count = torch.arange(rows * columns, dtype=torch.float32, device="cpu")
    return count.remainder_(97.0).div_(97.0).sub_(0.5).view(rows, columns)
