"""Every kind of damage to every file of a run is found; what is no damage is only noted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.synthetic import make_run, make_study

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema, writer
from dynamics.records.check import CheckReport, check_path, check_run
from dynamics.records.reader import open_run
from dynamics.records.tensors import write_tensors

FILES = [
    "config.yaml",
    "manifest.json",
    "metrics.jsonl",
    "tokens/train.safetensors",
    "tokens/validation.safetensors",
    "model/config.json",
    "model/model.safetensors",
    *(
        f"epochs/epoch-000{epoch}/{name}"
        for epoch in range(3)
        for name in (
            "manifest.json",
            "train-00000-of-00001.safetensors",
            "validation-00000-of-00001.safetensors",
        )
    ),
]
# The start of the header, the middle, and the last byte of the values.
PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}


def messages(report: CheckReport) -> str:
    return "\n".join(str(problem) for problem in report.problems)


def epoch_of(name: str) -> int | None:
    return int(name.split("epoch-")[1][:4]) if "epoch-" in name else None


def flip(path: Path, where: float) -> None:
    raw = bytearray(path.read_bytes())
    raw[round(where * (len(raw) - 1))] ^= 1
    path.write_bytes(bytes(raw))


def test_the_table_names_every_file(whole_run: Path) -> None:
    found = {p.relative_to(whole_run).as_posix() for p in whole_run.rglob("*") if p.is_file()}
    assert found == set(FILES)


def test_a_whole_run(whole_run: Path) -> None:
    report = check_run(whole_run)
    assert report.ok
    assert (report.problems, report.notes) == ([], [])
    assert report.good_epochs == [0, 1, 2]
    assert report.n_files == len(FILES)
    assert report.n_bytes == sum((whole_run / name).stat().st_size for name in FILES)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(run_path: Path, name: str, place: str) -> None:
    flip(run_path / name, PLACES[place])
    assert_found(run_path, name)


@pytest.mark.parametrize("keep", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found(run_path: Path, name: str, keep: float) -> None:
    path = run_path / name
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] if keep < 0 else raw[: int(keep * len(raw))])
    assert_found(run_path, name)
    assert_no_damaged_value_is_read(run_path, name)


@pytest.mark.parametrize("name", FILES)
def test_a_deleted_file_is_found(run_path: Path, name: str) -> None:
    (run_path / name).unlink()
    assert_found(run_path, name)
    assert_no_damaged_value_is_read(run_path, name)


@pytest.mark.parametrize("name", FILES)
def test_a_lengthened_file_is_found(run_path: Path, name: str) -> None:
    with (run_path / name).open("ab") as file:
        file.write(b"\n")
    assert_found(run_path, name)


@pytest.mark.parametrize("name", [name for name in FILES if "/" in name])
def test_a_duplicated_file_is_found(run_path: Path, name: str) -> None:
    path = run_path / name
    copy = path.with_name("copy of " + path.name)
    shutil.copy(path, copy)
    report = check_run(run_path)
    (problem,) = report.problems
    assert problem.file == copy.relative_to(run_path).as_posix()
    assert "unexpected" in problem.message
    assert problem.epoch == epoch_of(name)


@pytest.mark.parametrize("first", [name for name in FILES if "epoch-0000" in name])
@pytest.mark.parametrize("other", [1, 2])
def test_files_swapped_between_epochs_are_found(run_path: Path, first: str, other: int) -> None:
    second = first.replace("epoch-0000", f"epoch-000{other}")
    swap(run_path / first, run_path / second)
    report = check_run(run_path)
    assert {first, second} <= {problem.file for problem in report.problems}
    assert report.good_epochs == [3 - other]
    # The header tells that the values are another epoch's, before any hash is made.
    for name in (first, second):
        assert_no_damaged_value_is_read(run_path, name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tokens/train.safetensors", "tokens/validation.safetensors"),
        ("epochs/epoch-0001/" + FILES[8].split("/")[-1], "tokens/validation.safetensors"),
        ("model/config.json", "model/model.safetensors"),
        ("config.yaml", "metrics.jsonl"),
        ("manifest.json", "epochs/epoch-0001/manifest.json"),
    ],
)
def test_other_swapped_files_are_found(run_path: Path, first: str, second: str) -> None:
    swap(run_path / first, run_path / second)
    assert_found(run_path, first) if first != "manifest.json" else None
    assert not check_report_or_refusal(run_path)


def test_swapped_epochs_are_found(run_path: Path) -> None:
    epochs = run_path / "epochs"
    swap(epochs / "epoch-0001", epochs / "epoch-0002")
    report = check_run(run_path)
    assert "its epoch is 2, not 1" in messages(report)
    assert report.good_epochs == [0]


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_deleted_epoch_is_found(run_path: Path, epoch: int) -> None:
    shutil.rmtree(run_path / "epochs" / f"epoch-000{epoch}")
    report = check_run(run_path)
    assert messages(report) == f"epochs/epoch-000{epoch}: is missing"
    assert report.problems[0].epoch == epoch


@pytest.mark.parametrize("copy", ["epoch-0003", "epoch-0001 (copy)", "epoch-1", "epoch-00001"])
def test_a_duplicated_epoch_is_found(run_path: Path, copy: str) -> None:
    shutil.copytree(run_path / "epochs" / "epoch-0001", run_path / "epochs" / copy)
    report = check_run(run_path)
    assert [problem.file.split("/")[1] for problem in report.problems] == [copy]
    assert report.good_epochs == [0, 1, 2]


@pytest.mark.parametrize("folder", ["tokens", "epochs", "model"])
def test_a_deleted_folder_is_found(run_path: Path, folder: str) -> None:
    shutil.rmtree(run_path / folder)
    report = check_run(run_path)
    assert folder in messages(report)


def test_an_intact_epoch_of_another_run_is_found(run_path: Path, tmp_path: Path) -> None:
    # The same recipe, so the hash of the recipe is the same; but other values.
    other = make_run(
        tmp_path / "other",
        n_documents=4,
        epochs=2,
        regularizers=[{"name": "x", "ratio": 0.4}],
        entropy_fn=lambda epoch, split, entropy, rng: entropy,
    )
    shutil.rmtree(run_path / "epochs" / "epoch-0001")
    shutil.copytree(other / "epochs" / "epoch-0001", run_path / "epochs" / "epoch-0001")
    assert messages(check_run(run_path)) == ("epochs/epoch-0001: is not the epoch that the run's manifest names")


def test_each_damaged_file_is_named_once(run_path: Path) -> None:
    damaged = [FILES[3], FILES[6], FILES[8], FILES[9], FILES[14]]
    for name in damaged:
        flip(run_path / name, 1.0)
    report = check_run(run_path)
    assert sorted(problem.file for problem in report.problems) == sorted(damaged)
    assert [problem.epoch for problem in report.problems] == [None, None, 0, 0, 2]
    assert report.good_epochs == [1]


def test_epochs_are_checked_though_the_manifest_of_the_run_is_damaged(run_path: Path) -> None:
    flip(run_path / "manifest.json", 0.5)
    flip(run_path / FILES[8], 1.0)
    report = check_run(run_path)
    assert [problem.file for problem in report.problems] == ["manifest.json", FILES[8]]
    assert report.good_epochs == [1, 2]


# What intact files may hold. ----------------------------------------------------------------------


def rewrite_epoch_1(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let the real writer record wrong values, so that every hash is right."""
    run = open_run(path)
    splits = {}
    for split in run.splits:
        records = run.records(split)
        values: dict[str, Any] = {
            "loss": records.loss(1).copy(),
            "entropy": records.entropy(1).copy(),
            "correct": records.correct(1),
        }
        if split == "train":
            values["dropped"] = records.dropped(1)
            change(values)
        splits[split] = writer.SplitValues(sequence_id=records.sequence_id, **values)
    shutil.rmtree(path / "epochs" / "epoch-0001")
    writer.write_epoch(path, 1, splits, config_hash=run.manifest["config_hash"])
    manifest = run.manifest | writer.finished_files(path)
    schema.write_manifest(path / "manifest.json", manifest)


