"""A killed run resumes bit for bit; a generator that was not restored, or a bit that is another, is told."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from support.steps import TINY, by_what

from benchmarks.gpu.steps import resume
from dynamics.records import schema

# As `dynamics`, but that a checkpoint's generators are left alone.
FORGETTING = """
from transformers import Trainer
Trainer._load_rng_state = lambda self, checkpoint: None
from dynamics.cli import main
main()
"""
SAME, DIFFERS = "resume: killed and resumed, it differs in", "resume: the same run twice differs in"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A whole run, one that was resumed as it should be, one that was resumed without generators, and what was left."""
    root = tmp_path_factory.mktemp("runs")
    whole, killed = resume.side_by_side(TINY, root)
    left = schema.read_manifest(killed.folder / schema.MANIFEST_FILE)
    shutil.copytree(killed.folder, root / "forgetting")
    shutil.copytree(f"{killed.folder}-cache", f"{root / 'forgetting'}-cache")
    resumed = resume.started(killed.folder, TINY, resume.DYNAMICS, resume=True)
    forgetting = resume.started(root / "forgetting", TINY, ("-c", FORGETTING), resume=True)
    return whole, resumed.ended(0), forgetting.ended(0), left


def test_a_killed_run_resumes_bit_for_bit(runs):
    whole, resumed, _, left = runs
    found = resume.compared([whole], resumed, left)
    assert [check for check in found.checks if not check.met] == [] and len(found.checks) == 4
    assert found.measured["files compared"] > 15


def test_generators_that_are_not_restored_are_told(runs):
    """The next epoch's dropout is another: weights, records and metrics differ, and each run is whole by itself."""
    whole, _, forgetting, left = runs
    found = by_what(resume.compared([whole], forgetting, left).checks)
    assert [what for what, check in found.items() if not check.met] == [SAME]
    assert {resume.WEIGHTS, schema.METRICS_FILE} <= set(found[SAME].value.split(", "))


def test_a_run_that_started_anew_or_died_elsewhere_is_told(runs):
    whole, resumed, _, left = runs
    anew = dataclasses.replace(resumed, said="it starts from its first epoch")
    found = resume.compared([whole], anew, {**left, "status": "complete"})
    assert [check.what for check in found.checks if not check.met] == [
        "resume: killed",
        "resume: it goes on from its checkpoint",
    ]


@pytest.mark.parametrize("name", [resume.WEIGHTS, "epochs/epoch-0002/train-00000-of-00001.safetensors"])
def test_one_bit_is_told(runs, tmp_path, name):
    whole, resumed, _, left = runs
    copy = dataclasses.replace(resumed, folder=tmp_path / "copy")
    shutil.copytree(resumed.folder, copy.folder)
    content = bytearray((copy.folder / name).read_bytes())
    content[-1] ^= 1
    (copy.folder / name).write_bytes(content)
    found = by_what(resume.compared([whole, copy], copy, left).checks)
    for what in (SAME, DIFFERS):
        assert not found[what].met and found[what].value == name
    assert not found["resume: what dynamics check finds"].met


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 2, not 0: .*recipe.yaml"):
        resume.started(tmp_path / "run", TINY, resume.DYNAMICS).ended(0)


def test_what_a_bare_machine_was_brought_is_found(tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text(
        "import dynamics\nraise SystemExit(f'{__name__} beside {dynamics.__name__}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="brought beside dynamics"):
        resume.started(tmp_path / "run", TINY, ("-c", "import brought")).ended(0)
