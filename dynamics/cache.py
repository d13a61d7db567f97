"""Things that are made once: tokenizers, starting models and reference passes, by hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from dynamics.errors import InputError, nearest

# How the name of a model begins that lies in the cache, and what may follow.
PLACED = "cache:"
_SHORT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")

log = logging.getLogger(__name__)

# Seconds to wait for another process that makes an entry: far longer than anything small takes.
_ENTRY_SECONDS = 60.0


def cache_root() -> Path:
    """Return $DYNAMICS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("DYNAMICS_CACHE") or platformdirs.user_cache_dir("dynamics"))


def where_model_lies(name: str) -> str:
    """Return a model's or tokenizer's name as a recipe keeps it: the absolute path where it is one, else as it is.

    A hub name also has a slash: it is a path only where something of that name is there. ``cache:NAME`` is never a
    path, whatever lies in the working directory, so that it means the same everywhere (``./cache:NAME`` is one).
    """
    path = os.path.expanduser(name)
    return os.path.abspath(path) if not name.startswith(PLACED) and os.path.exists(path) else name


def placed_model(name: str) -> str:
    """Return where a model lies: for ``cache:NAME`` the folder models/NAME of the cache, else `name` itself.

    So a recipe can name a model that was made on this machine, and mean the same on every other one.

    Parameters
    ----------
    name : str
        Of a model or tokenizer, as a recipe has it.

    Raises
    ------
    InputError
        Nothing of that name was put there, or the name is none of a folder.
    """
    if not name.startswith(PLACED):
        return name
    short = name.removeprefix(PLACED)
    if not _SHORT.fullmatch(short):
        raise InputError(
            f"{name!r} is no name of a model; write {PLACED}NAME, the folder models/NAME of the cache (letters, digits "
            "and _ . + -, not a dot first)"
        )
    folder = cache_root() / "models" / short
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob("[!.]*") if path.is_dir())
        raise InputError(
            f"{name!r}: there is no folder {folder}; set DYNAMICS_CACHE if it is elsewhere, or make the model first "
            f"(for the study's, python recipes/study/pretrained.py){nearest(short, there)}"
        )
    return str(folder)


def cached_folder(kind: str, key: dict[str, Any], build: Callable[[Path], None]) -> tuple[Path, bool]:
    """Return the folder that `build` fills, building it only if it is not there yet.

    Parameters
    ----------
    kind : str
        Kind of content, a folder of the cache.
    key : dict
        All that decides the content, as JSON values.
    build : callable
        Fills an empty folder. It runs under a lock, and the folder gets its name only when it returns, so
        that no other process ever sees half of it.

    Returns
    -------
    folder : Path
    cached : bool
        Whether it was there already.
    """
    canonical = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:32]
    parent = cache_root() / kind
    folder = parent / digest
    if folder.is_dir():
        return folder, True
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f"{digest}.lock"):
        if folder.is_dir():
            return folder, True
        partial = parent / f"{digest}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            build(partial)
            (partial / "key.json").write_text(json.dumps(key, sort_keys=True, indent=2) + "\n")
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder, False


def cached_entry(name: str, key: str, make: Callable[[], Any]) -> Any:
    """Return one entry of a JSON file in the cache, making it only if it is not there yet.

    For what is small and counts in the dozens; `cached_folder` is for the rest.

    Parameters
    ----------
    name : str
        Of the file, without its ending.
    key : str
    make : callable
        Returns the entry, a JSON value. It runs under a lock: of several processes one makes it, and all return the
        same.

    Returns
    -------
    JSON value

    Raises
    ------
    OSError
        Where the cache cannot be read or written. `make` may have run by then.
    """
    path = cache_root() / f"{name}.json"
    entries = _entries(path)
    if key in entries:
        return entries[key]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), timeout=_ENTRY_SECONDS):
        entries = _entries(path)
        if key not in entries:
            entries[key] = make()
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(entries, sort_keys=True, indent=1) + "\n")
            os.replace(partial, path)
        return entries[key]


def _entries(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        log.warning("%s holds no JSON object: it is written anew", path)
        return {}
    return entries
