"""Making summaries: what is added, what is left out, what is refused, and that nothing of the text is in them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.summaries import WORDS, noisy, summarized
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.value_curves import value_curves
from dynamics.analysis.sums.arms import collect_arms
from dynamics.analysis.sums.summarising import Summarized, summarize_study
from dynamics.analysis.tokens.groups import groups_by_field, groups_by_regex, own_groups
from dynamics.analysis.tokens.matches import groups_by_match
from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.records.reader import open_run, open_study
from dynamics.records.summaries.check import check_summary
from dynamics.records.summaries.files import SHARED_FILE, SUMMARY_FILE, read_summary
from dynamics.records.summaries.reading import open_summary
from dynamics.records.tensors import describe_tensors, read_tensors, write_tensors

SMALL: dict[str, Any] = {"n_documents": 8, "epochs": 1, "seeds": (0, 1)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(run: Path, **content: Any) -> None:
    """Put other facts into a run's manifest, as another training would have them."""
    manifest = schema.read_manifest(run / schema.MANIFEST_FILE)
    schema.write_manifest(run / schema.MANIFEST_FILE, {**manifest, **content})


def test_the_finished_runs_are_added_and_the_others_named(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", skip=[("entrodrop", 1)], **SMALL)
    changed(path / "runs/entrodrop/seed-0", status="running")
    done = summarize_study(open_study(path), tmp_path / "out")
    assert done == Summarized(
        added=[("baseline", 0), ("baseline", 1)],
        held=[],
        unfinished={
            ("entrodrop", 0): "is not finished: 2 epochs are recorded",
            ("entrodrop", 1): "has not been run yet",
        },
        path=tmp_path / "out",
    )
    assert done.lines() == [
        "baseline seed 0: added",
        "baseline seed 1: added",
        "entrodrop seed 0: left out, is not finished: 2 epochs are recorded",
        "entrodrop seed 1: left out, has not been run yet",
        f"{tmp_path / 'out'}: 2 finished runs of the study, 2 of them new",
    ]
    assert sorted(files(tmp_path / "out")) == [
        "baseline/seed-0.safetensors",
        "baseline/seed-1.safetensors",
        SHARED_FILE,
        SUMMARY_FILE,
    ]
    # A run that diverged ended; it is in the summary as far as it came.
    changed(path / "runs/entrodrop/seed-0", diverged={"step": 7})
    again = summarize_study(open_study(path), tmp_path / "out")
    assert (again.added, again.held) == ([("entrodrop", 0)], [("baseline", 0), ("baseline", 1)])
    summary = open_summary(tmp_path / "out")
    assert summary.arms == ["baseline", "entrodrop"]
    assert summary.run("entrodrop", 0).manifest["diverged"] == {"step": 7}


def test_adding_nothing_changes_no_byte_and_adding_runs_no_other_file(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", skip=[("baseline", 1), ("entrodrop", 0)], **SMALL)
    out = tmp_path / "out"
    summarize_study(open_study(path), out)
    before = files(out)
    assert summarize_study(open_study(path), out).added == []
    assert files(out) == before
    make_run(path / "runs/baseline/seed-1", n_documents=8, epochs=1, seed=1)
    assert summarize_study(open_study(path), out).added == [("baseline", 1)]
    after = files(out)
    assert {name for name in after if after[name] != before.get(name)} == {"baseline/seed-1.safetensors", SUMMARY_FILE}
    # One after the other or all at once: the same bytes.
    summarize_study(open_study(path), tmp_path / "at once")
    assert files(tmp_path / "at once") == after


def test_the_seeds_of_a_study_may_come_from_several_machines(tmp_path: Path) -> None:
    out = tmp_path / "out"
    here = make_study(tmp_path / "here", **{**SMALL, "seeds": (0,)})
    there = make_study(tmp_path / "there", **{**SMALL, "seeds": (1, 2)})
    changed(there / "runs/baseline/seed-1", hardware={"device": "cpu", "threads": 4}, versions={"torch": "3.0"})
    summarize_study(open_study(here), out)
    summarize_study(open_study(there), out)
    summary = open_summary(out)
    assert summary.seeds == [0, 1, 2]
    with pytest.warns(UserWarning, match=r"different hardware \(.*threads 4.*\) and versions \(.*torch 3.0") as caught:
        (arm, _) = collect_arms(summary)
    assert len(caught) == 1 and len(arm.runs) == 3
    assert summary.run("baseline", 1).manifest["hardware"] == {"device": "cpu", "threads": 4}


def test_tokens_stay_in_the_buckets_of_the_first_run(tmp_path: Path) -> None:
    """Another machine's reference entropies differ: its tokens are in the same buckets all the same."""
    path = make_study(tmp_path / "study", arms={"baseline": {}}, **SMALL)
    alone = summarize_study(open_study(path), tmp_path / "alone")
    second = path / "runs/baseline/seed-1"
    manifest = schema.read_manifest(second / "manifest.json")
    for split in ("train", "validation"):
        file, entry = second / schema.tokens_file(split), manifest["tokens"][split]
        arrays = read_tensors(file, entry, entry["tensors"], identity=schema.tokens_identity(split))
        # Another entropy at every token that has one, so that buckets made of it are others.
        arrays["reference_entropy"] = np.float32(5.0) - arrays["reference_entropy"]
        write_tensors(file, arrays, schema.tokens_identity(split))
        entry.update(describe_tensors(file))
    schema.write_manifest(second / "manifest.json", manifest)
    summarize_study(open_study(path), tmp_path / "mixed")
    assert alone.added == [("baseline", 0), ("baseline", 1)]
    one, other = (open_summary(tmp_path / name).run("baseline", 1).records("validation") for name in ("alone", "mixed"))
    np.testing.assert_array_equal(one.sums_alone.values("loss"), other.sums_alone.values("loss"))


def test_no_text_no_path_and_no_pickle(tmp_path: Path) -> None:
    pair = summarized(tmp_path, n_documents=10, seeds=(0,))
    path = pair.study.path / "runs/baseline/seed-0"
    text = open_run(path).records("train").document_bytes(0)
    pieces = {text[at : at + 12] for at in range(len(text) - 12)}
    assert len(pieces) > 50
    for name, content in files(pair.summary.path).items():
        assert str(tmp_path).encode() not in content, name
        assert not [piece for piece in pieces if piece in content], name


def test_sources_are_told_without_their_folders(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", arms={"baseline": {}}, **SMALL)
    for run in (path / "runs/baseline").iterdir():
        config = yaml.safe_load((run / schema.CONFIG_FILE).read_text())
        config["corpus"]["source"] = "/some/where/texts.jsonl"
        (run / schema.CONFIG_FILE).write_text(yaml.safe_dump(config))
    summarize_study(open_study(path), tmp_path / "out")
    assert open_summary(tmp_path / "out").run("baseline", 0).config["corpus"]["source"] == "texts.jsonl"
    assert not [name for name, content in files(tmp_path / "out").items() if b"/some/where" in content]


def test_another_run_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", **SMALL)
    out = tmp_path / "out"
    summarize_study(open_study(path), out)
    before = files(out)
    changed(path / "runs/baseline/seed-1", timing={"seconds": 2.0})
    with pytest.raises(
        InputError, match=r"out holds another run of arm 'baseline' with seed 1 than .*seed-1: .* never"
    ):
        summarize_study(open_study(path), out)
    assert files(out) == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"corpus_seed": 2}, r"seed-2 has other tokens of 'train' \(\w+\) than .*out \(\w+\)"),
        ({"held_out": ("validation", "tuning")}, r"other splits \(train, validation, tuning\) than"),
        ({"recorded": {"train": [0, 1]}}, r"other recorded rows of 'train' \(2\) than"),
        ({"epochs": 2}, "has training.num_train_epochs 2, and the runs of its arm in .*out have 1"),
        ({"regularizers": [{"name": "goldfish"}]}, r"has regularizers \[\{'name': 'goldfish'\}\], .* have \[\]"),
        ({"recorded": {"train": [0, 1, 2, 3, 4, 5, 6, 8]}}, "recorded rows of 'train'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    summarize_study(open_study(make_study(tmp_path / "study", arms={"baseline": {}}, **SMALL)), out)
    before = files(out)
    more = make_study(tmp_path / "more", arms={"baseline": {}}, skip=[("baseline", 2)], **{**SMALL, "seeds": (2,)})
    make_run(more / "runs/baseline/seed-2", **{"n_documents": 8, "epochs": 1, "seed": 2, **other})
    with pytest.raises(InputError, match=message):
        summarize_study(open_study(more), out)
    assert files(out) == before


def test_other_rows_of_the_same_number_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = {"recorded": {"train": [0, 1, 2]}}
    summarize_study(open_study(make_study(tmp_path / "a", arms={"baseline": {}}, **SMALL, **rows)), out)
    other = make_study(tmp_path / "b", arms={"baseline": {}}, **{**SMALL, "seeds": (2,)}, recorded={"train": [3, 4, 5]})
    with pytest.raises(InputError, match="seed-2 recorded other (tokens|sequences)"):
        summarize_study(open_study(other), out)
    assert [problem for problem in check_summary(out).problems] == []


def test_groups_are_those_that_the_summary_was_begun_with(tmp_path: Path) -> None:
    study = open_study(
        make_study(tmp_path / "study", **SMALL, document_fields=lambda n: {"kind": ["a", "b"] * (n // 2)})
    )
    kinds = [WORDS, groups_by_regex({"lists": "list"}, name="texts"), groups_by_field(study, "kind")]
    out = tmp_path / "out"
    summarize_study(study, out, groups=kinds)
    summary = open_summary(out)
    for group in kinds:
        one, other = (value_curves(data, "accuracy", buckets=group, over="documents") for data in few(study, summary))
        np.testing.assert_array_equal(one[0].values.estimate, other[0].values.estimate)
    shutil.rmtree(out / "baseline")
    content = read_summary(out)
    del content["runs"]["baseline"]
    schema.write_manifest(out / SUMMARY_FILE, content)
    assert summarize_study(study, out).added == [("baseline", 0), ("baseline", 1)]  # with all of these
    assert set(read_summary(out)["groups"]) == {"words", "texts", "kind"}
    with pytest.raises(InputError, match=r"out keeps sums of the groups kind .* asked for: words .*; leave them out"):
        summarize_study(study, out, groups=[WORDS])


def few(*data: Any) -> Any:
    import warnings

    warnings.simplefilter("ignore", UserWarning)  # 4 documents
    return data


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([groups_by_match("nowhere at all", name="x")], "no token of any split of .* is in the groups 'x'"),
        ([WORDS, WORDS], "two groups are called 'words'"),
        ([own_groups("mine", {"train": ["a"]})], "'mine' are arrays, which a summary cannot tell"),
    ],
)
def test_bad_groups(tmp_path: Path, groups: list[Any], message: str) -> None:
    study = open_study(make_study(tmp_path / "study", **SMALL))
    with pytest.raises(InputError, match=message):
        summarize_study(study, tmp_path / "out", groups=groups)
    assert not (tmp_path / "out").exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    study = open_study(make_study(tmp_path / "study", **SMALL))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other holds something else than a summary; name a new folder"):
        summarize_study(study, tmp_path / "other")
    with pytest.raises(InputError, match="notes.txt holds something else"):
        summarize_study(study, tmp_path / "other/notes.txt")
    summarize_study(study, tmp_path / "out")
    with pytest.raises(InputError, match="out is a summary already"):
        summarize_study(open_summary(tmp_path / "out"), tmp_path / "again")


def test_what_an_interruption_left_is_written_again(tmp_path: Path) -> None:
    study = open_study(make_study(tmp_path / "study", **SMALL))
    summarize_study(study, tmp_path / "whole")
    summarize_study(study, tmp_path / "cut")
    (tmp_path / "cut" / SUMMARY_FILE).unlink()
    (tmp_path / "cut/baseline/seed-0.safetensors").write_bytes(b"half")
    assert len(summarize_study(study, tmp_path / "cut").added) == 4
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_the_choice_of_trials_is_kept(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", **SMALL)
    schema.write_manifest(path / schema.TUNING_FILE, {"format_version": 2, "arms": {"baseline": {"chosen": 1}}})
    out = tmp_path / "out"
    summarize_study(open_study(path), out)
    assert (out / schema.TUNING_FILE).read_bytes() == (path / schema.TUNING_FILE).read_bytes()
    assert open_summary(out).tuning == {"baseline": {"chosen": 1}}
    schema.write_manifest(path / schema.TUNING_FILE, {"format_version": 2, "arms": {"baseline": {"chosen": 2}}})
    with pytest.raises(InputError, match=r"study/tuning.json and .*out/tuning.json hold different choices"):
        summarize_study(open_study(path), out)


def test_an_epoch_that_was_cut_lies_at_its_passes(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", **{**SMALL, "epochs": 3}, cut=2.5, loss_fns={"baseline": noisy(1.0)})
    summarize_study(open_study(path), tmp_path / "out")
    run, kept = (data.run("baseline", 1) for data in (open_study(path), open_summary(tmp_path / "out")))
    assert kept.partial_epochs == run.partial_epochs == {3: 2.5}
    assert [kept.step(epoch) for epoch in kept.epochs] == [run.step(epoch) for epoch in run.epochs]
    assert kept.passes(3) == 2.5
    columns = ("step", "epoch", "learning_rate", "ratio", "training_loss", "dropped_share")
    assert kept.metrics() == [{key: row[key] for key in columns} for row in run.metrics()]
