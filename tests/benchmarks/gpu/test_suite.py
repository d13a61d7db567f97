"""The step that runs tests/gpu counts what passes and fails, and is not fooled by nothing."""

import pytest

from benchmarks.gpu.protocol import Where
from benchmarks.gpu.steps import suite

TINY = Where("cpu", tiny=True)
GOOD = "def test_{}():\n    assert True\n"
BAD = "def test_wrong():\n    assert 1 == 2, 'one is not two'\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the step on a file of tests."""

    def run(content, device="cpu", tiny=True):
        (tmp_path / "test_it.py").write_text(content)
        monkeypatch.setattr(suite, "ROOT", tmp_path)
        monkeypatch.setattr(suite, "FAST", "test_it.py")
        monkeypatch.setattr(suite, "TESTS", "test_it.py")
        monkeypatch.setattr(suite, "LEAST_FAST", 3)
        return suite.run(Where(device, tiny=tiny))

    return run


def met(found):
    return [check.met for check in found.checks]


def test_what_passes_fails_and_is_skipped_is_counted(run):
    skipped = "import pytest\n\ndef test_it():\n    pytest.skip('no device')\n"
    found = run("".join(GOOD.format(i) for i in range(3)) + BAD + skipped)
    assert met(found) == [False, False, True] and found.measured["exit code"] == 1
    assert found.measured["passed"] == 3 and found.measured["failed"] == 1
    assert found.measured["failures"] == {"test_it::test_wrong": "AssertionError: one is not two"}
    assert found.measured["skipped"] == {"test_it::test_it": "no device"}
    assert "1 failed" in found.measured["last lines"][-1]


def test_a_device_is_required_where_one_was_promised(run, monkeypatch):
    monkeypatch.setattr(suite, "LEAST", 1)
    told = "import os\n\ndef test_it():\n    assert os.environ['DYNAMICS_GPU'] == 'required'\n"
    found = run(told, device="cuda", tiny=False)
    assert met(found) == [True, True, True] and found.measured["ran"] == "test_it.py"


def test_too_few_that_pass_fail(run):
    assert met(run("import nothing_of_that_name\n")) == [False, False, False]


def test_what_is_interrupted_tells_what_it_has_done(run):
    stops = "import os, signal\n\ndef test_two():\n    os.kill(os.getpid(), signal.SIGINT)\n"
    found = run(GOOD.format("one") + stops + BAD)
    assert met(found) == [False, True, False] and found.measured["passed"] == 1


def test_what_takes_too_long_is_interrupted(run, monkeypatch):
    monkeypatch.setattr(suite, "SECONDS", 0.0)
    assert met(run(GOOD.format("one"))) == [False, True, False]
