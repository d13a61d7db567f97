"""A study that tunes: trials first, one choice, and runs by it. Trainings are stood in for by planted records."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from support.synthetic import make_run, planted_loss
from support.tiny import quiet

from dynamics import study
from dynamics.errors import DamagedRecordError, InputError, TrainingDiverged
from dynamics.recipe.loading import as_study, load_recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.records import schema
from dynamics.records.check import check_path
from dynamics.records.reader import open_study
from dynamics.reporting import Reporter
from dynamics.training import recipe_run

STUDY = """
name: mine
corpus: builtin:python-reference
tokenizer: {train: {vocab_size: 300}}
model: {name: nano}
tuning: {fraction: 0.1}
training: {num_train_epochs: 3}
arms:
  plain:
  dropped: {regularizers: [{name: entrodrop, ratio: 0.2}]}
seeds: [0, 1]
tune:
  seed: 100
  arms:
    plain: {training.weight_decay: [0.1, 0.8, 3.2]}
    dropped: {regularizers.0.ratio: [0.1, 0.2, 0.3]}
"""
# What is planted: the tuning loss of every token, by epoch (0 to 3), of each trial.
LOSSES = {
    ("plain", 0): [9, 3.0, 2.5, 4.0],  # the lowest of any epoch
    ("plain", 1): [9, 3.0, 2.75, 2.75],
    ("plain", 2): [1, 3.5, 3.0, 2.625],  # the lowest final one; epoch 0 is no trial's merit
    ("dropped", 0): [9, 3.0, 2.0, 2.5],
    ("dropped", 1): [9, 3.0, 2.25, 2.5],
    ("dropped", 2): [9, 3.0, 2.0, 2.5],
}


def recipe_of(*overrides: str, folder: Path) -> StudyRecipe:
    path = folder / "mine.yaml"
    path.write_text(STUDY)
    return as_study(load_recipe(path, overrides), "mine.yaml")


Losses = dict[tuple[str, int], list[float]]


@pytest.fixture
def losses() -> Losses:
    return dict(LOSSES)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, losses: Losses) -> list[str]:
    """Put planted records in the place of trainings; return the list of those that were trained, in their order."""
    done: list[str] = []
    monkeypatch.setattr(recipe_run, "make_ready", lambda *given: None)
    monkeypatch.setattr(recipe_run, "train", lambda *given, **more: stand_in(tmp_path, done, losses, *given, **more))
    return done


def stand_in(
    tmp_path: Path,
    done: list[str],
    losses: Losses,
    recipe: Any,
    folder: Path,
    *,
    resume: bool,
    reporter: Any,
    loss_fn: Callable[..., Any] | None = None,
) -> None:
    assert resume
    if (folder / schema.MANIFEST_FILE).exists():
        return
    arm, name = folder.parts[-2:]
    planted = losses.get((arm, int(name.partition("-")[2]))) if name.startswith("trial") else None

    def of_tuning(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
        if split != "tuning" or planted is None:
            return planted_loss(epoch, split, entropy, rng)
        return np.full(entropy.shape, planted[epoch])

    held_out = ("validation", "tuning")
    make_run(
        tmp_path / "made", epochs=3, seed=recipe.seed, name=recipe.name, held_out=held_out, loss_fn=loss_fn or of_tuning
    )
    (tmp_path / "made" / schema.CONFIG_FILE).unlink()
    shutil.copytree(tmp_path / "made", folder, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "made")
    done.append(f"{arm}/{name}")


TRIALS = [f"{arm}/trial-{number}" for arm in ("plain", "dropped") for number in range(3)]
RUNS = [f"{arm}/seed-{seed}" for arm in ("plain", "dropped") for seed in range(2)]


def config(output: Path, run: str) -> Any:
    return yaml.safe_load((output / "runs" / run / "config.yaml").read_text())


def test_trials_come_first_and_every_seed_has_what_they_chose(trained: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    study.run_study(recipe_of(folder=tmp_path), output, reporter=quiet())
    assert trained == TRIALS + RUNS
    tuning = open_study(output).tuning
    assert tuning is not None and list(tuning) == ["dropped", "plain"]
    plain = tuning["plain"]
    assert plain == {
        "choose": "best",
        "seed": 100,
        "budget": {"trials": 3, "epochs": 9},
        "trials": [
            {"settings": {"training.weight_decay": w}, "run": f"tuning/plain/trial-{n}", "loss": loss, "epoch": epoch}
            for n, (w, loss, epoch) in enumerate([(0.1, 2.5, 2), (0.8, 2.75, 2), (3.2, 2.625, 3)])
        ],
        "chosen": 0,
        "settings": {"training.weight_decay": 0.1},
        "unequal_budget": None,
    }
    # The first of equal ones.
    assert tuning["dropped"]["chosen"] == 0 and tuning["dropped"]["settings"] == {"regularizers.0.ratio": 0.1}
    for seed in range(2):
        run = config(output, f"plain/seed-{seed}")
        assert (run["seed"], run["training"]["weight_decay"], run["tuned"]) == (seed, 0.1, plain)
        assert config(output, f"dropped/seed-{seed}")["regularizers"][0]["ratio"] == 0.1
    trial = yaml.safe_load((output / "tuning/plain/trial-2/config.yaml").read_text())
    assert (trial["seed"], trial["training"]["weight_decay"], trial["name"]) == (100, 3.2, "mine.plain.trial-2")
    own, *others = check_path(output)
    assert own.ok and own.notes == [] and own.n_files == 1
    assert [other.path.relative_to(output).as_posix() for other in others] == [
        *(f"runs/{run}" for run in sorted(RUNS)),
        *(f"tuning/{trial}" for trial in sorted(TRIALS)),
    ]


def test_the_choice_is_told(trained: list[str], tmp_path: Path) -> None:
    said = io.StringIO()
    reporter = Reporter(Console(file=said, width=500))
    study.run_study(recipe_of(folder=tmp_path), tmp_path / "out", reporter=reporter)
    lines = said.getvalue().splitlines()
    at = lines.index("tuning loss, nats per token: the best of each trial")
    assert [line.split() for line in lines[at + 1 : at + 4]] == [
        ["arm", "trials", "lowest", "epoch", "settings"],
        ["plain", "3", "2.500", "2", "training.weight_decay", "0.1"],
        ["dropped", "3", "2.000", "2", "regularizers.0.ratio", "0.1"],
    ]
    assert (
        lines[at + 4] == "plain: training.weight_decay 0.1 is the lowest that was tried; beyond it may be better ones"
    )


def test_by_the_final_loss_another_trial_is_chosen(trained: list[str], tmp_path: Path) -> None:
    study.run_study(recipe_of("tune.choose=final", folder=tmp_path), tmp_path / "out", reporter=quiet())
    tuning = open_study(tmp_path / "out").tuning
    assert tuning is not None
    assert [(trial["loss"], trial["epoch"]) for trial in tuning["plain"]["trials"]] == [(4.0, 3), (2.75, 3), (2.625, 3)]
    assert tuning["plain"]["settings"] == {"training.weight_decay": 3.2}


def test_a_study_without_trials_has_none(trained: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    study.run_study(recipe_of("tune=null", folder=tmp_path), output, reporter=quiet())
    assert trained == RUNS and open_study(output).tuning is None
    assert not (output / "tuning").exists() and "tuned" not in config(output, "plain/seed-0")


def test_an_interrupted_study_goes_on_and_a_finished_one_trains_nothing(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, output, train = recipe_of(folder=tmp_path), tmp_path / "out", recipe_run.train

    def interrupted(recipe: Any, folder: Path, **more: Any) -> None:
        if len(trained) == stop:
            raise KeyboardInterrupt
        train(recipe, folder, **more)

    monkeypatch.setattr(recipe_run, "train", interrupted)
    for stop in (2, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            study.run_study(recipe, output, reporter=quiet())
        assert trained == (TRIALS + RUNS)[:stop]
        assert (output / "tuning.json").exists() == (stop >= 6)
    stop = -1
    study.run_study(recipe, output, reporter=quiet())
    assert trained == TRIALS + RUNS
    before = (output / "tuning.json").read_bytes()
    # Trials are read no more: they may be put away.
    shutil.rmtree(output / "tuning")
    study.run_study(recipe, output, reporter=quiet())
    assert trained == TRIALS + RUNS and (output / "tuning.json").read_bytes() == before


def test_what_is_no_number_is_not_chosen(trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token's loss in one epoch is enough; so is a training that ended since it diverged."""
    train = recipe_run.train

    def diverging(recipe: Any, folder: Path, **more: Any) -> None:
        if folder.name == "trial-0" and folder.parent.name == "plain":

            def one(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
                loss = np.full(entropy.shape, 0.5)
                if split == "tuning" and epoch == 1:
                    loss[0, 1] = np.nan
                return loss

            train(recipe, folder, loss_fn=one, **more)
            return
        train(recipe, folder, **more)
        if folder.name == "trial-0":
            manifest = schema.read_manifest(folder / schema.MANIFEST_FILE)
            running = {**manifest, "status": "running", "diverged": {"step": 25}}
            schema.write_manifest(folder / schema.MANIFEST_FILE, running)
            raise TrainingDiverged("step 25: the training loss is NaN")

    monkeypatch.setattr(recipe_run, "train", diverging)
    recipe, output = recipe_of(folder=tmp_path), tmp_path / "out"
    study.run_study(recipe, output, reporter=quiet())
    tuning = open_study(output).tuning
    assert tuning is not None
    for arm, chosen in (("plain", 2), ("dropped", 2)):
        assert [trial["loss"] for trial in tuning[arm]["trials"]][0] is None
        assert tuning[arm]["chosen"] == chosen
    assert trained.count("dropped/trial-0") == 1


def test_an_arm_that_always_diverged_is_told(trained: list[str], losses: Losses, tmp_path: Path) -> None:
    losses["plain", 0] = [9, 3.0, 2.0, np.nan]
    losses["plain", 1] = [9, 3.0, 2.0, np.inf]
    losses["plain", 2] = [9, np.nan, 2.0, 2.0]
    with pytest.raises(InputError) as raised:
        study.run_study(recipe_of(folder=tmp_path), tmp_path / "out", reporter=quiet())
    assert "tune.arms.plain: the tuning loss of all 3 trials is no number" in str(raised.value)
    assert "'training.weight_decay': 0.1" in str(raised.value)
    assert trained == TRIALS and not (tmp_path / "out" / "tuning.json").exists()


def test_an_arm_without_trials_keeps_its_settings_where_somebody_said_why(trained: list[str], tmp_path: Path) -> None:
    overrides = ["tune.arms={dropped: [{}, {training.weight_decay: 1}]}", "tune.unequal_budget=plain is the default"]
    output = tmp_path / "out"
    study.run_study(recipe_of(*overrides, folder=tmp_path), output, reporter=quiet())
    tuned = config(output, "plain/seed-1")["tuned"]
    assert tuned == {
        "choose": "best",
        "seed": 100,
        "budget": {"trials": 0, "epochs": 0},
        "trials": [],
        "chosen": None,
        "settings": {},
        "unequal_budget": "plain is the default",
    }
    assert config(output, "dropped/seed-1")["tuned"]["budget"] == {"trials": 2, "epochs": 6}


# ------------------------------------------------------------------------------ one of a list


def test_the_list_has_trials_first_and_runs_as_indices(tmp_path: Path) -> None:
    output = tmp_path / "my out"
    recipe = recipe_of(folder=tmp_path)
    lines = study.list_runs(recipe, output)
    trial = output / "tuning" / "dropped" / "trial-1"
    assert lines[4] == f"dynamics train '{trial}/config.yaml' --output '{trial}' --resume"
    assert lines[6:] == [
        f"dynamics study '{output}/study.yaml' --output '{output}' --index {at}" for at in range(6, 10)
    ]
    assert study.n_jobs(recipe) == 10 and not (output / "runs").exists()
    # The command that is listed gives the same study.
    assert study.list_runs(as_study(load_recipe(output / "study.yaml"), "it"), output) == lines


def test_a_run_waits_for_the_choice_and_makes_it(trained: list[str], tmp_path: Path) -> None:
    recipe, output = recipe_of(folder=tmp_path), tmp_path / "out"
    for index in (5, 0, 3):
        study.run_index(recipe, output, index, reporter=quiet())
    with pytest.raises(InputError) as raised:
        study.run_index(recipe, output, 8, reporter=quiet())
    assert str(raised.value) == (
        "--index: 8 is a run whose settings are chosen once all 6 trials are finished; run --index 1, 2, 4 first"
    )
    assert not (output / "tuning.json").exists()
    for index in (1, 2, 4, 8, 6, 9):
        study.run_index(recipe, output, index, reporter=quiet())
    assert trained[6:] == ["dropped/seed-0", "plain/seed-0", "dropped/seed-1"]
    assert config(output, "dropped/seed-0")["tuned"] == (open_study(output).tuning or {})["dropped"]
    for index in (-1, 10):
        with pytest.raises(InputError, match=f"--index: {index} is no run of this study; it has 0 to 9"):
            study.run_index(recipe, output, index, reporter=quiet())
    study.run_study(recipe, output, reporter=quiet())
    assert sorted(trained) == sorted(TRIALS + RUNS)


def test_a_choice_that_was_changed_is_refused(trained: list[str], tmp_path: Path) -> None:
    recipe, output = recipe_of(folder=tmp_path), tmp_path / "out"
    study.run_study(recipe, output, reporter=quiet())
    file = output / "tuning.json"
    whole = file.read_text()
    file.write_text(whole.replace('"chosen": 0', '"chosen": 1'))
    with pytest.raises(DamagedRecordError, match=r"tuning\.json was changed after it was written"):
        study.run_study(recipe, output, reporter=quiet())
    with pytest.raises(DamagedRecordError, match=r"tuning\.json was changed"):
        _ = open_study(output).tuning
    assert [problem.file for problem in check_path(output)[0].problems] == ["tuning.json"]
    content = json.loads(whole)
    content["arms"]["plain"] |= {"chosen": 1, "settings": {"training.weight_decay": 0.8}}
    schema.write_manifest(file, content)
    with pytest.raises(InputError, match=r"plain/seed-0 holds a run whose settings were chosen otherwise"):
        study.run_study(recipe, output, reporter=quiet())


def test_a_study_that_an_older_version_began_goes_on(trained: list[str], tmp_path: Path) -> None:
    recipe, output = recipe_of("tune=null", folder=tmp_path), tmp_path / "out"
    study.run_study(recipe, output, reporter=quiet())
    old = yaml.safe_load((output / "study.yaml").read_text())
    del old["on_divergence"]
    (output / "study.yaml").write_text(yaml.safe_dump(old, sort_keys=False))
    study.run_study(recipe, output, reporter=quiet())
    with pytest.raises(InputError, match="holds another study"):
        study.run_study(recipe_of("tune=null", "seeds=[3]", folder=tmp_path), output, reporter=quiet())


# ------------------------------------------------------------------------------- side by side


def test_the_jobs_of_an_array_begin_at_once(trained: list[str], tmp_path: Path) -> None:
    recipe, output, at_once = recipe_of(folder=tmp_path), tmp_path / "out", threading.Barrier(8)

    def begin(call: Callable[[], Any]) -> Any:
        at_once.wait(timeout=60)
        return call()

    with ThreadPoolExecutor(8) as pool:
        planned = list(pool.map(begin, [lambda: study.write_plan(recipe, output)] * 8))
        assert planned == [planned[0]] * 8 and load_recipe(output / "study.yaml") == recipe
        for index in range(6):
            study.run_index(recipe, output, index, reporter=quiet())
        chosen = list(pool.map(begin, [lambda: study.choose(recipe, output, quiet())] * 8))
        assert chosen == [chosen[0]] * 8
        assert all((folder / "config.yaml").exists() for folder in planned[0])


class Child:
    """A trial in a process of its own, which diverges, fails, or ends."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.folder = Path(command[command.index("--output") + 1])
        self.returncode = {"ends": 0, "diverges": 1, "fails": 1}[self.folder.name]

    def communicate(self) -> tuple[str, str]:
        if self.folder.name != "fails":
            diverged = {"diverged": {"step": 3}} if self.returncode else {}
            make_run(self.folder, epochs=1, n_documents=2, status="running" if self.returncode else "complete")
            file = self.folder / schema.MANIFEST_FILE
            schema.write_manifest(file, {**schema.read_manifest(file), **diverged})
        return "", f"Error: {self.folder.name}\n" if self.returncode else ""


def test_beside_one_another_a_trial_may_diverge_and_a_run_may_not(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(study.subprocess, "Popen", Child)
    folders = [tmp_path / name for name in ("ends", "diverges")]
    study._run_apart(folders, 2, quiet(), trials=True)
    for folder in folders:
        shutil.rmtree(folder)
    with pytest.raises(study.StudyFailure, match="1 of 2 runs failed: .*diverges: Error: diverges"):
        study._run_apart(folders, 2, quiet())
    with pytest.raises(study.StudyFailure, match="1 of 1 runs failed: .*fails: Error: fails"):
        study._run_apart([tmp_path / "fails"], 2, quiet(), trials=True)
