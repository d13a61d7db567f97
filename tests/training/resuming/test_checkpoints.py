"""A disk that is full is told as such, whatever the library that met it raised."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dynamics.training.resuming import checkpoints
from dynamics.training.resuming.checkpoints import Checkpoints, telling_full_disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_what_torch_raises_on_a_full_disk(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints.os, "fsync", refused)
    found = Checkpoints(tmp_path / "checkpoints", config_hash="c")
    with pytest.raises(OSError) as raised, found.writing(epoch=1, step=2, main_process=True, wait=lambda: None):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    assert raised.value.errno == number
    assert raised.value.filename == str(tmp_path / "checkpoints")
    # Nothing became a checkpoint, and what tried for room is gone.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["next.partial"]


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), telling_full_disk(tmp_path):
        raise RuntimeError("a bug")
    with pytest.raises(FileNotFoundError), telling_full_disk(tmp_path):
        raise FileNotFoundError("gone")
    with pytest.raises(RuntimeError, match="a bug"), telling_full_disk(tmp_path / "nowhere"):
        raise RuntimeError("a bug")
    assert list(tmp_path.iterdir()) == []
