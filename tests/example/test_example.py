"""The study that ships with the package: what it is, that it is whole, and that it is small."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.synthetic import make_study

import dynamics.example
from dynamics import load_example, load_recipe, open_study
from dynamics.errors import InputError
from dynamics.example import pack as packing
from dynamics.recipe.loading import config_in, resolved
from dynamics.records import schema
from dynamics.records.check import check_path

HERE = Path(dynamics.example.__file__).parent
ROOT = Path(dynamics.__file__).parents[1]


@pytest.fixture(scope="module")
def example():
    return load_example()


def test_it_is_small_and_holds_no_weights(example):
    sizes = [path.stat().st_size for path in HERE.glob("*.tar.xz")]
    assert len(sizes) == 3
    assert max(sizes) <= 5_000_000 and sum(sizes) <= 20_000_000
    assert not list(example.path.rglob("model")) and not list(example.path.rglob("checkpoints"))


def test_it_is_a_study_with_its_controls_and_three_seeds(example):
    assert example.arms == ["baseline", "entrodrop", "random"]
    assert example.seeds == [0, 1, 2] and len(example.runs) == 9
    run = example.run("entrodrop", 2)
    assert run.complete and run.epochs == list(range(7))
    assert run.splits == ["train", "validation", "tuning", "validation-general"]
    records = run.records("validation")
    # Whole documents, enough of them for intervals, and some training sequences.
    assert len(records.sequence_id) == run.manifest["tokens"]["validation"]["n_sequences"]
    documents = np.unique(records.document_id[records.document_id >= 0])
    assert len(documents) == records.n_documents >= 50
    assert 24 == len(run.records("train").sequence_id) < run.manifest["tokens"]["train"]["n_sequences"]
    assert run.records("train").dropped(6).any()


def test_its_model_is_a_pretrained_one_of_a_known_hash(example):
    for run in example.runs.values():
        assert run.manifest["model"] == example.run("baseline", 0).manifest["model"]
        assert run.manifest["model"]["hash"] == run.config["model"]["hash"]
        assert run.manifest["tokenizer"]["vocab_size"] == 49152


def test_every_file_is_what_its_manifest_says(example):
    reports = check_path(example.path)
    assert len(reports) == 10 and all(report.ok for report in reports)


def test_it_comes_from_the_recipe_of_the_repository(example):
    recipe = load_recipe(ROOT / "recipes" / "example.yaml")
    # Keys that came after it was made have their defaults.
    assert resolved(recipe) == config_in(example.path / schema.STUDY_FILE)


def test_nothing_in_it_names_the_machine_that_made_it(example):
    """Every key and value of JSON and YAML, and the metadata of tensors."""
    seen = set()
    for path in example.path.rglob("*"):
        if path.is_file():
            seen.add(path.suffix)
            for text in packing.written(path.name, path.read_bytes()):
                assert not packing.PLACE.search(text), (path, text)
    assert seen == {".json", ".jsonl", ".yaml", ".safetensors"}


PLACES = [
    "/tmp/model",
    "~/models",
    "~me/models",
    "C:\\Users\\me",
    "D:/models",
    "\\\\host\\share",
    "file:///home/me",
    "cache:/x",
]
NO_PLACES = ["tokens/train.safetensors", "Owner/model", "https://hub.example/a/b", "cache:model", "tokens/s", "a / b"]


def test_what_names_a_place():
    assert all(packing.PLACE.search(f"{before}{text}") for text in PLACES for before in ("", "from "))
    assert not any(packing.PLACE.search(text) for text in NO_PLACES)


def test_what_is_written_in_a_file_is_found_wherever_it_stands(example):
    (file,) = (example.run("baseline", 0).path / "epochs" / "epoch-0000").glob("validation-0*")
    metadata = list(packing.written(file.name, file.read_bytes()))
    assert metadata[0] == "dynamics" and json.loads(metadata[1])["split"] == "validation"
    assert list(packing.written("a.json", b'{"a": [{"b": "c"}, 1]}')) == ["a", "b", "c"]
    assert list(packing.written("a.jsonl", b'{"a": 1}\n{"b": "c"}\n')) == ["a", "b", "c"]
    assert list(packing.written("a.yaml", b"1: {a: [b]}")) == ["1", "a", "b"]


def test_packing_refuses_a_study_that_names_a_place(tmp_path):
    study = open_study(make_study(tmp_path / "study", n_documents=60, epochs=1))
    recipe = study.path / schema.STUDY_FILE
    recipe.write_text(recipe.read_text() + "\nnotes: {of: [from /srv/models/mine]}\n")
    with pytest.raises(
        InputError, match=r"study.yaml of seed .* names a place of this machine, 'from /srv/models/mine'"
    ):
        packing.pack(study, tmp_path)
    assert not list(tmp_path.glob("*.xz"))


def test_it_opens_within_two_seconds_where_it_was_not_yet_unpacked(example, monkeypatch, tmp_path):
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    before = time.process_time()
    opened = load_example()
    assert time.process_time() - before < 2
    assert opened.path != example.path and opened.path.is_relative_to(tmp_path)


def test_it_is_unpacked_once(example, monkeypatch):
    monkeypatch.setattr(tarfile, "open", None)
    assert load_example().path == example.path


def test_packing_leaves_out_weights_and_gives_the_same_bytes_again(tmp_path):
    study = open_study(make_study(tmp_path / "study", n_documents=60, epochs=2))
    assert all((run.path / "model").is_dir() for run in study.runs.values())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = (packing.pack(open_study(study.path), tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == [f"seed-{seed}.tar.xz" for seed in study.seeds]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    out = tmp_path / "out"
    for path in first:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(path.read_bytes()))) as archive:
            assert {(entry.mtime, entry.uid) for entry in archive} == {(0, 0)}
            archive.extractall(out, filter="data")
    unpacked = open_study(out)
    assert not list(out.rglob("model"))
    assert all(report.ok for report in check_path(out))
    key = (study.arms[0], study.seeds[0])
    mine, theirs = (one.run(*key).records("validation").loss(1) for one in (unpacked, study))
    np.testing.assert_array_equal(mine, theirs)


def test_packing_refuses_what_is_too_large_or_damaged(tmp_path, monkeypatch):
    study = open_study(make_study(tmp_path / "study", n_documents=60, epochs=2))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="record fewer sequences"):
        patch.setattr(packing, "MOST_IN_ALL", 10)
        packing.pack(study, tmp_path)
    assert not list(tmp_path.glob("*.xz"))
    victim = study.runs[study.arms[0], study.seeds[0]].path / "epochs" / "epoch-0001" / "manifest.json"
    victim.unlink()
    with pytest.raises(InputError, match="not complete and whole"):
        packing.pack(study, tmp_path)


def test_its_bits_are_read_as_they_lie(example):
    run = example.run("baseline", 0)
    assert run.manifest["format_version"] == 2
    assert run.partial_epochs == {} and run.passes(6) == 6.0
    for split in run.splits:
        (file,) = (run.path / "epochs" / "epoch-0006").glob(f"{split}-0*.safetensors")
        raw = load_file(file)
        records = run.records(split)
        assert raw["sequence_id"].tolist() == records.sequence_id.tolist()
        for name in ("loss", "entropy"):
            assert records.stored(name, 6).tobytes() == raw[name].tobytes()
        assert np.packbits(records.correct(6), axis=1, bitorder="little").tobytes() == raw["correct"].tobytes()
