"""Studies: arms by seeds, each an ordinary run; run again, a study goes on where it stopped."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from filelock import FileLock

from dynamics.errors import InputError, TrainingDiverged
from dynamics.recipe.loading import config_in, dump_yaml, load_recipe, resolved, told_differences
from dynamics.recipe.settings import Recipe
from dynamics.recipe.studies import PlannedTrial, StudyRecipe
from dynamics.recipe.tuning import Budget, TrialResult, Tuned, best_trial
from dynamics.records import schema
from dynamics.records.reader import Run, open_run, study_run_path
from dynamics.reporting import Reporter
from dynamics.validation import validated

_LOCK = ".study.lock"


class StudyFailure(RuntimeError):
    """Some runs of a study failed; the others are complete."""


def check_arguments(recipe: StudyRecipe) -> None:
    """Check the training arguments of all arms and trials, before the first one trains."""
    from dynamics.training.environment.arguments import training_arguments

    for trial in recipe.trials():
        where = f"tune.arms.{trial.arm}, trial {trial.number}: training"
        training_arguments(trial.recipe.training, output_dir=Path("unused"), seed=trial.recipe.seed, where=where)
    for arm, seed, run in recipe.plan():
        training_arguments(run.training, output_dir=Path("unused"), seed=seed, where=f"arms.{arm}: training")


def n_jobs(recipe: StudyRecipe) -> int:
    """Return how many trainings the study is: trials, then runs."""
    return len(recipe.trials()) + len(recipe.plan())


def write_plan(recipe: StudyRecipe, output: Path) -> list[Path]:
    """Write study.yaml and the config.yaml of every training whose settings are known; return all their directories.

    In order: trials, and then runs. Those of a study that tunes are known once tuning.json is written.

    Raises
    ------
    InputError
        `output` holds another study, or something else.
    """
    require_own_study(recipe, output)
    output.mkdir(parents=True, exist_ok=True)
    # The jobs of an array begin all at once.
    with FileLock(output / _LOCK):
        require_own_study(recipe, output)
        file = output / schema.STUDY_FILE
        if not file.exists():
            schema.atomic_write_bytes(file, dump_yaml(recipe).encode())
        for trial in recipe.trials():
            _write_config(_trial_path(output, trial), trial.recipe)
        if recipe.tune is None or _chosen(recipe, output) is not None:
            _write_runs(recipe, output)
    return [*_trials(recipe, output), *_runs(recipe, output)]


def require_own_study(recipe: StudyRecipe, output: Path) -> None:
    """Raise InputError unless `output` is new, or holds this study; of another study, naming what differs."""
    file = output / schema.STUDY_FILE
    if output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is a file; name a new directory")
    # What another process that begins the same study writes first.
    first = {_LOCK, schema.STUDY_FILE + schema.TEMPORARY_SUFFIX}
    if file.exists():
        there, here = config_in(file), resolved(recipe)
        if there != here:
            go_on = shlex.join(["dynamics", "study", str(file), "--output", str(output)])
            raise InputError(
                f"--output: {output} holds another study, which differs from this recipe in "
                f"{told_differences(there, here)}; name a new directory, or go on with that study: {go_on}"
            )
    elif output.exists() and not {path.name for path in output.iterdir()} <= first and not file.exists():
        a_run = (output / schema.CONFIG_FILE).exists() or (output / schema.MANIFEST_FILE).exists()
        what = "a run" if a_run else "something else"
        raise InputError(f"--output: {output} holds {what}, and not this study; name a new directory")


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
    """Write the plan and return one command a training, for any scheduler: trials first.

    A run of a study that tunes is one of its indices, since its settings are chosen when it begins.
    """
    output = output.absolute()
    commands = [run_command(folder) for folder in write_plan(recipe, output)]
    if recipe.tune is not None:
        study = ["dynamics", "study", str(output / schema.STUDY_FILE), "--output", str(output)]
        for index in range(len(recipe.trials()), len(commands)):
            commands[index] = [*study, "--index", str(index)]
    return [shlex.join(command) for command in commands]


def run_index(recipe: StudyRecipe, output: Path, index: int, *, reporter: Reporter) -> None:
    """Run one training of the study, by its place in `list_runs`, from 0.

    Raises
    ------
    InputError
        There is none of that place; or it is a run, and trials that its settings depend on are not finished.
    """
    if not 0 <= index < n_jobs(recipe):
        raise InputError(f"--index: {index} is no run of this study; it has 0 to {n_jobs(recipe) - 1}")
    folders, n_trials = write_plan(recipe, output), len(recipe.trials())
    if index < n_trials:
        _run_here([folders[index]], reporter, trials=True)
        return
    if recipe.tune is not None and _chosen(recipe, output) is None:
        waiting = [str(at) for at, folder in enumerate(folders[:n_trials]) if not _is_settled(folder)]
        if waiting:
            shown = ", ".join(waiting[:8]) + (", ..." if len(waiting) > 8 else "")
            raise InputError(
                f"--index: {index} is a run whose settings are chosen once all {n_trials} trials are finished; run "
                f"--index {shown} first"
            )
        choose(recipe, output, reporter)
    _run_here([folders[index]], reporter)


def run_study(recipe: StudyRecipe, output: Path, *, jobs: int = 1, reporter: Reporter) -> None:
    """Run every run of the study that is not finished, after the trials by which its settings are chosen.

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
        Bad input, found before training; or all trials of an arm diverged.
    StudyFailure
        Some runs failed.
    """
    require_own_study(recipe, output)
    # Everything that a recipe can get wrong shows before the first file is written.
    from dynamics.training.recipe_run import make_ready

    tuned = _chosen(recipe, output)
    if tuned is None:
        for trial in recipe.trials():
            make_ready(trial.recipe, _trial_path(output, trial), reporter)
    for arm, seed, run in recipe.plan(tuned):
        if seed == recipe.seeds[0]:
            make_ready(run, study_run_path(output, arm, seed), reporter)
    write_plan(recipe, output)
    run_trials(recipe, output, jobs=jobs, reporter=reporter)
    _run(_runs(recipe, output), jobs, reporter)


def run_trials(recipe: StudyRecipe, output: Path, *, jobs: int = 1, reporter: Reporter) -> None:
    """Run the trials of a planned study that are not finished, and choose by them; nothing where all is chosen."""
    if recipe.tune is not None and _chosen(recipe, output) is None:
        _run([folder for folder in _trials(recipe, output) if not _is_settled(folder)], jobs, reporter, trials=True)
        choose(recipe, output, reporter)


def run_some(
    recipe: StudyRecipe, output: Path, runs: Sequence[tuple[str, int]], *, jobs: int = 1, reporter: Reporter
) -> None:
    """Run some runs, by arm and seed, of a planned study whose settings are chosen; as `run_study`.

    Raises
    ------
    TrainingDiverged, StudyFailure
        A run did: the one of a single job, or some of several.
    """
    planned = {(arm, seed) for arm, seed, _ in recipe.plan()}
    assert set(runs) <= planned, (runs, planned)
    _run([study_run_path(output, arm, seed) for arm, seed in runs], jobs, reporter)


def choose(recipe: StudyRecipe, output: Path, reporter: Reporter) -> dict[str, Tuned]:
    """Choose each arm's settings by the finished trials, write tuning.json and the recipes of the runs.

    What is chosen stays: once tuning.json is there, trials are read no more.

    Raises
    ------
    InputError
        All trials of an arm diverged.
    """
    assert recipe.tune is not None
    with FileLock(output / _LOCK):
        tuned = _chosen(recipe, output)
        if tuned is None:
            tuned = {arm: _choice(recipe, output, arm) for arm in recipe.arms}
            arms = {arm: one.model_dump(mode="json") for arm, one in tuned.items()}
            content = {"format_version": schema.FORMAT_VERSION, "arms": arms}
            schema.write_manifest(output / schema.TUNING_FILE, content)
        _write_runs(recipe, output)
    reporter.line(f"tuning loss, nats per token: the {recipe.tune.choose} of each trial")
    rows = []
    for arm, one in tuned.items():
        best = None if one.chosen is None else one.trials[one.chosen]
        settings = ", ".join(f"{key} {value}" for key, value in one.settings.items()) or "as they are"
        loss, epoch = ("", "") if best is None else (f"{best.loss:.3f}", str(best.epoch))
        rows.append((arm, str(one.budget.trials), loss, epoch, settings))
    reporter.table(("arm", "trials", "lowest", "epoch", "settings"), rows)
    for arm, one in tuned.items():
        for edge in one.edges():
            reporter.line(f"{arm}: {edge}; beyond it may be better ones")
    return tuned


def _choice(recipe: StudyRecipe, output: Path, arm: str) -> Tuned:
    """Return what the trials of an arm, all finished, say."""
    tune, trials, epochs = recipe.tune, [], 0
    assert tune is not None
    for trial in recipe.trials():
        if trial.arm == arm:
            run = open_run(_trial_path(output, trial))
            loss, epoch = _tuning_loss(run, tune.choose)
            folder = schema.trial_folder(arm, trial.number)
            trials.append(TrialResult(settings=trial.settings, run=folder, loss=loss, epoch=epoch))
            epochs += max(run.epochs, default=0)
    chosen = best_trial(trials, where=f"tune.arms.{arm}") if trials else None
    return Tuned(
        choose=tune.choose,
        seed=tune.seed,
        budget=Budget(trials=len(trials), epochs=epochs),
        trials=trials,
        chosen=chosen,
        settings={} if chosen is None else trials[chosen].settings,
        unequal_budget=tune.unequal_budget,
    )


def _tuning_loss(run: Run, how: str) -> tuple[float | None, int | None]:
    """Return the tuning loss that a trial is judged by, and its epoch; neither where it diverged.

    Epoch 0, before training, is the same in all trials. One token whose loss is no number, in whatever epoch, or beyond
    what float16 holds, is divergence: it is recorded as NaN or clipped.
    """
    records = run.records("tuning")
    losses = {}
    for epoch in run.epochs:
        values = records.loss(epoch)[records.predicted]
        bounded = bool((values < np.finfo(np.float16).max).all())  # NaN is not
        losses[epoch] = float(values.mean(dtype=np.float64)) if bounded else math.inf
    of_training = {epoch: loss for epoch, loss in losses.items() if epoch > 0}
    if not of_training or "diverged" in run.manifest or math.inf in losses.values():
        return None, None
    epoch = max(of_training) if how == "final" else min(of_training, key=of_training.__getitem__)
    return of_training[epoch], epoch


def _chosen(recipe: StudyRecipe, output: Path) -> dict[str, Tuned] | None:
    """Return what tuning.json says; None where nothing is chosen."""
    arms = schema.read_tuning(output) if recipe.tune is not None else None
    if arms is None:
        return None
    file = output / schema.TUNING_FILE
    if set(arms) != set(recipe.arms):
        raise InputError(f"{file} holds the choice of another study; name a new directory")
    return {arm: validated(Tuned, arms[arm], where=f"{file}: {arm}") for arm in recipe.arms}


def _is_settled(folder: Path) -> bool:
    """Whether a trial is finished, or diverged."""
    if not (folder / schema.MANIFEST_FILE).is_file():
        return False
    run = open_run(folder)
    return run.complete or "diverged" in run.manifest


def _trials(recipe: StudyRecipe, output: Path) -> list[Path]:
    return [_trial_path(output, trial) for trial in recipe.trials()]


def _trial_path(output: Path, trial: PlannedTrial) -> Path:
    return output / schema.trial_folder(trial.arm, trial.number)


def _runs(recipe: StudyRecipe, output: Path) -> list[Path]:
    return [study_run_path(output, arm, seed) for arm, seed, _ in recipe.plan()]


def _write_runs(recipe: StudyRecipe, output: Path) -> None:
    for arm, seed, run in recipe.plan(_chosen(recipe, output)):
        _write_config(study_run_path(output, arm, seed), run)


def _write_config(folder: Path, recipe: Recipe) -> None:
    file = folder / schema.CONFIG_FILE
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        schema.atomic_write_bytes(file, dump_yaml(recipe).encode())
    elif config_in(file).get("tuned") != resolved(recipe).get("tuned"):
        raise InputError(
            f"{folder} holds a run whose settings were chosen otherwise than {schema.TUNING_FILE} says; restore that "
            "file, or name a new directory"
        )


def _run(folders: Sequence[Path], jobs: int, reporter: Reporter, *, trials: bool = False) -> None:
    if jobs == 1:
        _run_here(folders, reporter, trials=trials)
    else:
        _run_apart(folders, jobs, reporter, trials=trials)


def _run_here(folders: Sequence[Path], reporter: Reporter, *, trials: bool = False) -> None:
    from dynamics.training.recipe_run import train

    for number, folder in enumerate(folders, start=1):
        reporter.stage(f"{'trial' if trials else 'run'} {number} of {len(folders)}: {folder}")
        recipe = load_recipe(folder / schema.CONFIG_FILE)
        try:
            train(recipe, folder, resume=True, reporter=reporter)
        except TrainingDiverged as error:
            if not trials:
                raise
            reporter.line(f"{folder}: {error}. The trial counts as one that diverged")


def _run_apart(folders: Sequence[Path], jobs: int, reporter: Reporter, *, trials: bool = False) -> None:
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
                if trials and code != 0 and _is_settled(folder):
                    reporter.line(f"{folder}: {said.splitlines()[-1] if said else 'diverged'}")
                    continue
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