@pytest.mark.parametrize(
    ("key", "position", "value", "message"),
    [
        # Position 0 never has a prediction; position 1 of the first sequence has one.
        ("loss", 0, 1.0, "loss has values at 1 tokens that have no prediction"),
        ("entropy", 0, 1.0, "entropy has values at 1 tokens"),
        ("loss", 1, np.nan, "loss is NaN at 1 predicted tokens"),
        ("entropy", 1, np.nan, "entropy is NaN at 1 predicted tokens"),
        ("correct", 0, True, "1 tokens without a prediction are correct"),
        ("dropped", 0, True, "1 tokens without a prediction are dropped"),
    ],
)
def test_values_where_they_should_not_be(run_path: Path, key: str, position: int, value: float, message: str) -> None:
    def change(values: dict[str, Any]) -> None:
        values[key][0, position] = value

    rewrite_epoch_1(run_path, change)
    report = check_run(run_path)
    (problem,) = report.problems
    assert f"train: {message}" in problem.message
    assert (problem.epoch, problem.file) == (1, "epochs/epoch-0001")
    assert report.good_epochs == [0, 2]


def test_rewriting_the_same_values_is_no_damage(run_path: Path) -> None:
    rewrite_epoch_1(run_path, lambda values: None)
    assert check_run(run_path).ok


