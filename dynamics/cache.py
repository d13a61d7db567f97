"""Things that are made once: tokenizers, starting models and reference passes, by hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock


def cache_root() -> Path:
    """Return $DYNAMICS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("DYNAMICS_CACHE") or platformdirs.user_cache_dir("dynamics"))


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
