"""The whole script at tiny sizes, once: every step runs, its claims hold, and it tells what it should."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page
from benchmarks.gpu.plan import STEPS
from benchmarks.gpu.protocol import Where
from benchmarks.gpu.steps import doors, large_model

ROOT = Path(__file__).parents[3]


def test_every_step_runs_and_its_claims_hold(tmp_path):
    path = tmp_path / "gpu.json"
    # A machine that tests run on may be busy with others.
    given = ["--device", "cpu", "--tiny", "--minutes", "20", "--output", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *given], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    result = json.loads(path.read_text())
    assert set(result["steps"]) == {step.name for step in STEPS}
    measured = {name: entry["measured"] for name, entry in result["steps"].items()}
    checks = {name: entry["checks"] for name, entry in result["steps"].items()}
    for name, told in checks.items():
        assert len({check["what"] for check in told}) == len(told), f"{name}: two checks claim the same"
        assert all(check["met"] is (None if check["target"] else True) for check in told), name
    _doors(measured["doors"])
    assert measured["compiled"]["graphs"] >= 2  # the decoder's, for measuring and for training
    _recording_pass(measured["recording_pass"], checks["recording_pass"])
    _large_model(measured["large_model"])
    # A CPU cannot be asked everything; what it was not asked is said.
    assert measured["environment"]["not on a CPU"] and measured["packaged_study"]["not shown where tiny"]
    text = page.results_section({"gpu-cpu.json": result})
    assert all(f"### {step.name}\n" in text for step in STEPS) and "does not hold" not in text


def _doors(measured):
    assert list(measured) == list(doors.DOORS) and len(measured) == 7
    # One pass a step, and none by whole logits; but for those whose loss is their own.
    assert measured["DynamicsTrainer"]["passes fused"]["training"] == doors.TINY.steps
    assert measured["DynamicsTrainer"]["passes with whole logits"] == {}
    assert measured["attach"]["passes fused"].keys() == {"measuring"}
    assert measured["attach"]["passes with whole logits"] == {"training": doors.TINY.steps}


def _recording_pass(measured, checks):
    assert measured["tokens"] == 16 * 32
    (ratio,) = [check for check in checks if check["target"]]
    assert ratio["value"] == measured["recording over bare pass"]["median"]
    # The parts are a recording's own, and a bare pass is none.
    assert measured["recording: computing, s"] > 0 and measured["recording: files, s"] > 0
    assert measured["recording: bytes written"] > 2 * 2 * 16 * 31  # two half-precision numbers a predicted token


def _large_model(measured):
    assert measured["by sequences a step"].keys() == {"2"}
    for kind in (large_model.PLAIN, large_model.OURS):
        told = measured["by sequences a step"]["2"][kind]
        assert told["loss, nats"] == pytest.approx(math.log(512), abs=0.1)  # random weights
        assert measured[f"{kind}: most sequences a step"] == 2


def test_without_a_device_it_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("torch sees no CUDA device here (") and "--device cpu --tiny" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--device", "cpu"], "add --tiny"),
        (["--only", "nonsense"], "nonsense"),
        (["--minutes", "nan"], "--minutes is nan: give a positive number"),
        (["--minutes", "-1"], "--minutes is -1: give a positive number"),
        (["--output", "/"], "--output / is a folder"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(capsys, given, said):
    with pytest.raises(SystemExit):
        command.arguments(given)
    assert said in capsys.readouterr().err


def test_the_result_of_a_device_bears_its_name():
    full, tiny = Where("cuda", tiny=False), Where("cpu", tiny=True)
    assert command.default_path(full, "NVIDIA H100 80GB HBM3").name == "gpu-nvidia-h100-80gb-hbm3.json"
    assert command.default_path(full, "x").parent.name == "results"
    assert command.default_path(tiny, "cpu").parent.name == "benchmarks"
