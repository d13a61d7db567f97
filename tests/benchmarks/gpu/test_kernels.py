"""The kernels' step passes at tiny sizes, and says so where something is wrong.

Its case for Triton's interpreter is left out here: what it imports would stay in this process.
"""

import math
from contextlib import nullcontext

import pytest
import torch

from benchmarks.gpu.protocol import Where
from benchmarks.gpu.steps import kernels

TINY = Where("cpu", tiny=True)


@pytest.fixture(autouse=True)
def _not_interpreted(monkeypatch):
    monkeypatch.setattr(kernels, "interpreter", lambda: nullcontext(False))


def broken(found):
    return {check.what.partition(":")[0] for check in found.checks if not check.met}


def test_it_passes():
    found = kernels.run(TINY)
    assert broken(found) == set() and len(found.checks) == 15
    assert set(kernels.ROW_CASES) <= set(found.measured["rows"])
    assert len(found.measured["not on a CPU"]) == 2


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda found: found._replace(entropy=found.entropy + 1e-2), {"operator, entropy"}),
        (lambda found: found._replace(total_loss=found.total_loss * 1.01), {
            "operator, total loss", "operator, gradient of hidden", "operator, gradient of weight",
            "operator, gradient of bias",
        }),
        (lambda found: found._replace(correct=~found.correct), {"operator, rows whose correctness is wrong"}),
    ],
)  # fmt: skip
def test_a_wrong_operator_is_seen(monkeypatch, change, wrong):
    right = kernels.linear_token_statistics
    monkeypatch.setattr(kernels, "linear_token_statistics", lambda *args, **options: change(right(*args, **options)))
    assert broken(kernels.run(TINY)) == wrong


def rounded(rows, u, y, options, gradient):
    return rows(u.bfloat16().float(), y, options, gradient=gradient)


def without_last(rows, u, y, options, gradient):
    found, grad = rows(u, y, options, gradient=gradient)
    grad[:, -1] = math.nan  # as it was before
    return found, grad


def blind_to_nan(rows, u, y, options, gradient):
    found, grad = rows(u.nan_to_num(nan=0.0, neginf=-math.inf), y, options, gradient=gradient)
    return found, grad


def last_of_equals(rows, u, y, options, gradient):
    found, grad = rows(u.clone(), y, options, gradient=gradient)
    last = u.shape[1] - 1 - u.flip(1).argmax(1)
    return found._replace(correct=last == y), grad


VALUES = {f"rows, {name}" for name in ("training_loss", "loss", "entropy", "logsumexp")}


@pytest.mark.parametrize(
    ("wrong_rows", "wrong"),
    [
        (rounded, VALUES | {"rows, gradient"}),
        (without_last, {"rows, gradient"}),
        (blind_to_nan, VALUES | {"rows, gradient"}),
        (last_of_equals, {"rows, rows whose correctness is wrong"}),
    ],
)
def test_wrong_rows_are_seen(monkeypatch, wrong_rows, wrong):
    right = kernels.direct_rows
    monkeypatch.setattr(
        kernels, "direct_rows", lambda u, y, options, gradient: wrong_rows(right, u, y, options, gradient)
    )
    monkeypatch.setattr(
        kernels, "HEAD_CASES", {name: kernels.HEAD_CASES[name] for name in list(kernels.HEAD_CASES)[:1]}
    )
    assert broken(kernels.run(TINY)) >= wrong


def test_what_is_written_beside_the_rows_is_seen(monkeypatch):
    def careless(u, y, options, gradient, *, by_triton):
        found, grad = kernels.direct_rows(u.clone(), y, options, gradient=gradient is not None)
        if gradient is not None:
            gradient.copy_(grad)
            whole = gradient.as_strided((len(u), gradient.stride(0)), (gradient.stride(0), 1))
            whole[:, u.shape[1] :] = 0
        return found

    monkeypatch.setattr(kernels, "row_values", careless)
    assert broken(kernels.run(TINY)) == {"rows, numbers written where nothing should be"}


def test_memory_is_poisoned():
    with kernels.route.poisoned():
        assert torch.empty(5).isnan().all() and torch.empty(5, dtype=torch.bool).all()
    assert torch.get_deterministic_debug_mode() == 0
