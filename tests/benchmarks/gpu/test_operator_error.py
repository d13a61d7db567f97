"""The step of the operator's error passes at tiny sizes, and fails where logits are rounded."""

import torch
import torch.nn.functional as F

from benchmarks.gpu.protocol import Where
from benchmarks.gpu.steps import operator_error
from dynamics.ops import LinearTokenStatistics, token_statistics

TINY = Where("cpu", tiny=True)


def test_it_passes():
    found = operator_error.run(TINY)
    assert len(found.checks) == 8 and all(check.met for check in found.checks)
    for size in ("N = 96, H = 32, V = 1,000", "N = 96, H = 128, V = 1,000"):
        naive, ours = found.measured[size]["logits in bfloat16"], found.measured[size]["operator"]
        assert naive["loss, nats"]["p99"] > 10 * operator_error.LIMIT_NATS > 10 * ours["loss, nats"]["p99"]
        assert ours["share of argmaxes changed"] == 0
        assert 0.5 < found.measured["mean loss, nats"][size] < 8


def test_rounded_logits_fail(monkeypatch):
    def rounded(hidden, weight, targets):
        logits = F.linear(hidden, weight).float()
        loss, entropy, correct = token_statistics.token_statistics(logits, targets)
        return LinearTokenStatistics(
            F.cross_entropy(logits, targets), loss, entropy, correct, torch.logsumexp(logits, -1)
        )

    monkeypatch.setattr(operator_error, "linear_token_statistics", rounded)
    found = operator_error.run(TINY)
    assert not any(check.met for check in found.checks)


def test_a_wrong_gradient_fails(monkeypatch):
    right = operator_error.linear_token_statistics

    def wrong(hidden, weight, targets):
        return right(hidden, weight.detach() + 0.01 * weight, targets)

    monkeypatch.setattr(operator_error, "linear_token_statistics", wrong)
    failed = {check.what for check in operator_error.run(TINY).checks if not check.met}
    assert any("gradient of weight" in what for what in failed)
