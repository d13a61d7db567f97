"""A step is timed and its waits counted; a look at the device, wherever it is planted in the project, is told."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from support.steps import TINY, measured_and_checks

import dynamics
from benchmarks import waits
from benchmarks.gpu.steps import training_step
from benchmarks.gpu.steps.training_step import DROPPING, NOTHING, OURS, PLAIN, Subject
from dynamics.ops import linear_statistics

SUBJECT = Subject(TINY, training_step._TINY, 2, torch.float32)


def test_steps_are_timed_and_none_of_ours_waits(caplog):
    with caplog.at_level(logging.WARNING, logger="dynamics"):
        measured, checks = measured_and_checks(training_step)
    # Whole logits are used nowhere, not even where the head keeps no statistics.
    assert caplog.records == []
    assert all(check.met for check in checks if not check.target) and sum(not check.target for check in checks) == 2
    assert all(check.met is None for check in checks if check.target) and sum(check.target for check in checks) == 5
    assert measured["float32 weights"]["step, ms"].keys() == {PLAIN, OURS, DROPPING, NOTHING}
    assert measured["bfloat16 weights"]["step over plain"].keys() == {OURS, DROPPING}
    # transformers' own look at positions, once a forward pass, is counted and is nobody's here.
    of_all = measured["host waits"]["by operation"]
    assert of_all["a step"][OURS] >= 1 and of_all["ours a step"][OURS] == 0


@pytest.mark.parametrize(
    "place",
    ["dynamics.training.loop.methods.Methods.dropped", "dynamics.training.loop.step_metrics.StepMetrics.loss_of_step"],
)
def test_a_planted_wait_is_told(monkeypatch, place):
    """One `.item()` in a file of the project, in a method's mask and beside a step's end."""
    owner, _, name = place.rpartition(".")
    module, _, kind = owner.rpartition(".")
    own = getattr(getattr(__import__(module, fromlist=[kind]), kind), name)
    code = "def looking(*given):\n    found = own(*given)\n    found is None or found.sum().item()\n    return found\n"
    scope = {"own": own}
    exec(compile(code, str(Path(dynamics.__file__).parent / "planted.py"), "exec"), scope)
    monkeypatch.setattr(place, scope["looking"])
    measured, checks = training_step._waits(SUBJECT)
    told = {check.what: check for check in checks}
    check = told[f"{DROPPING}: host waits of ours a step"]
    assert not check.met and check.value >= 1
    assert any("planted.py:3 looking" in at for at in measured["by operation"]["places"][DROPPING])


def test_the_head_keeps_no_statistics_where_it_shall_not(tmp_path, monkeypatch):
    kept = []
    own = linear_statistics.head_pass

    def head_pass(*given, **more):
        kept.append((given[5].statistics, any(more["needs"])))
        return own(*given, **more)

    monkeypatch.setattr(linear_statistics, "head_pass", head_pass)
    with training_step._told_to_keep(NOTHING):
        SUBJECT.trainer(NOTHING, tmp_path).train()
    assert kept.count((False, True)) == SUBJECT.scale.steps  # in training
    assert {statistics for statistics, training in kept if not training} == {True}  # in the check


def test_a_batch_is_what_fits(monkeypatch):
    """Of 80 GB: 18 bytes for each of 151,936 logits and 28 layers of 64 KiB a token, 16 bytes a weight."""
    cuda = training_step.Where("cuda", False)
    for gib, batch in ((79.0, 8), (24.0, 2), (8.0, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gib=gib: (int(gib * 2**30), 0))
        assert training_step._batch(cuda, training_step._FULL) == batch


def test_what_torch_warns_of_is_a_wait_at_its_place(monkeypatch):
    """As on CUDA, where torch's debug mode warns of each synchronisation; other warnings go where they went."""
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.warns(UserWarning, match="another") as others, waits.counting_cuda_waits() as found:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", UserWarning, stacklevel=1)
        warnings.warn("another", UserWarning, stacklevel=1)
    assert modes == ["warn", 0] and len(others) == 1
    assert [(wait.ours, wait.stack[0].split(":")[0]) for wait in found] == [(False, "test_training_step.py")] * 2
    assert found[0].op.startswith("warnings.warn(")
