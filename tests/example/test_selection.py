"""What selection on outcomes comes to in the packaged example: docs/analysis.md says what the definitions give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.prose import percent, says

from dynamics import load_example
from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.analysis.estimands.trajectory_shares import ClassShares, cartography, class_shares
from dynamics.analysis.tokens.buckets import make_buckets, moving_buckets
from dynamics.analysis.tokens.signals import SURPRISE, own_signal
from dynamics.analysis.tokens.trajectories import CLASSES
from dynamics.records.reader import Study

Array = np.ndarray[Any, Any]
PAGE = "docs/analysis.md"
PAIRS = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


@pytest.fixture(scope="module")
def example() -> Study:
    return load_example()


@pytest.fixture(scope="module")
def classes(example: Study) -> dict[str, ClassShares]:
    return {row.arm: row for row in class_shares(example)}


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


NAMES = {"baseline": "baseline", "entrodrop": "EntroDrop", "random": "random"}


@pytest.mark.parametrize("arm", NAMES)
def test_part_of_the_rise_is_the_winners_curse(example: Study, classes: dict[str, ClassShares], arm: str) -> None:
    losses = recorded(example, arm)
    chosen, lowest = [rebounding(of) for of in losses], losses.argmin(axis=1)
    n = sum(mine.sum() for mine in chosen)
    by_hand = (
        n / losses[:, 0].size,
        sum(rises(losses[s], lowest[s])[mine].sum() for s, mine in enumerate(chosen)) / n,
        sum(rises(losses[o], lowest[s])[chosen[s]].sum() for s, o in PAIRS) / 2 / n,
        sum((chosen[s] & chosen[o]).sum() for s, o in PAIRS) / 2 / n,
    )
    found = classes[arm]
    at = 0, CLASSES.index("rebounding")
    ours = found.share, found.change, found.change_elsewhere, found.confirmed
    np.testing.assert_allclose([of.estimate[at] for of in ours], by_hand, rtol=1e-6)
    share, rise, elsewhere, confirmed = by_hand
    chance = found.by_chance[at]
    assert chance == pytest.approx(share, abs=0.01)
    shares = " | ".join(percent(of) for of in (share, confirmed, chance))
    says(PAGE, f"| {NAMES[arm]} | {shares} | {rise:.3f} | {elsewhere:.3f} |")
    assert elsewhere < rise


def test_how_much_of_the_rise_is_the_curse(classes: dict[str, ClassShares]) -> None:
    at = 0, CLASSES.index("rebounding")
    curse = {
        arm: 100 * (1 - row.change_elsewhere.estimate[at] / row.change.estimate[at]) for arm, row in classes.items()
    }
    says(PAGE, f"{curse['baseline']:.0f} % of the baseline's rise, and {curse['entrodrop']:.0f} % of EntroDrop's.")


def test_what_the_page_says_of_flat_classes(classes: dict[str, ClassShares]) -> None:
    found = classes["baseline"]
    at = 0, CLASSES.index("high to high")
    least = min(found.confirmed.estimate[0])
    assert found.confirmed.estimate[at] == least
    said = f"{percent(least)} of the baseline's *high to high* tokens are so in another seed"
    says(PAGE, f"{said}, where their line rises by {found.change_elsewhere.estimate[at]:.2f} nats")


def test_choosing_by_every_other_epoch_leaves_some_of_it(example: Study) -> None:
    losses, even, odd = recorded(example, "baseline"), [0, 2, 4], [1, 3, 5]
    chosen = [rebounding(of[even]) for of in losses]
    lowest = [of[even].argmin(axis=0) for of in losses]
    same = [(s, s) for s in range(3)]
    # The epochs that chose, then the epoch after each of them, in the same seed and in the others.
    there, _, after, after_elsewhere = [
        np.mean([rises(losses[o][epochs], lowest[s])[chosen[s]].mean() for s, o in pairs])
        for epochs in (even, odd)
        for pairs in (same, PAIRS)
    ]
    assert there > after > after_elsewhere
    says(
        PAGE,
        f"of baseline tokens chosen by epochs 0, 2 and 4, which rise by {there:.3f} nats there, the rise from the epoch "
        f"after the lowest to epoch 5 is {after:.3f} in the same seed and {after_elsewhere:.3f} in the others",
    )


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
    rebounds = {
        "reference entropy": halves(records.reference_entropy[records.predicted], mean),
        "reference loss": halves(records.reference_loss[records.predicted], mean),
        "a seed's own loss at the last epoch": np.mean([halves(of[-1], of) for of in losses], axis=0),
        "another seed's loss at the last epoch": np.mean([halves(losses[s][-1], losses[o]) for s, o in PAIRS], axis=0),
    }
    for by, (low, high) in rebounds.items():
        says(PAGE, f"| {by} | {low:.3f} | {high:.3f} |")
    apart = {by: high - low for by, (low, high) in rebounds.items()}
    assert min(apart, key=apart.get) == "reference entropy"
    assert apart["another seed's loss at the last epoch"] > 0.9 * apart["a seed's own loss at the last epoch"]


def test_the_most_certain_decile_of_current_entropy(example: Study) -> None:
    losses, entropies = recorded(example, "baseline"), recorded(example, "baseline", "entropy")

    def lowest_decile(entropy: Array, loss: Array) -> float:
        curve = [of[h < np.quantile(h, 0.1)].mean() for h, of in zip(entropy, loss, strict=True)]
        return float(curve[-1] - min(curve))

    own = np.mean([lowest_decile(entropies[s], losses[s]) for s in range(3)])
    other = np.mean([lowest_decile(entropies[s], losses[o]) for s, o in PAIRS])
    says(
        PAGE,
        f"The lowest decile rebounds by {own:.3f} nats by a seed's own current entropy, by {other:.3f} by that of the "
        "other seeds",
    )


def test_comparing_such_halves_warns(example: Study) -> None:
    run = example.run("baseline", 0)
    train, last = run.records("train"), run.epochs[-1]
    losses = {split: run.records(split).loss(last) for split in ("train", "validation")}
    for buckets in (
        make_buckets(train, "reference_loss", n=2),
        make_buckets(train, own_signal("loss at the end", losses), n=2),
        moving_buckets(2, value="loss"),
    ):
        with pytest.warns(UserWarning, match=f"buckets by {buckets.by} are chosen by the outcome") as caught:
            bucket_dynamics(run, buckets=buckets)
        assert len(caught) == 1
    entropies = {split: run.records(split).entropy(last) for split in ("train", "validation")}
    bucket_dynamics(run, buckets=make_buckets(train, own_signal("entropy at the end", entropies), n=2))


def test_what_goes_with_surprise(example: Study) -> None:
    """What the limit of 0.6 lies between: Pearson's correlations with surprise before and after training."""
    losses, entropies = recorded(example, "baseline"), recorded(example, "baseline", "entropy")
    records = example.run("baseline", 0).records("validation")
    ids = records.token_id[records.predicted]
    frequency = np.log(np.bincount(ids)[ids])

    def most(values: Array, seed: int) -> float:
        ends = [losses[seed, end] - entropies[seed, end] for end in (0, -1)]
        return max(abs(float(np.corrcoef(values, surprise)[0, 1])) for surprise in ends)

    of_losses = [most(of, seed) for seed in range(3) for of in losses[seed]]
    of_rises = min(most(losses[seed, -1] - losses[seed].min(axis=0), seed) for seed in range(3))
    of_frequency = max(most(frequency, seed) for seed in range(3))
    of_entropies = max(most(of, seed) for seed in range(3) for of in entropies[seed])
    says(
        PAGE,
        f"(in the example losses of any epoch have {min(of_losses):.2f} to {max(of_losses):.2f}, rises {of_rises:.2f} "
        f"at least, log frequencies {of_frequency:.2f}, entropies {of_entropies:.2f} at most)",
    )
    assert max(of_frequency, of_entropies) < SURPRISE


def test_how_far_seeds_agree_on_the_map(example: Study) -> None:
    maps = cartography(example)
    confidence = [each.confidence_agreement for each in maps]
    variability = [each.variability_agreement for each in maps]
    says(
        PAGE,
        f"a training token's confidence correlates with that in another seed by {min(confidence):.2f} to "
        f"{max(confidence):.2f}, its variability by {min(variability):.2f} to {max(variability):.2f}",
    )
