"""The step of the operator's cost at tiny sizes: who runs, and who does not, is in the record."""

import torch

from benchmarks import head
from benchmarks.gpu.protocol import Where
from benchmarks.gpu.steps import operator_cost

TINY = Where("cpu", tiny=True)
SIZE = "N = 96, H = 32, V = 512"


def test_every_competitor_is_in_the_record():
    found = operator_cost.run(TINY)
    rows = found.measured[SIZE]
    assert set(head.COMPETITORS) | set(head.RIVALS) | {"products", "fused, chunks of 2,048"} <= set(rows)
    for name in (*head.COMPETITORS, "fused, chunks of 8,192"):
        assert rows[name]["ms, median"] > 0 and rows[name]["over products"] > 0 and "not run" not in rows[name]
    assert "not run" in rows[operator_cost.NOT_TINY]
    assert {(check.met, check.target) for check in found.checks} == {(True, False), (None, True)}
    assert len(found.checks) == 3


def test_one_that_needs_too_much_is_told_and_the_rest_goes_on(monkeypatch):
    def greedy(*tensors):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5 GiB.\nmore")

    monkeypatch.setitem(head.COMPETITORS, "naive", greedy)
    monkeypatch.setattr(head, "RIVALS", {})
    rows = operator_cost.run(TINY).measured[SIZE]
    assert rows["naive"] == {"not run": "OutOfMemoryError: CUDA out of memory. Tried to allocate 5 GiB."}
    assert rows["plain"]["ms, median"] > 0


def test_an_operator_that_does_not_run_fails(monkeypatch):
    def wrong(*tensors):
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(head.COMPETITORS, "fused", wrong)
    monkeypatch.setattr(head, "RIVALS", {})
    monkeypatch.setattr(head, "fused", wrong)
    (check,) = operator_cost.run(TINY).checks
    assert check.met is False and check.value == "RuntimeError: no kernel image"


def test_nothing_is_begun_too_late(monkeypatch):
    monkeypatch.setattr(operator_cost, "ENOUGH_SECONDS", -1.0)
    rows = operator_cost.run(TINY).measured[SIZE]
    assert all("begun too late" in row["not run"] for name, row in rows.items() if name in head.COMPETITORS)


def test_rivals_that_do_not_run_say_why():
    asked = {"plain": head.plain, "nobody's": lambda *tensors: 1 / 0}
    found, not_run = head.that_run(asked, "cpu", torch.float32)
    assert found == {"plain": head.plain} and not_run == {"nobody's": "ZeroDivisionError: division by zero"}
