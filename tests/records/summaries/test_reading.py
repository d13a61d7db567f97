"""Summaries as studies: what they list, refuse, and find damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.summaries import Pair, summarized

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.summaries.check import check_any, check_summary
from dynamics.records.summaries.files import SUMMARY_FILE, read_summary
from dynamics.records.summaries.reading import open_summary


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return summarized(tmp_path_factory.mktemp("reading"), n_documents=8, epochs=1, seeds=(0, 1))


@pytest.fixture
def copy(pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pair.summary.path, tmp_path / "copy"))


def test_a_summary_lists_what_its_study_does(pair: Pair) -> None:
    study, summary = pair
    assert (summary.arms, summary.seeds, list(summary.runs)) == (study.arms, study.seeds, list(study.runs))
    assert repr(summary).splitlines()[0] == f"Summary({str(summary.path)!r}: 2 arms, 4 runs)"
    for key, run in study.runs.items():
        kept = summary.runs[key]
        assert (kept.name, kept.epochs, kept.splits, kept.complete) == (run.name, run.epochs, run.splits, True)
        assert kept.config == run.config
        assert kept.manifest["seeds"] == run.manifest["seeds"]
        assert kept.manifest[schema.SELF_HASH] == run.manifest[schema.SELF_HASH]
    with pytest.raises(InputError, match="no arm 'baselin'.*did you mean 'baseline'"):
        summary.run("baselin", 0)
    with pytest.raises(InputError, match="has no split 'test': it has train, validation"):
        summary.run("baseline", 0).records("test")
    with pytest.raises(InputError, match="has no complete epoch 7"):
        summary.run("baseline", 0).passes(7)


def test_records_of_a_summary_have_no_other_attributes(pair: Pair) -> None:
    records = pair.summary.run("baseline", 0).records("train")
    assert repr(records).splitlines()[0] == "SummaryRecords(train: sums by document)"
    assert not hasattr(records, "nothing of the kind") and not hasattr(records, "_private")
    with pytest.raises(InputError, match="keeps sums by document, and no tokens: predicted cannot be had"):
        records.predicted  # noqa: B018


def test_no_summary_and_a_later_version_are_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(InputError, match=r"holds no summary \(no study.json\): 'dynamics summarize STUDY"):
        open_summary(tmp_path)
    content = schema.read_manifest(copy / SUMMARY_FILE)
    schema.write_manifest(copy / SUMMARY_FILE, {**content, "summary_version": 9})
    with pytest.raises(InputError, match="is a summary of version 9, and this version reads 1"):
        open_summary(copy)
    schema.write_manifest(copy / SUMMARY_FILE, {"summary_version": 1, "arms": []})
    with pytest.raises(DamagedRecordError, match="does not say splits, edges, groups, shared, runs"):
        open_summary(copy)


def test_a_whole_summary_checks(pair: Pair) -> None:
    (report,) = check_any(pair.summary.path)
    assert (report.problems, report.notes, report.good_epochs, report.n_files) == ([], [], [0, 1], 6)
    assert report.n_bytes == sum(path.stat().st_size for path in pair.summary.path.rglob("*") if path.is_file())
    assert len(check_any(pair.study.path)) == 5  # of a study, its own report and one a run


@pytest.mark.parametrize("name", ["shared.safetensors", "baseline/seed-1.safetensors", "study.json"])
@pytest.mark.parametrize("at", [0.2, 0.999])
def test_a_changed_byte_anywhere_is_found(copy: Path, name: str, at: float) -> None:
    content = bytearray((copy / name).read_bytes())
    content[int(at * len(content))] ^= 1
    (copy / name).write_bytes(content)
    report = check_summary(copy)
    assert [problem.file for problem in report.problems] == [name]


def test_lost_swapped_and_stray_files_are_found(copy: Path) -> None:
    first, second = copy / "baseline/seed-0.safetensors", copy / "baseline/seed-1.safetensors"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(DamagedRecordError, match="is another file's content: seed is 1"):
        open_summary(copy).run("baseline", 0)
    first.unlink()
    (problem,) = check_summary(copy).problems
    assert problem.file == "baseline/seed-0.safetensors" and "is missing" in problem.message
    with pytest.raises(DamagedRecordError, match="seed-0.safetensors is missing"):
        open_summary(copy).run("baseline", 0)
    first.write_bytes(kept)
    (copy / "notes.txt").write_text("mine")
    shutil.copy(first, copy / "baseline/seed-9.safetensors")
    report = check_summary(copy)
    assert report.ok and report.notes == [
        "baseline/seed-9.safetensors is not in study.json: summarising that was interrupted writes it again",
        "notes.txt is no part of a summary, and was not checked",
    ]


def test_values_are_hashed_unless_that_is_not_wanted(copy: Path) -> None:
    file = copy / "entrodrop/seed-0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_summary(copy, verify=False).run("entrodrop", 0)
    with pytest.raises(DamagedRecordError, match="was changed after it was written"):
        open_summary(copy).run("entrodrop", 0)
    assert read_summary(copy)["runs"]["entrodrop"]["0"]["bytes"] == len(content)
