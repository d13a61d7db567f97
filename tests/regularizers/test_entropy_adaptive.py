"""Entropy-adaptive weighting: entropies worked by hand, the three divisors, and what becomes of a confident conflict."""

import math

import pytest
import torch
from support.models import build
from torch import nn

from dynamics.errors import InputError
from dynamics.ops.token_statistics import token_statistics, weighted_loss
from dynamics.regularizers.entropy_adaptive import EntropyAdaptiveWeighting, top_entropy

LN2, LN3 = math.log(2.0), math.log(3.0)
# Row 1: 1/2, 1/4, 1/8, 1/8. H = (1/2 + 2/4 + 3/8 + 3/8) ln 2 = 1.75 ln 2. Its top 2 become 2/3 and 1/3:
# H = 2/3 (ln 3 - ln 2) + 1/3 ln 3 = ln 3 - 2/3 ln 2 = 0.63651.
# Row 2: uniform over 4: H = ln 4; its top 2 are 1/2 each: H = ln 2.
# Row 3: certain. H = 0.
P = torch.tensor([[0.125, 0.5, 0.25, 0.125], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]])
TOP2 = [LN3 - 2 / 3 * LN2, LN2, 0.0]
EXACT = [1.75 * LN2, 2 * LN2, 0.0]


def weights(logits, **settings):
    method = EntropyAdaptiveWeighting(**settings)
    found = token_statistics(logits, torch.zeros(len(logits), dtype=torch.int64))
    given = logits if method.needs_logits else None
    method.attach(nn.Module(), nn.Embedding(logits.shape[1], 1))
    return method.adaptive_weight(found.loss, found.entropy, torch.ones(len(logits), dtype=torch.bool), given)


def test_entropy_of_the_most_probable_tokens():
    assert top_entropy(P.log(), 2).tolist() == pytest.approx(TOP2, abs=1e-6)
    assert top_entropy(P.log(), 4).tolist() == pytest.approx(EXACT, abs=1e-6)
    assert top_entropy(P.log() + 7.0, 2).tolist() == pytest.approx(TOP2, abs=1e-6)  # logits, not log-probabilities
    assert top_entropy(P.log().bfloat16(), 2).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"normalize": "paper"}, [h / LN2 for h in TOP2]),  # 0.91830, 1, 0
        ({"normalize": "llama_factory"}, [h / 3 for h in TOP2]),
        ({"normalize": "axolotl"}, TOP2),
        ({"normalize": "axolotl", "alpha": 2.0}, [h * h for h in TOP2]),
        ({"alpha": 0.5}, [(h / LN2) ** 0.5 for h in TOP2]),
    ],
    ids=str,
)
def test_weights_by_hand(settings, expected):
    got = weights(P.log(), top_k=2, **settings)
    assert got.dtype == torch.float32 and got.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_whole_vocabulary_and_its_logarithm():
    assert weights(P.log(), top_k=None).tolist() == pytest.approx([0.875, 1.0, 0.0], abs=1e-6)
    # A vocabulary below K is all there is.
    assert weights(P.log(), top_k=20).tolist() == pytest.approx([0.875, 1.0, 0.0], abs=1e-6)
    assert weights(P.log(), top_k=None, normalize="axolotl").tolist() == pytest.approx(EXACT, abs=1e-6)


def test_defaults_are_the_papers():
    z = torch.zeros(1, 50)
    z[0, :20] = 10.0
    assert weights(z).item() == pytest.approx(1.0, abs=1e-6)
    assert weights(z, normalize="llama_factory").item() == pytest.approx(math.log(20) / 3, abs=1e-6)  # 0.99858
    assert weights(z, normalize="axolotl").item() == pytest.approx(2.995732, abs=1e-5)


def test_nearly_certain_predictions_have_weights_that_are_numbers():
    z = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    z[:, 0] += 60.0
    for dtype in (torch.float32, torch.bfloat16):
        got = weights(z.to(dtype), alpha=0.5)
        assert torch.isfinite(got).all() and (got >= 0).all()


def test_a_confident_conflict_loses_its_gradient_and_an_uncertain_token_keeps_it():
    z = torch.tensor([[8.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]], requires_grad=True)
    y = torch.tensor([1, 1])
    weight = weights(z.detach(), top_k=None)
    plain, weighted = (
        torch.autograd.grad(weighted_loss(z, y, token_weight=w), z)[0].norm(dim=1) for w in (None, weight)
    )
    assert plain[0] > plain[1]
    assert weighted[0] < 0.01 * plain[0] and weighted[1] > 0.99 * plain[1]


def test_each_token_stands_alone():
    z = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    parts = torch.cat([weights(part) for part in z.split([1, 12, 17])])
    torch.testing.assert_close(parts, weights(z), rtol=0, atol=1e-7)


def test_it_says_where_it_acts():
    method = EntropyAdaptiveWeighting()
    assert method.adapts and method.acts_on == ("token losses",) and not method.normalizes_by_kept
    assert method.dropped(None) is None and method.ratio(0.5) is None and method.token_weight(None) is None
    assert method.state() == {} and tuple(method.attach(None)) == ()
    assert method.needs_logits and not EntropyAdaptiveWeighting(top_k=None).needs_logits


def test_the_vocabulary_is_that_of_the_head():
    method = EntropyAdaptiveWeighting(top_k=None)
    entropy, kept = torch.tensor([math.log(8.0), torch.nan, -1e-7]), torch.tensor([True, False, True])
    with pytest.raises(InputError, match="give its input embedding to attach"):
        method.adaptive_weight(entropy, entropy, kept)
    method.attach(build())  # 64 entries
    got = method.adaptive_weight(entropy, entropy, kept)
    assert got[0].item() == pytest.approx(0.5) and got[2] == 0.0
    plain = EntropyAdaptiveWeighting(top_k=None, normalize="axolotl")
    assert plain.adaptive_weight(entropy, entropy, kept)[0].item() == pytest.approx(math.log(8.0))


@pytest.mark.parametrize(
    "bad",
    [{"top_k": 1}, {"top_k": 2.5}, {"alpha": 0.0}, {"alpha": float("nan")}, {"normalize": "all"}, {"k": 20}],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match=f"^EntropyAdaptiveWeighting: {next(iter(bad))}"):
        EntropyAdaptiveWeighting(**bad)
