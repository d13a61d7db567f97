"""One of two processes that train through every door in turn: `python one_of_two.py SETTING FOLDER`.

With ``own means`` after it, through `DynamicsTrainer` alone, each process dividing by its own tokens, at a rate of 0.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def write(setting, file: Path) -> None:
    """Put a setting where the processes find it."""
    file.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in asdict(setting).items()}))


def main(setting_file: str, folder: str, own_means: str = "") -> None:
    from dynamics.training.environment.processes import leave_process_group
    from support.doors.setting import DOORS, Setting
    from support.doors.through import train

    fields = json.loads(Path(setting_file).read_text())
    paths = {key: Path(fields.pop(key)) for key in ("corpus", "held_out", "model")}
    setting = Setting(**paths, **fields)
    changes = {"methods": list, "rate": 0.0, "arguments": {"average_tokens_across_devices": False}}
    asked = replace(training(), **changes) if own_means else training()
    for door in ["DynamicsTrainer"] if own_means else DOORS:
        train(door, setting, Path(folder) / door, asked)
    leave_process_group()


def training():
    """What each does: two rows a process and step, as four of one."""
    from support.doors.setting import Training

    return Training(batch=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
