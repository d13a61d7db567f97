"""Writing a page to a file: never over a file that is not an explorer page."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from dynamics.errors import InputError
from dynamics.records.schema import atomic_write_bytes

# How a page begins. Pages of earlier versions have no generator; the title stands in its place.
_HEAD = re.compile(
    rb"<!doctype html>\s*"
    rb"<html lang=\"en\">\s*"
    rb"<head>\s*"
    rb"<meta charset=\"utf-8\">\s*"
    rb"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-[^\"]*\">\s*"
    rb"(<meta name=\"generator\" content=\"dynamics token explorer\">"
    rb"|<meta name=\"viewport\"[^>]*>\s*<meta name=\"referrer\"[^>]*>\s*<title>Token explorer</title>)"
)
_HEAD_BYTES = 2048


def check_place(path: str | Path) -> Path:
    """Return the file that a page may be written to; a link is followed.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    InputError
        If there is something that is not an explorer page, or that cannot be read.
    """
    path = Path(path)
    try:
        # Not Path.resolve, which lets a link that leads to itself pass.
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name another file") from error
    except ValueError as error:  # a null byte
        raise InputError(f"{str(path)!r} is no file name: {error}; name another file") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; name a file, such as {path / 'page.html'}")
    if not stat.S_ISREG(mode) or not _is_page(path, target):
        raise InputError(
            f"{path} is there and is not an explorer page, so it is not overwritten; name another file, or move it away"
        )
    return target


def save_page(path: str | Path, html: str) -> Path:
    """Write a page, whole or not at all, and return `path`.

    Raises
    ------
    InputError
        As `check_place` does, and if the file cannot be written; OSError if the disk is full.
    """
    path = Path(path)
    target = check_place(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(target, html.encode("utf-8"))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{path} cannot be written: {error.strerror}; name another place") from error
    return path


def _is_page(path: Path, target: Path) -> bool:
    try:
        with target.open("rb") as file:
            return _HEAD.match(file.read(_HEAD_BYTES)) is not None
    except OSError as error:
        raise InputError(f"{path} is there and cannot be read: {error.strerror}; name another file") from error