def test_reference_values_where_nothing_is_predicted(run_path: Path) -> None:
    path = run_path / "tokens" / "train.safetensors"
    records = open_run(run_path).records("train")
    manifest = schema.read_manifest(run_path / "manifest.json")
    arrays = {
        name: np.zeros(layout["shape"], dtype=layout["dtype"])
        for name, layout in manifest["tokens"]["train"]["tensors"].items()
    }
    arrays["document_id"] = records.document_id
    arrays["recorded_sequence_id"] = records.sequence_id
    write_tensors(path, arrays, schema.tokens_identity("train"))
    manifest["tokens"]["train"] |= schema.file_entry(path)
    schema.write_manifest(run_path / "manifest.json", manifest)
    found = messages(check_run(run_path))
    undefined = int((~records.predicted).sum())
    assert f"reference_loss has values at {undefined} tokens that have no prediction" in found
    assert "reference_entropy has values" in found


def test_other_sequences_than_the_recorded_are_found(run_path: Path, tmp_path: Path) -> None:
    # Tokens that name other recorded sequences, the epochs as they were.
    other = make_run(
        tmp_path / "other",
        n_documents=4,
        epochs=2,
        regularizers=[{"name": "x", "ratio": 0.4}],
        recorded={"train": [0, 1]},
    )
    shutil.copytree(other / "tokens", run_path / "tokens", dirs_exist_ok=True)
    manifest = schema.read_manifest(run_path / "manifest.json")
    manifest["tokens"] = schema.read_manifest(other / "manifest.json")["tokens"]
    schema.write_manifest(run_path / "manifest.json", manifest)
    report = check_run(run_path)
    assert report.good_epochs == []
    assert "sequences not to be recorded (2, 3, 4, 5, 6, ...)" in messages(report)


# What is no damage. -------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Path:
    return make_run(tmp_path / "running", n_documents=4, epochs=2, status="running")


def test_a_running_run_is_incomplete_and_not_damaged(running: Path) -> None:
    report = check_run(running)
    assert report.ok
    assert report.notes == ["incomplete: the run's status is 'running', not 'complete'"]
    assert report.good_epochs == [0, 1, 2]


