"""The probe for entrances that a mask does not cover, on models worked by hand."""

from contextlib import contextmanager

import pytest
import torch

from dynamics.regularizers.probe import DROPPED, dependence_on_dropped


class Masked:
    """Logits from a table of one number a token; what is armed may be heeded."""

    def __init__(self, leak=0.0, at=None, nan=False, noise=0.0):
        self.leak, self.at, self.nan, self.noise = leak, at, nan, noise
        self.mask, self.seen = None, []

    @contextmanager
    def arm(self, mask):
        self.mask = mask
        yield
        self.mask = None

    def __call__(self, ids):
        assert self.mask is not None and not torch.is_grad_enabled()
        self.seen.append((ids.clone(), self.mask.clone()))
        kept = torch.where(self.mask, 0.0, ids.double())
        logits = kept[..., None].repeat(1, 1, 3)
        if self.at is not None:
            logits[:, self.at, 1] += self.leak * ids[:, self.at]
        logits[:, 0, 0] += self.noise * len(self.seen)
        logits[..., 2] = -torch.inf  # as where a vocabulary is padded
        if self.nan and len(self.seen) == 3:
            logits[:, 0, 0] = torch.nan
        return logits


@pytest.mark.parametrize("n_vocab", [8, 64, 50_000])
def test_the_texts_differ_in_the_dropped_tokens_alone(n_vocab):
    model = Masked()
    assert dependence_on_dropped(model, n_vocab, model.arm) == 0.0
    (first, mask), (repeated, _), (second, again) = model.seen
    assert torch.equal(first, repeated)
    assert torch.equal(mask, again) and mask[0].nonzero()[:, 0].tolist() == list(DROPPED)
    assert torch.equal(first != second, mask)
    assert first.dtype == torch.int64 and first.shape == (1, 12)
    assert min(first.min(), second.min()) >= n_vocab // 4 and max(first.max(), second.max()) < n_vocab // 2


def test_a_leak_is_as_large_as_it_is():
    model = Masked(leak=0.5, at=DROPPED[0])
    found = dependence_on_dropped(model, 64, model.arm)
    (first, _), _, (second, _) = model.seen
    assert found == 0.5 * abs(int(first[0, DROPPED[0]] - second[0, DROPPED[0]])) > 0


def test_a_number_against_nan_is_infinite():
    model = Masked(nan=True)
    assert dependence_on_dropped(model, 64, model.arm) == float("inf")


def test_noise_of_the_models_own_is_no_dependence():
    model = Masked(noise=0.01)
    assert dependence_on_dropped(model, 64, model.arm) == 0.0
    model = Masked(noise=0.01, leak=0.5, at=DROPPED[0])
    assert dependence_on_dropped(model, 64, model.arm) >= 0.5
