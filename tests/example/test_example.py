"""The study that ships with the package: what it is, that it is whole, and that it is small."""

from __future__ import annotations

import io
import lzma
import tarfile
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
    assert max(sizes) <= 5_000_000 and sum(sizes) <= 12_000_000
    assert not list(example.path.rglob("model")) and not list(example.path.rglob("checkpoints"))


def test_it_is_a_study_with_its_controls_and_three_seeds(example):
    assert example.arms == ["baseline", "entrodrop", "constant", "random", "inverse"]
    assert example.seeds == [0, 1, 2] and len(example.runs) == 15
    run = example.run("entrodrop", 2)
    assert run.complete and run.epochs == list(range(8))
    records = run.records("validation")
    # Whole documents, enough of them for intervals, and some training sequences.
    assert len(records.sequence_id) == run.manifest["tokens"]["validation"]["n_sequences"]
    documents = np.unique(records.document_id[records.document_id >= 0])
    assert len(documents) == records.n_documents >= 50
    assert 48 == len(run.records("train").sequence_id) < run.manifest["tokens"]["train"]["n_sequences"]
    assert run.records("train").dropped(7).any()


def test_every_file_is_what_its_manifest_says(example):
    reports = check_path(example.path)
    assert len(reports) == 16 and all(report.ok for report in reports)


def test_it_comes_from_the_recipe_of_the_repository(example):
    recipe = load_recipe(ROOT / "recipes" / "example.yaml")
    # Keys that came after it was made have their defaults.
    assert resolved(recipe) == config_in(example.path / schema.STUDY_FILE)


def test_nothing_in_it_names_the_machine_that_made_it(example):
    for path in [*example.path.rglob("*.json"), *example.path.rglob("*.yaml")]:
        for sign in ("/home/", "/root", "/tmp", "/work", "/usr"):
            assert sign not in path.read_text(), path


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


def test_it_is_of_format_1_and_its_bits_are_read_as_they_lie(example):
    run = example.run("baseline", 0)
    assert run.manifest["format_version"] == 1
    assert run.partial_epochs == {} and run.passes(7) == 7.0 and run.step(7) is None
    for split in run.splits:
        (file,) = (run.path / "epochs" / "epoch-0007").glob(f"{split}-*.safetensors")
        raw = load_file(file)
        records = run.records(split)
        assert raw["sequence_id"].tolist() == records.sequence_id.tolist()
        for name in ("loss", "entropy"):
            assert records.stored(name, 7).tobytes() == raw[name].tobytes()
        assert np.packbits(records.correct(7), axis=1, bitorder="little").tobytes() == raw["correct"].tobytes()
