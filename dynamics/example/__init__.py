"""A small real study that ships with the package: see README.md beside this file."""

from __future__ import annotations

import hashlib
import io
import tarfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from dynamics.cache import cached_folder

if TYPE_CHECKING:
    from dynamics.records.reader import Study

_ENDING = ".tar.xz"


def load_example() -> Study:
    """Open the study that ships with the package: three arms, three seeds, records of every epoch.

    SmolLM2-135M-Instruct, its weights restored from 4 bits, learns sections of the Python reference for many epochs:
    as a baseline, with EntroDrop, and with random token dropout at the same share. All tokens of the validation
    sections, of the tuning sections and of general text (the standard library's source) are recorded, and some
    training sequences; there are no weights. ``recipes/example.yaml`` made it.

    The first call unpacks it into the cache (a second, about 20 MB); later ones open it there.

    Returns
    -------
    Study
        As `open_study` gives it, without torch.
    """
    from dynamics.records.reader import open_study

    here = files("dynamics.example")
    archives = {part.name: part.read_bytes() for part in here.iterdir() if part.name.endswith(_ENDING)}
    assert archives, "the package was installed without its example"

    def unpack(folder: Path) -> None:
        for content in archives.values():
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as archive:
                archive.extractall(folder, filter="data")

    key = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(archives.items())}
    folder, _ = cached_folder("example", key, unpack)
    return open_study(folder)
