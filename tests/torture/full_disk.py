"""Fill the disk for real, while an epoch is recorded and while a checkpoint is written, and go on once there is room.

`python tests/torture/full_disk.py`. The output of `dynamics train` is a small tmpfs, so that the system itself refuses
the bytes. The run must end with exit code 1 and one line; `dynamics check` must find every complete epoch whole; and
with a larger tmpfs `--resume` must end in the bits of a run that was never disturbed. Where no file system may be
mounted (that takes root) it says "skipped", and exits 0.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.run_contents import contents
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.records.reader import open_run

KIB = 1024
# Small enough that one epoch of float32 values (some 300 kB) and one checkpoint (some 5 MB) can each be what is too
# much, and so many tokens that an epoch has several files.
RECIPE: dict[str, Any] = {
    "name": "full-disk",
    "corpus": {"source": "builtin:python-reference", "documents": 60},
    "tokenizer": {"train": {"vocab_size": 300}},
    "model": {"name": "nano"},
    "block_size": 64,
    "regularizers": [{"name": "entrodrop", "ratio": 0.3}],
    "recording": {"dtype": "float32"},
    "training": {"num_train_epochs": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 64},
}


def dynamics(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DYNAMICS_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    return subprocess.run(
        [sys.executable, "-m", "dynamics", *arguments], env=environment, capture_output=True, text=True, check=False
    )


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a tmpfs of `size` bytes at `folder`, and unmount it whatever happens; raises PermissionError if forbidden."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "dynamics-full-disk", str(folder)]
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def grow(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def undisturbed(root: Path, recipe: Path, cache: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Train on a disk that is large enough; return the run's content, and how much the disk held at most, and when."""
    with small_disk(root / "large", 512 * KIB * KIB):
        out = root / "large" / "run"
        done = dynamics("train", str(recipe), "--output", str(out), cache=cache)
        assert done.returncode == 0, done.stderr
        sizes = {
            "tokens": folder_size(out / schema.TOKENS_FOLDER),
            "epoch": folder_size(out / schema.epoch_folder(1)),
            "model": folder_size(out / schema.MODEL_FOLDER),
        }
        return contents(out), sizes


def folder_size(folder: Path) -> int:
    """Bytes that a folder takes on a tmpfs, whose files are whole pages."""
    page = 4096
    return sum(-(-path.stat().st_size // page) * page for path in folder.rglob("*") if path.is_file())


def attempt(name: str, size: int, root: Path, recipe: Path, cache: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Train on a disk of `size` bytes until it is full, check what is there, make room, resume, compare."""
    with small_disk(root / name, size):
        out = root / name / "run"
        full = dynamics("train", str(recipe), "--output", str(out), cache=cache)
        lines = full.stderr.strip().splitlines()
        found: dict[str, Any] = {"disk": size, "exit": full.returncode, "said": lines[-1] if lines else "", "wrong": []}
        wrong = found["wrong"]
        if full.returncode != 1 or "the disk is full" not in full.stderr or "--resume" not in full.stderr:
            wrong.append("the run did not end with exit code 1 and how to go on")
        if "Traceback" in full.stderr or len([line for line in lines if line.startswith("Error")]) != 1:
            wrong.append("more than one line was said: " + full.stderr[-2000:])
        staged = out / schema.CHECKPOINTS_FOLDER / "next.partial"
        partial = [path.name for path in (out / schema.EPOCHS_FOLDER).glob("*.partial")]
        found["while"] = "checkpointing" if staged.exists() else "recording" if partial else "another moment"
        if (out / schema.MANIFEST_FILE).exists():
            found["epochs kept"] = open_run(out, verify=True).epochs
            checked = dynamics("check", str(out), cache=cache)
            if checked.returncode or check_run(out).good_epochs != found["epochs kept"]:
                wrong.append("check: " + checked.stdout + checked.stderr)
        before = {epoch: schema.sha256_file(out / schema.epoch_folder(epoch) / schema.MANIFEST_FILE)
                  for epoch in found.get("epochs kept", [])}  # fmt: skip
        grow(root / name, 512 * KIB * KIB)
        resumed = dynamics("train", str(recipe), "--output", str(out), "--resume", cache=cache)
        found["resumed"] = next((line for line in resumed.stdout.splitlines() if "interrupted" in line), "")
        if resumed.returncode:
            wrong.append("resuming: " + resumed.stderr[-2000:])
            return found
        after = contents(out)
        differing = sorted(key for key in {*after, *expected} if after.get(key) != expected.get(key))
        if differing:
            wrong.append(f"{', '.join(differing)} differ from the undisturbed run")
        for epoch, sealed in before.items():
            if schema.sha256_file(out / schema.epoch_folder(epoch) / schema.MANIFEST_FILE) != sealed:
                wrong.append(f"epoch {epoch}, which was complete, is another one now")
        return found


def unshared() -> bool:
    """Give this process mounts of its own, so that not even a SIGKILL leaves one behind."""
    clone_newns = 0x20000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_newns):
        return False
    subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False)
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    unshared()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        cache, recipe = root / "cache", root / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE))
        try:
            expected, sizes = undisturbed(root, recipe, cache)
        except (PermissionError, FileNotFoundError) as error:
            print(f"skipped: no small disk may be mounted here ({error})")
            return
        result: dict[str, Any] = {"sizes": sizes, "attempts": {}}
        # What lies there before the first checkpoint: tokens and epoch 0; a checkpoint is about three models.
        base = sizes["tokens"] + 64 * KIB
        checkpoint = 3 * sizes["model"]
        disks = {
            "recording-epoch-0": base + sizes["epoch"] // 2,
            "checkpoint-1": base + 2 * sizes["epoch"] + checkpoint // 2,
            "recording-epoch-2": base + 2 * sizes["epoch"] + checkpoint + sizes["epoch"] // 2,
            "checkpoint-2": base + 3 * sizes["epoch"] + checkpoint + checkpoint // 2,
            "checkpoint-3": base + 4 * sizes["epoch"] + 2 * checkpoint + checkpoint // 2,
        }
        for name, size in disks.items():
            result["attempts"][name] = attempt(name, size, root, recipe, cache, expected)
    moments = {found["while"] for found in result["attempts"].values()}
    missed = [f"the disk was never full while {moment}" for moment in {"recording", "checkpointing"} - moments]
    result["wrong"] = missed + [
        f"{name}: {problem}" for name, found in result["attempts"].items() for problem in found["wrong"]
    ]
    text = json.dumps(result, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n")
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
