"""Studies: arms by seeds, each an ordinary run; run again, a study goes on where it stopped."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import yaml

from dynamics.errors import InputError
from dynamics.recipe.loading import dump_yaml, load_recipe, resolved
from dynamics.recipe.studies import StudyRecipe
from dynamics.records import schema
from dynamics.records.reader import study_run_path
from dynamics.reporting import Reporter


class StudyFailure(RuntimeError):
    """Some runs of a study failed; the others are complete."""


def write_plan(recipe: StudyRecipe, output: Path) -> list[Path]:
    """Write study.yaml and the config.yaml of every run, and return the run directories in order.

    Raises
    ------
    InputError
        `output` holds another study, or something else.
    """
    content = dump_yaml(recipe)
    file = output / schema.STUDY_FILE
    if output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is a file; name a new directory")
    if file.exists():
        if yaml.safe_load(file.read_text()) != resolved(recipe):
            raise InputError(f"--output: {output} holds another study; name a new directory, or give its recipe")
    elif output.exists() and any(output.iterdir()):
        raise InputError(f"--output: {output} holds something else than this study; name a new directory")
    output.mkdir(parents=True, exist_ok=True)
    schema.atomic_write_bytes(file, content.encode())
    folders = []
    for arm, seed, run in recipe.plan():
        folder = study_run_path(output, arm, seed)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / schema.CONFIG_FILE).exists():
            schema.atomic_write_bytes(folder / schema.CONFIG_FILE, dump_yaml(run).encode())
        folders.append(folder)
    return folders


def run_command(folder: Path) -> list[str]:
    """Return the command that runs, or goes on with, the run in `folder`."""
    return [
        "dynamics",
        "train",
        str(folder / schema.CONFIG_FILE),
        "--output",
        str(folder),
        "--resume",
    ]


def list_runs(recipe: StudyRecipe, output: Path) -> list[str]:
    """Write the plan and return one command a run, for any scheduler."""
    return [shlex.join(run_command(folder.absolute())) for folder in write_plan(recipe, output)]


def run_index(recipe: StudyRecipe, output: Path, index: int, *, reporter: Reporter) -> None:
    """Run one run of the study, by its place in `list_runs`, from 0."""
    folders = write_plan(recipe, output)
    if not 0 <= index < len(folders):
        raise InputError(f"--index: {index} is no run of this study; it has 0 to {len(folders) - 1}")
    _run_here([folders[index]], reporter)


def run_study(recipe: StudyRecipe, output: Path, *, jobs: int = 1, reporter: Reporter) -> None:
    """Run every run of the study that is not finished.

    Parameters
    ----------
    recipe : StudyRecipe
    output : Path
    jobs : int
        Runs at a time; above 1 each has a process and a share of the cores of its own.
    reporter : Reporter

    Raises
    ------
    InputError
        Bad input, found before training.
    StudyFailure
        Some runs failed.
    """
    # Everything that a recipe can get wrong shows before the first file is written.
    from dynamics.training.recipe_run import make_ready

    for arm, seed, run in recipe.plan():
        if seed == recipe.seeds[0]:
            make_ready(run, study_run_path(output, arm, seed), reporter)
    folders = write_plan(recipe, output)
    if jobs == 1:
        _run_here(folders, reporter)
    else:
        _run_apart(folders, jobs, reporter)


def _run_here(folders: Sequence[Path], reporter: Reporter) -> None:
    from dynamics.training.recipe_run import train

    for number, folder in enumerate(folders, start=1):
        reporter.stage(f"run {number} of {len(folders)}: {folder}")
        recipe = load_recipe(folder / schema.CONFIG_FILE)
        train(recipe, folder, resume=True, reporter=reporter)


def _run_apart(folders: Sequence[Path], jobs: int, reporter: Reporter) -> None:
    from dynamics.training.environment.hardware import visible_devices

    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    devices = visible_devices()
    # Each job has a device to itself, as long as there are as many.
    places: SimpleQueue[dict[str, str]] = SimpleQueue()
    for job in range(jobs):
        places.put({"CUDA_VISIBLE_DEVICES": devices[job % len(devices)]} if devices else {})
    running: set[subprocess.Popen[str]] = set()
    stopping = threading.Event()

    def one(folder: Path) -> tuple[Path, int, str]:
        if stopping.is_set():
            return folder, 130, ""
        command = [sys.executable, "-m", *run_command(folder)]
        place = places.get()
        # A process group of its own: Ctrl-C reaches this process, which passes it on once.
        child = subprocess.Popen(
            command,
            env={**environment, **place},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.add(child)
        out, err = child.communicate()
        running.discard(child)
        places.put(place)
        return folder, child.returncode, (err.strip() or out.strip())

    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for folder, code, said in pool.map(one, folders):
                reporter.line(f"{folder}: {'complete' if code == 0 else f'failed with exit code {code}'}")
                if code != 0:
                    failed.append(f"{folder}: {said.splitlines()[-1] if said else code}")
        except KeyboardInterrupt:
            stopping.set()
            for child in list(running):
                child.terminate()  # it finishes its step and keeps what is complete
            raise
    if failed:
        raise StudyFailure(f"{len(failed)} of {len(folders)} runs failed: {'; '.join(failed)}")
