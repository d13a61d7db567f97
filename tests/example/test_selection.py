"""What selection on outcomes comes to in the packaged example: the numbers of docs/analysis.md, from the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynamics import load_example
from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.analysis.estimands.trajectory_shares import cartography, class_shares
from dynamics.analysis.tokens.buckets import make_buckets, moving_buckets
from dynamics.analysis.tokens.signals import own_signal
from dynamics.analysis.tokens.trajectories import CLASSES
from dynamics.records.reader import Study

Array = np.ndarray[Any, Any]
PAIRS = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


@pytest.fixture(scope="module")
def example() -> Study:
    return load_example()


def recorded(example: Study, arm: str, value: str = "loss") -> Array:
    """Values of the predicted validation tokens in float64: shape (seed, epoch, token)."""
    parts = []
    for seed in example.seeds:
        records = example.run(arm, seed).records("validation")
        epochs = example.run(arm, seed).epochs
        parts.append([records.stored(value, epoch)[records.predicted].astype(float) for epoch in epochs])
    return np.array(parts)


def rebounding(losses: Array) -> Array:
    """Which tokens rebound, from losses of shape (epoch, token)."""
    lowest = losses.min(axis=0)
    found: Array = (losses[0] - lowest > 0.2) & (losses[-1] - lowest > 0.2)
    return found


def rises(losses: Array, lowest: Array) -> Array:
    """The rise of every token from an epoch of its own to the last."""
    found: Array = losses[-1] - np.take_along_axis(losses, lowest[None], axis=0)[0]
    return found


@pytest.mark.parametrize(
    ("arm", "share", "rise", "elsewhere", "confirmed"),
    [("baseline", 0.400, 1.241, 0.546, 0.662), ("entrodrop", 0.390, 0.979, 0.302, 0.643)],
)
def test_more_than_half_of_the_rise_is_the_winners_curse(
    example: Study, arm: str, share: float, rise: float, elsewhere: float, confirmed: float
) -> None:
    losses = recorded(example, arm)
    chosen, lowest = [rebounding(of) for of in losses], losses.argmin(axis=1)
    n = sum(mine.sum() for mine in chosen)
    by_hand = (
        n / losses[:, 0].size,
        sum(rises(losses[s], lowest[s])[mine].sum() for s, mine in enumerate(chosen)) / n,
        sum(rises(losses[o], lowest[s])[chosen[s]].sum() for s, o in PAIRS) / 2 / n,
        sum((chosen[s] & chosen[o]).sum() for s, o in PAIRS) / 2 / n,
    )
    assert by_hand == pytest.approx((share, rise, elsewhere, confirmed), abs=5e-4)
    (found,) = [row for row in class_shares(example) if row.arm == arm]
    at = 0, CLASSES.index("rebounding")
    ours = found.share, found.change, found.change_elsewhere, found.confirmed
    np.testing.assert_allclose([of.estimate[at] for of in ours], by_hand, rtol=1e-6)
    assert found.by_chance[at] == pytest.approx(share, abs=5e-4)
    # The curse is no accident of these documents.
    assert found.change_elsewhere.high[at] < 0.6 * found.change.low[at]


def test_choosing_by_every_other_epoch_leaves_some_of_it(example: Study) -> None:
    losses, even, odd = recorded(example, "baseline"), [0, 2, 4, 6], [1, 3, 5, 7]
    chosen = [rebounding(of[even]) for of in losses]
    lowest = [of[even].argmin(axis=0) for of in losses]
    same = [(s, s) for s in range(3)]
    means = [
        np.mean([rises(losses[o][epochs], lowest[s])[chosen[s]].mean() for s, o in pairs])
        for epochs in (even, odd)
        for pairs in (same, PAIRS)
    ]
    # The epochs that chose in the same seed and in the others; then the epoch after each of them, likewise.
    assert means == pytest.approx([1.058, 0.455, 0.547, 0.405], abs=5e-4)


def halves(signal: Array, losses: Array) -> Array:
    """The rebounds of the tokens below and above the median of a signal, from losses (epoch, token)."""
    high = signal >= np.median(signal)
    curves = np.stack([losses[:, ~high].mean(axis=1), losses[:, high].mean(axis=1)])
    found: Array = curves[:, -1] - curves.min(axis=1)
    return found


def test_halves_by_losses_regress_and_those_by_reference_entropy_do_not(example: Study) -> None:
    losses = recorded(example, "baseline")
    records = example.run("baseline", 0).records("validation")
    mean = losses.mean(axis=0)
    by_entropy = halves(records.reference_entropy[records.predicted], mean)
    by_loss = halves(records.reference_loss[records.predicted], mean)
    own = np.mean([halves(of[-1], of) for of in losses], axis=0)
    other = np.mean([halves(losses[s][-1], losses[o]) for s, o in PAIRS], axis=0)
    assert by_entropy == pytest.approx([0.226, 0.229], abs=5e-4)
    assert by_loss == pytest.approx([0.201, 0.269], abs=5e-4)
    assert own == pytest.approx([0.008, 1.220], abs=5e-4)
    assert other == pytest.approx([0.046, 1.037], abs=5e-4)
    # The low half of the reference loss has its best epoch before training: the first one makes it worse.
    low = records.reference_loss[records.predicted] < np.median(records.reference_loss[records.predicted])
    curve = mean[:, low].mean(axis=1)
    assert curve.argmin() == 0 and curve[:2] == pytest.approx([2.183, 2.294], abs=5e-4)


def test_the_most_certain_decile_of_current_entropy(example: Study) -> None:
    losses, entropies = recorded(example, "baseline"), recorded(example, "baseline", "entropy")

    def lowest_decile(entropy: Array, loss: Array) -> float:
        curve = [of[h < np.quantile(h, 0.1)].mean() for h, of in zip(entropy, loss, strict=True)]
        return float(curve[-1] - min(curve))

    own = np.mean([lowest_decile(entropies[s], losses[s]) for s in range(3)])
    other = np.mean([lowest_decile(entropies[s], losses[o]) for s, o in PAIRS])
    assert (own, other) == pytest.approx((0.469, 0.385), abs=0.02)


def test_comparing_such_halves_warns(example: Study) -> None:
    run = example.run("baseline", 0)
    train = run.records("train")
    losses = {split: run.records(split).loss(7) for split in ("train", "validation")}
    for buckets in (
        make_buckets(train, "reference_loss", n=2),
        make_buckets(train, own_signal("loss at the end", losses), n=2),
        moving_buckets(2, value="loss"),
    ):
        with pytest.warns(UserWarning, match=f"buckets by {buckets.by} are chosen by the outcome") as caught:
            bucket_dynamics(run, buckets=buckets)
        assert len(caught) == 1
    entropies = {split: run.records(split).entropy(7) for split in ("train", "validation")}
    bucket_dynamics(run, buckets=make_buckets(train, own_signal("entropy at the end", entropies), n=2))


def test_how_far_seeds_agree_on_the_map(example: Study) -> None:
    maps = cartography(example)
    assert [each.confidence_agreement for each in maps] == pytest.approx([0.967] * 5, abs=2e-3)
    assert min(each.variability_agreement for each in maps) == pytest.approx(0.817, abs=5e-4)
    assert max(each.variability_agreement for each in maps) == pytest.approx(0.833, abs=5e-4)
