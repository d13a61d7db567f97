"""Steps in processes of their own: what fails, hangs or dies is recorded, and the next goes on."""

import dataclasses
import json
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.gpu import runner
from benchmarks.gpu.plan import Step
from benchmarks.gpu.protocol import Where, at_most, holds, speed
from dynamics.errors import InputError

TINY = Where("cpu", tiny=True)
START = '"""One step."""\nfrom benchmarks.gpu.protocol import Found, at_most, holds\n'


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Give a function that makes a step of the body of its `run`."""
    package = tmp_path / "invented_steps"
    package.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def make(name: str, body: str, limit_s: float = 30.0) -> Step:
        source = f"{START}def run(where):\n{textwrap.indent(body, '    ')}\n"
        (package / f"{name}.py").write_text(source)
        return Step(name, limit_s, package=package.name)

    return make


def good(steps, name="good"):
    return steps(name, 'return Found({"rows": 3}, [at_most("error", 0.5, 1.0)])')


def test_each_way_to_fail_is_recorded_and_the_next_step_goes_on(steps, tmp_path):
    path = tmp_path / "result.json"
    made = [
        steps("raises", 'raise ValueError("the kernel is wrong")'),
        steps("dies", "import os\nos.abort()"),
        steps("hangs", "import time\ntime.sleep(60)", limit_s=1.0),
        steps("false", 'return Found({}, [at_most("error", 2.0, 1.0), holds("it is so", True)])'),
        good(steps),
    ]
    result = runner.run_steps(made, TINY, path, seconds=60)
    assert {name: entry["status"] for name, entry in result["steps"].items()} == {
        **{"raises": "failed", "dies": "failed", "hangs": "timed out", "false": "failed", "good": "passed"}
    }
    assert "the kernel is wrong" in result["steps"]["raises"]["told"]
    assert result["steps"]["dies"]["exit status"] == -signal.SIGABRT
    assert result["steps"]["good"]["measured"] == {"rows": 3}
    assert result["steps"]["good"]["what"] == "One step."
    assert json.loads(path.read_text()) == result


def test_neighbours_that_measure_no_time_run_side_by_side(steps, tmp_path):
    # Each ends when the other has begun.
    body = """
import pathlib, time
pathlib.Path({mine!r}).touch()
while not pathlib.Path({other!r}).exists():
    time.sleep(0.01)
return Found({{}}, [])
"""
    names = {"one": "two", "two": "one"}
    made = [
        dataclasses.replace(steps(a, body.format(mine=str(tmp_path / a), other=str(tmp_path / b))), times=False)
        for a, b in names.items()
    ]
    alone = good(steps)
    assert runner.side_by_side([alone, *made, alone, made[0]]) == [[alone], made, [alone], [made[0]]]
    result = runner.run_steps([*made, alone], TINY, tmp_path / "result.json", seconds=60)
    assert {entry["status"] for entry in result["steps"].values()} == {"passed"}
    assert list(result["steps"])[2] == "good"


def test_what_a_step_found_before_it_was_ended_is_kept(steps, tmp_path):
    body = 'where.keep(Found({"rows": 3}, [at_most("error", 0.5, 1.0)]))\nimport time\ntime.sleep(60)'
    result = runner.run_steps([steps("hangs", body, limit_s=3.0)], TINY, tmp_path / "result.json", seconds=60)
    entry = result["steps"]["hangs"]
    assert entry["status"] == "timed out" and entry["measured"] == {"rows": 3} and entry["checks"][0]["met"] is True


def test_the_file_is_whole_after_every_step(steps, tmp_path, monkeypatch):
    path, seen = tmp_path / "result.json", []
    write = runner.write_whole
    monkeypatch.setattr(
        runner, "write_whole", lambda *given: (write(*given), seen.append(json.loads(path.read_text())))
    )
    runner.run_steps([good(steps, "one"), good(steps, "two")], TINY, path, seconds=60)
    assert [list(one["steps"]) for one in seen] == [["one"], ["one", "two"]]


def test_what_a_step_starts_ends_with_it(steps, tmp_path):
    pid = tmp_path / "pid"
    body = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "60"])
open({str(pid)!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    runner.run_steps([steps("parent", body, limit_s=3.0)], TINY, tmp_path / "result.json", seconds=60)
    status = Path(f"/proc/{pid.read_text()}/stat")
    for _ in range(50):
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")


def test_what_has_no_time_left_is_said_not_to_have_run(steps, tmp_path):
    result = runner.run_steps([good(steps, "one"), good(steps, "two")], TINY, tmp_path / "result.json", seconds=1.0)
    assert [entry["status"] for entry in result["steps"].values()] == ["not run", "not run"]


def test_other_steps_are_kept_unless_the_machine_is_another(steps, tmp_path):
    path = tmp_path / "result.json"
    environment = steps("environment", 'return Found({"torch": "2.13", "load": 0.1}, [])')
    runner.run_steps([environment, good(steps)], TINY, path, seconds=60)
    environment = steps("environment", 'return Found({"torch": "2.13", "load": 7.0}, [])')
    assert set(runner.run_steps([environment], TINY, path, seconds=60)["steps"]) == {"environment", "good"}
    environment = steps("environment", 'return Found({"torch": "2.14", "load": 0.1}, [])')
    assert set(runner.run_steps([environment], TINY, path, seconds=60)["steps"]) == {"environment"}


@pytest.mark.parametrize("content", ['{"x":', "[1]", '{"steps": {}}', '{"format": 1, "steps": 3}'])
def test_what_is_no_result_is_left_alone(steps, tmp_path, content):
    path = tmp_path / "notes.json"
    path.write_text(content)
    with pytest.raises(InputError, match="notes.json is no result .*give another --output"):
        runner.run_steps([good(steps)], TINY, path, seconds=60)
    assert path.read_text() == content


def test_speeds_are_not_judged_at_tiny_sizes_and_nan_never_holds():
    assert speed("ratio", 9.0, 1.0, TINY).met is None
    assert speed("ratio", 9.0, 1.0, Where("cuda", tiny=False)).met is False
    assert speed("ratio", float("nan"), 1.0, Where("cuda", tiny=False)).met is False
    assert at_most("error", float("nan"), 1.0).met is False
    assert holds("route", "fused", met=False).met is False


def test_a_missed_target_is_told_and_is_no_failure(steps, tmp_path):
    body = 'from benchmarks.gpu.protocol import Check\nreturn Found({}, [Check("ratio", 1.5, 1.3, False, target=True)])'
    result = runner.run_steps([steps("slow", body)], TINY, tmp_path / "result.json", seconds=60)
    entry = result["steps"]["slow"]
    assert entry["status"] == "passed"
    assert "missed: ratio: 1.5 (at most 1.3)" in runner.line("slow", entry)
