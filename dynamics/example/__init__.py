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
    """Open the study that ships with the package: five arms, three seeds, records of every epoch.

    A model of one million parameters, pretrained on Python source and docstrings, learns sections of the Python
    reference for many epochs: as a baseline, with EntroDrop along a linear and a constant schedule, and with its
    controls, random and inverse token dropout. All validation tokens are recorded, and some training sequences; there
    are no weights. ``recipes/example.yaml`` made it.

    The first call unpacks it into the cache (a second, about 40 MB); later ones open it there.

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
