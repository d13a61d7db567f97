"""What an interrupted run says and does when it goes on: skipped checkpoints, changed data, signals, a full disk."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from support.tiny import quiet, run_tiny, tiny_recipe

from dynamics.errors import InputError, TrainingDiverged
from dynamics.recipe.loading import dump_yaml
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.records.reader import open_run, require_same_tokens
from dynamics.reporting import Reporter
from dynamics.training import recipe_run
from dynamics.training.driving.batch_loss import batch_loss
from dynamics.training.driving.trainer_callback import LoopCallback
from dynamics.training.environment.interrupts import Interrupted, finishing_steps
from dynamics.training.loop.step_metrics import StepMetrics
from dynamics.training.recipe_run import train
from dynamics.training.resuming.checkpoints import Checkpoints

RECIPE = {
    "recording": {"train_sequences": 20, "validation_sequences": 10},
    "training": {"num_train_epochs": 3, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("whole") / "run", **RECIPE)


def interrupted(folder, monkeypatch, *, step, **changes):
    """A run that ended as by a signal at the end of `step`."""
    stop = LoopCallback.on_step_end

    def ends(self, args, state, control, **kwargs):
        # Each epoch has its recording and its checkpoint behind it when the next begins.
        self.loop._stops = lambda: state.global_step == step and self.loop.metrics._path is not None
        return stop(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LoopCallback, "on_step_end", ends)
        with pytest.raises(Interrupted):
            train(tiny_recipe(**{**RECIPE, **changes}), folder, reporter=quiet())


def resumed(folder, **changes):
    """Go on with a run, and return what was said."""
    said = io.StringIO()
    train(tiny_recipe(**{**RECIPE, **changes}), folder, resume=True, reporter=Reporter(Console(file=said, width=500)))
    return said.getvalue()


def same_run(one, other):
    for name in ("model/model.safetensors", "config.yaml"):
        assert schema.sha256_file(one.path / name) == schema.sha256_file(other.path / name), name
    assert one.epochs == other.epochs
    for split in one.splits:
        for epoch in one.epochs:
            values = [run.records(split).loss(epoch) for run in (one, other)]
            assert np.array_equal(*values, equal_nan=True)
    rows = [
        [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in run.metrics()] for run in (one, other)
    ]
    assert rows[0] == rows[1]


def test_an_interrupted_run_goes_on_from_its_newest_checkpoint(tmp_path, monkeypatch, whole):
    steps = whole.manifest["steps_per_epoch"]
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch, step=2 * steps + 1)
    run = open_run(folder)
    assert run.epochs == [0, 1, 2] and not run.complete and check_run(folder).ok
    # A torn row and one that came after the checkpoint: both go.
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 99')
    assert "it continues after epoch 2" in resumed(folder)
    same_run(open_run(folder), whole)
    assert check_run(folder).ok and not (folder / "checkpoints").exists()
    assert "finished already" in resumed(folder)


def test_damaged_checkpoints_are_skipped_by_name(tmp_path, monkeypatch, whole):
    steps = whole.manifest["steps_per_epoch"]
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch, step=2 * steps + 1)
    newest = folder / "checkpoints" / f"checkpoint-{2 * steps}"
    data = bytearray((newest / "optimizer.pt").read_bytes())
    data[100] ^= 1
    (newest / "optimizer.pt").write_bytes(data)
    said = resumed(folder)
    assert f"checkpoint-{2 * steps} is skipped: optimizer.pt was changed after it was written" in said
    assert "it continues after epoch 1" in said and "epochs 2 came after the checkpoint" in said
    same_run(open_run(folder), whole)


def test_an_epoch_that_is_damaged_is_trained_again(tmp_path, monkeypatch, whole):
    steps = whole.manifest["steps_per_epoch"]
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch, step=2 * steps + 1)
    (folder / "epochs" / "epoch-0002" / schema.shard_file("train", 0, 1)).unlink()
    said = resumed(folder)
    assert "checkpoint-" in said and "epoch 2, which comes before it, is damaged or missing" in said
    same_run(open_run(folder), whole)


def test_without_a_whole_checkpoint_it_starts_again(tmp_path, monkeypatch, whole):
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch, step=1)
    assert "it starts from its first epoch" in resumed(folder)
    same_run(open_run(folder), whole)


def test_threads_are_restored(tmp_path, monkeypatch, whole):
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch, step=whole.manifest["steps_per_epoch"] + 1)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert f"{before} threads, as the run did at its start, instead of {before + 1}" in resumed(folder)
    finally:
        torch.set_num_threads(before)
    same_run(open_run(folder), whole)


def test_a_run_that_began_before_a_setting_was_there_goes_on(tmp_path):
    """Its config says nothing of what later versions added, and the defaults are what the method did then."""
    method = {"name": "entrodrop", "ratio": 0.2}
    folder = run_tiny(tmp_path / "run", **{**RECIPE, "regularizers": [method]}).path
    config = yaml.safe_load((folder / "config.yaml").read_text())
    [written] = config["regularizers"]
    for key in ("threshold", "choice", "distribution", "rescale"):
        del written[key]
    for key in ("decreasing", "stairs"):
        del written["schedule"][key]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "finished already" in resumed(folder, regularizers=[method])
    with pytest.raises(InputError, match=r"differs in regularizers"):
        resumed(folder, regularizers=[{**method, "choice": "lowest"}])


def test_another_recipe_or_other_data_are_refused_by_key(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(30):
        (corpus / f"{number}.txt").write_text(f"Document {number}. " + "some words that stand here again " * 12)
    changes = {"corpus": {"source": str(corpus)}, "validation": {"fraction": 0.4}}
    monkeypatch.setitem(RECIPE, "corpus", changes["corpus"])
    monkeypatch.setitem(RECIPE, "validation", changes["validation"])
    folder = tmp_path / "run"
    interrupted(folder, monkeypatch, step=2)
    with pytest.raises(
        InputError,
        match=r"differs in regularizers \(\[\] then, \[.*neftune.*\] now\), seed \(0 then, 1 now\); give the",
    ):
        resumed(folder, seed=1, regularizers=[{"name": "neftune"}])
    (corpus / "3.txt").write_text("Another text altogether. " * 20)
    monkeypatch.setattr("dynamics.training.preparation.prepare._last", None)  # as in another process
    with pytest.raises(InputError, match=r"a run with different data \(data\.corpus_hash, "):
        resumed(folder)


def test_a_checkpoint_of_another_run_is_none(tmp_path):
    mine = Checkpoints(tmp_path, config_hash="mine")
    other = Checkpoints(tmp_path, config_hash="other")
    for checkpoints, step in ((mine, 5), (other, 10), (mine, 15), (mine, 20)):
        with checkpoints.writing(epoch=step // 5, step=step, main_process=True, wait=lambda: None) as staging:
            (staging / f"checkpoint-{step}").mkdir()
            (staging / f"checkpoint-{step}" / "weights").write_bytes(b"weights")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-15", "checkpoint-20"]
    assert [point.epoch for point in mine.latest()] == [4, 3]
    skipped = []
    assert not list(other.latest(on_skip=skipped.append))
    assert skipped[0] == "checkpoint-20 is skipped: it belongs to a run of another recipe"


# Signals.


def test_the_first_signal_waits_for_the_step_and_the_second_does_not():
    before = signal.getsignal(signal.SIGTERM)
    with finishing_steps() as stops:
        assert not stops()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_130_and_the_command_that_goes_on(tmp_path, number):
    recipe = tiny_recipe(**{**RECIPE, "training": {**RECIPE["training"], "num_train_epochs": 40}})
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
    command = ["-m", "dynamics", "train", "recipe.yaml", "--output", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "epochs" / "epoch-0002").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    again = re.fullmatch(r"Interrupted\. What is complete is kept; this goes on: (.+)\n", err)[1]
    assert again == "dynamics train recipe.yaml --output run --resume"
    run = open_run(tmp_path / "run")
    assert run.epochs == list(range(len(run.epochs))) and 3 <= len(run.epochs) < 41 and check_run(run.path).ok
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(again)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "it continues after epoch" in done.stdout and open_run(tmp_path / "run").complete


# Runs of earlier versions.


def test_a_run_that_recorded_no_tuning_part_goes_on_as_it_began(tmp_path, monkeypatch):
    """Of that part earlier versions kept the mean alone, and their recipes knew fewer keys."""
    tuning = {"tuning": {"fraction": 0.2}, "validation": {"fraction": 0.3}}
    whole = run_tiny(tmp_path / "whole", **RECIPE, **tuning)
    step, folder, recorded = whole.manifest["steps_per_epoch"] + 1, tmp_path / "old", recipe_run._recorded
    with monkeypatch.context() as patch:
        patch.setattr(
            recipe_run, "_recorded", lambda *given: {k: v for k, v in recorded(*given).items() if k != "tuning"}
        )
        interrupted(folder, monkeypatch, step=step, **tuning)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["on_divergence"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    manifest = {**open_run(folder).manifest, "config_sha256": schema.sha256_file(folder / "config.yaml")}
    schema.write_manifest(folder / "manifest.json", manifest)

    assert "it continues after epoch 1" in resumed(folder, **tuning)
    old = open_run(folder)
    assert old.splits == ["train", "validation"] and old.complete and check_run(folder).ok
    for split in old.splits:
        assert np.array_equal(old.records(split).loss(3), whole.records(split).loss(3), equal_nan=True)
    means = [[row["tuning_loss"] for row in run.metrics() if "tuning_loss" in row] for run in (old, whole)]
    assert len(means[0]) == 4 and means[0] == pytest.approx(means[1], abs=1e-6)
    with pytest.raises(InputError, match=r"recorded by a version that kept of its tuning part the mean .* train the"):
        old.records("tuning")
    # Runs of both kinds stand in one study.
    require_same_tokens([old, whole])
    require_same_tokens([whole, old])


# Losses that are no numbers.


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_training_stops_where_the_loss_is_no_number(tmp_path, monkeypatch, value, whole):
    steps = whole.manifest["steps_per_epoch"]

    def diverging(*args, loop, **options):
        outputs, total, values = batch_loss(*args, loop=loop, **options)
        # In the second epoch: the weights stay as they are, so that training can go on.
        at = loop.step == steps + 1 and total.requires_grad
        return outputs, (total.detach() * float(value) + 0 * total.nan_to_num() if at else total), values

    monkeypatch.setattr("dynamics.training.trainer.batch_loss", diverging)
    with pytest.raises(TrainingDiverged) as caught:
        run_tiny(tmp_path / "run", **RECIPE)
    said = str(caught.value)
    assert said.startswith(f"step {steps + 2}: the training loss is NaN or infinite; its batch held the training doc")
    assert f"the last complete checkpoint is {tmp_path / 'run' / 'checkpoints' / f'checkpoint-{steps}'}" in said
    assert "on_divergence: continue" in said
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if isinstance(row["training_loss"], str)] == [steps + 2]
    documents = {int(number) for number in re.search(r"documents ([\d, ]+)", said)[1].rstrip(", ").split(", ")}
    assert documents <= set(range(whole.manifest["data"]["documents"]["train"]))
    assert open_run(tmp_path / "run").epochs == [0, 1]
    assert open_run(tmp_path / "run").manifest["diverged"] == {"step": steps + 2}
    assert check_run(tmp_path / "run").ok
    monkeypatch.undo()
    resumed(tmp_path / "run")
    assert open_run(tmp_path / "run").complete and "diverged" not in open_run(tmp_path / "run").manifest


def test_training_goes_on_where_it_is_told_to(tmp_path, monkeypatch):
    add = StepMetrics.add_batch
    monkeypatch.setattr(StepMetrics, "add_batch", lambda self, **given: add(self, **bad(given)))
    run = run_tiny(tmp_path / "run", **{**RECIPE, "on_divergence": "continue"})
    assert run.complete and all(np.isnan(row["training_loss"]) for row in run.metrics())


def bad(given):
    """What a batch noted, with a loss of NaN."""
    return {**given, "loss_sum": given["loss_sum"] * torch.nan}


# A full disk.


@pytest.mark.parametrize("place", ["epochs", "checkpoints", "metrics"])
def test_a_full_disk_loses_nothing_that_is_complete(tmp_path, monkeypatch, whole, place):
    folder = tmp_path / "run"
    writes = {"n": 0}
    fsync, opened = os.fsync, open

    def where(descriptor):
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def full(descriptor):
        if place in where(descriptor):
            writes["n"] += 1
            if writes["n"] == 14:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where(descriptor))
        return fsync(descriptor)

    def full_open(file, mode="r", *args, **kwargs):
        if place == "metrics" and mode == "ab":
            writes["n"] += 1
            if writes["n"] == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return opened(file, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr("dynamics.records.metrics.open", full_open, raising=False)
        with pytest.raises(OSError, match="No space left"):
            train(tiny_recipe(**RECIPE), folder, reporter=quiet())
    report = check_run(folder)
    assert report.ok and report.good_epochs == open_run(folder).epochs and report.good_epochs
    resumed(folder)
    same_run(open_run(folder), whole)