def test_what_an_interruption_leaves_is_noted(running: Path) -> None:
    shutil.copytree(running / "epochs/epoch-0002", running / "epochs/epoch-0003.partial")
    (running / "tokens" / "train.safetensors.tmp").write_bytes(b"torn")
    (running / "model").mkdir()
    (running / "model" / "model.safetensors").write_bytes(b"torn")
    (running / "checkpoints" / "checkpoint-10").mkdir(parents=True)
    (running / "checkpoints" / "checkpoint-10" / "x.bin").write_bytes(b"x")
    with (running / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 99')
    report = check_run(running)
    assert report.ok
    assert "epochs/epoch-0003.partial is a leftover of an interrupted epoch" in report.notes
    assert "tokens/train.safetensors.tmp is a leftover of an interrupted write" in report.notes
    assert report.good_epochs == [0, 1, 2]


def test_damage_to_a_running_run_is_damage(running: Path) -> None:
    flip(running / FILES[8], 1.0)
    report = check_run(running)
    assert [problem.file for problem in report.problems] == [FILES[8]]
    assert report.good_epochs == [1, 2]


def test_a_gap_in_a_running_run_is_noted(running: Path) -> None:
    shutil.rmtree(running / "epochs" / "epoch-0001")
    report = check_run(running)
    assert report.ok
    assert "epochs 1 are not there" in report.notes


def test_files_of_the_user_are_noted(run_path: Path) -> None:
    (run_path / "page.html").write_text("x")
    (run_path / ".lock").write_text("x")
    report = check_run(run_path)
    assert report.ok
    assert report.notes == ["page.html is no part of a run, and was not checked"]


@pytest.mark.parametrize(
    ("key", "note"),
    [
        ("epochs", "does not say which epochs"),
        ("model_files", "no hashes of model/"),
        ("config_sha256", "no hash of config.yaml"),
    ],
)
def test_what_a_manifest_does_not_vouch_for_is_noted(run_path: Path, key: str, note: str) -> None:
    manifest = schema.read_manifest(run_path / "manifest.json")
    del manifest[key]
    schema.write_manifest(run_path / "manifest.json", manifest)
    report = check_run(run_path)
    assert report.ok
    assert len(report.notes) == 1
    assert note in report.notes[0]


def test_a_diverged_metric_is_no_damage(running: Path) -> None:
    writer.append_metrics(running / "metrics.jsonl", [{"step": 50, "training_loss": np.nan}])
    assert check_run(running).ok


def test_what_is_no_run_is_bad_input(tmp_path: Path, run_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        check_run(tmp_path / "absent")
    (tmp_path / "config.yaml").write_text("name: x")
    with pytest.raises(InputError, match="holds no run"):
        check_path(tmp_path)
    manifest = schema.read_manifest(run_path / "manifest.json")
    schema.write_manifest(run_path / "manifest.json", {**manifest, "format_version": 9})
    with pytest.raises(InputError, match="format 9"):
        check_run(run_path)


# Studies. -----------------------------------------------------------------------------------------


def test_a_run_is_one_report(whole_run: Path) -> None:
    (report,) = check_path(str(whole_run))
    assert report.path == whole_run


def test_a_study_is_checked_run_by_run(study_path: Path) -> None:
    own, *runs = check_path(study_path)
    assert own.path == study_path
    assert own.ok
    assert own.notes == ["runs/entrodrop/seed-1 has not been run yet"]
    names = [report.path.relative_to(study_path / "runs").as_posix() for report in runs]
    assert names == ["baseline/seed-1", "baseline/seed-3", "entrodrop/seed-3"]
    assert all(report.ok for report in runs)


def test_damage_in_a_study_names_the_run(study_path: Path) -> None:
    flip(study_path / "runs/baseline/seed-1/manifest.json", 0.5)
    flip(study_path / "runs/entrodrop/seed-3/tokens/train.safetensors", 0.9)
    own, *runs = check_path(study_path)
    assert own.ok
    assert [len(report.problems) for report in runs] == [1, 0, 1]


def test_damage_in_a_trial_and_in_what_was_chosen_is_named(tmp_path: Path) -> None:
    path = make_study(tmp_path / "s", n_documents=2, epochs=1, seeds=(0,), arms={"a": {}})
    trials = [make_run(path / "tuning" / "a" / f"trial-{number}", n_documents=2, epochs=1) for number in range(2)]
    schema.write_manifest(path / "tuning.json", {"format_version": schema.FORMAT_VERSION, "arms": {}})
    own, *runs = check_path(path)
    assert [report.path for report in runs] == [path / "runs/a/seed-0", *trials]
    assert own.ok and own.n_files == 1 and own.n_bytes == (path / "tuning.json").stat().st_size
    assert all(report.ok for report in runs)
    flip(trials[1] / "tokens/validation.safetensors", 0.5)
    flip(path / "tuning.json", 0.5)
    own, *runs = check_path(path)
    assert [problem.file for problem in own.problems] == ["tuning.json"]
    assert [report.ok for report in runs] == [True, True, False]
    schema.write_manifest(path / "tuning.json", {"format_version": 99, "arms": {}})
    assert "records of format 99" in messages(check_path(path)[0])


def test_a_prepared_run_has_not_begun(study_path: Path) -> None:
    folder = study_path / "runs" / "entrodrop" / "seed-1"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: x\n")
    own, *runs = check_path(study_path)
    assert own.notes == ["runs/entrodrop/seed-1 has not been run yet"]
    assert len(runs) == 3


def test_runs_that_cannot_be_compared(study_path: Path) -> None:
    folder = study_path / "runs" / "entrodrop" / "seed-1"
    make_run(folder, n_documents=4, epochs=1, corpus_seed=9)
    own, *runs = check_path(study_path)
    assert "different tokens" in messages(own)
    assert all(report.ok for report in runs)


def test_a_study_whose_recipe_is_damaged(study_path: Path) -> None:
    (study_path / "study.yaml").write_bytes(b"arms: [")
    own, *runs = check_path(study_path)
    assert [problem.file for problem in own.problems] == ["study.yaml"]
    assert len(runs) == 3


def test_a_run_that_the_recipe_does_not_name(tmp_path: Path) -> None:
    path = make_study(tmp_path / "s", n_documents=2, epochs=1, seeds=(0, 1), arms={"a": {}})
    (path / "study.yaml").write_text(yaml.safe_dump({"arms": {"a": {}}, "seeds": [0]}))
    own, *runs = check_path(path)
    assert own.notes == ["runs/a/seed-1 is not in the recipe"]
    assert len(runs) == 2


# Helpers. -----------------------------------------------------------------------------------------


def swap(first: Path, second: Path) -> None:
    between = first.with_name("between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


def assert_found(run_path: Path, name: str) -> None:
    """The check names the file, and no epoch with a damaged file is good."""
    report = check_run(run_path)
    assert not report.ok
    epoch = epoch_of(name)
    assert (name, epoch) in {(problem.file, problem.epoch) for problem in report.problems}
    assert report.good_epochs == [good for good in (0, 1, 2) if good != epoch]


def assert_no_damaged_value_is_read(run_path: Path, name: str) -> None:
    """What cheap checks can see is never returned as a value by the reader."""
    epoch = epoch_of(name)
    if name == "manifest.json":
        with pytest.raises((DamagedRecordError, InputError)):
            open_run(run_path)
        return
    run = open_run(run_path)
    if name.startswith("tokens/"):
        with pytest.raises(DamagedRecordError):
            run.records(Path(name).stem)
    elif epoch is not None:
        for split in run.splits:
            if split in name or "manifest" in name:
                for value in ("loss", "entropy", "correct"):
                    with pytest.raises((DamagedRecordError, InputError)):
                        getattr(run.records(split), value)(epoch)


def check_report_or_refusal(run_path: Path) -> bool:
    """Whether the check calls the run good; refusing to read its format is not that."""
    try:
        return check_run(run_path).ok
    except InputError:
        return False


def test_an_epochs_manifest_in_place_of_the_runs_is_named(run_path: Path) -> None:
    shutil.copy(run_path / "epochs/epoch-0001/manifest.json", run_path / "manifest.json")
    report = check_run(run_path)
    assert [problem.file for problem in report.problems] == ["manifest.json"]
    assert "no run's manifest" in report.problems[0].message
    # Epochs vouch for themselves; of all else it is said that nothing does.
    assert report.good_epochs == [0, 1, 2]
    assert [note for note in report.notes if "were not checked" in note]


# Epochs that were cut. ----------------------------------------------------------------------------


def test_a_last_epoch_that_was_cut_is_no_damage(tmp_path: Path) -> None:
    report = check_run(make_run(tmp_path / "run", n_documents=4, epochs=2, cut=1.5))
    assert report.ok and report.good_epochs == [0, 1, 2]


@pytest.mark.parametrize(
    ("epoch", "moment", "message"),
    [
        (1, {"passes": 0.5, "partial": True}, "was cut, and is not the last epoch"),
        (2, {"passes": 2.0, "partial": True}, r"was cut, and stands for 2\.0 passes, which are not those of a part"),
        (2, {"passes": None, "partial": True}, "was cut, and stands for None passes"),
        (2, {"passes": 1.5}, r"is whole, and stands for 1\.5 passes"),
    ],
)
def test_moments_that_cannot_be(run_path: Path, epoch: int, moment: dict[str, Any], message: str) -> None:
    file = run_path / "epochs" / f"epoch-000{epoch}" / "manifest.json"
    own = schema.write_manifest(file, schema.read_manifest(file) | moment)[schema.SELF_HASH]
    manifest = schema.read_manifest(run_path / "manifest.json")
    schema.write_manifest(run_path / "manifest.json", manifest | {"epochs": manifest["epochs"] | {str(epoch): own}})
    (problem,) = check_run(run_path).problems
    assert re.search(message, problem.message)
    assert (problem.epoch, problem.file) == (epoch, f"epochs/epoch-000{epoch}")


def test_fields_of_documents_are_checked_with_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = make_run(tmp_path / "good", epochs=[0], document_fields=lambda n: {"topic": ["a"] * n})
    assert check_run(good).ok
    assert open_run(good).records("train").document_fields == {"topic": ["a"] * 12}
    assert open_run(good).records("validation").document_fields == {"topic": ["a"] * 6}
    # Intact, and of other documents.
    monkeypatch.setattr(schema, "pack_fields", lambda fields, n_documents: np.frombuffer(b'{"topic":[]}', np.uint8))
    bad = make_run(tmp_path / "bad", epochs=[0], document_fields=lambda n: {"topic": ["a"] * n})
    assert "tokens/train.safetensors: document_fields has not one 'topic' for each of 12" in messages(check_run(bad))
