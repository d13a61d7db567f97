from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.trajectory_shares import cartography, class_shares
from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.tokens.buckets import Buckets, make_buckets, moving_buckets
from dynamics.analysis.tokens.signals import own_signal
from dynamics.analysis.tokens.trajectories import CLASSES, token_trajectories
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The planted curves of the synthetic records: low tokens fall, high ones rebound on validation from epoch 2."""
    return open_study(make_study(tmp_path_factory.mktemp("maps") / "study", n_documents=120, epochs=4))


def test_shares_of_planted_classes(study: Study) -> None:
    modes = make_buckets(study.run("baseline", 0).records("train"), edges=[2.0])
    baseline, _ = class_shares(study, buckets=modes)
    assert baseline.classes == CLASSES
    np.testing.assert_allclose(baseline.share.estimate.sum(axis=1), 1.0)
    # High-entropy validation tokens fall by 0.5 and rise by 0.5 again.
    np.testing.assert_allclose(baseline.share.estimate[1], [0, 0, 0, 0, 1])
    # Low-entropy ones fall to a sixteenth, from 0.1 to 1: the line by 0.206 or more where they begin above 0.24 or so.
    assert baseline.share.estimate[0, 0] == pytest.approx(1 - (0.2232 - 0.1) / 0.9, abs=0.05)
    assert baseline.share.estimate[0, 4] == 0
    train, _ = class_shares(study, split="train", buckets=modes)
    assert train.share.estimate[0, CLASSES.index("rebounding")] == 0


def test_classes_are_counted_token_by_token(study: Study) -> None:
    with pytest.warns(UserWarning, match="are not validated"):
        (arm,) = class_shares(study.run("entrodrop", 1), level=1.0)
    records = study.run("entrodrop", 1).records("validation")
    kind = token_trajectories(records, level=1.0).kind[records.predicted]
    np.testing.assert_allclose(arm.share.estimate[0], np.bincount(kind, minlength=5) / len(kind))
    with pytest.raises(InputError, match="crosses moving buckets"):
        class_shares(study, buckets=moving_buckets(2))


def noisy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """A loss that is flat in truth: every seed and epoch draws its noise anew."""
    return np.asarray(3.0 + entropy / 4 + rng.normal(0.0, 0.5, entropy.shape))


@pytest.fixture(scope="module")
def luck(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three seeds of an arm in which nothing happens."""
    path = tmp_path_factory.mktemp("luck") / "study"
    # In float16 lines may change by 0.2 nats exactly, and rounding decides.
    how: dict[str, Any] = {"n_documents": 300, "epochs": 4, "loss_fns": {"baseline": noisy}, "dtype": "float32"}
    return open_study(make_study(path, arms={"baseline": {}}, seeds=[0, 1, 2], **how))


def test_luck_is_not_confirmed(luck: Study) -> None:
    (arm,) = class_shares(luck)
    rebounding = CLASSES.index("rebounding")
    # Nearly half of the tokens, which do nothing, "rebound", by more than a standard deviation of the noise.
    assert arm.share.estimate[0, rebounding] > 0.4
    assert arm.change.estimate[0, rebounding] > 0.75
    assert arm.note is None
    for c in range(len(CLASSES)):
        assert abs(arm.change_elsewhere.estimate[0, c]) < 0.06
        assert arm.change_elsewhere.low[0, c] < 0.0 < arm.change_elsewhere.high[0, c]
        # That a token is low or high is no luck, but its entropy's.
        if CLASSES[c] not in ("low to low", "high to high"):
            assert arm.confirmed.low[0, c] < arm.by_chance[0, c] < arm.confirmed.high[0, c]
            assert arm.confirmed.high[0, c] - arm.confirmed.low[0, c] < 0.06


def test_what_every_seed_does_is_confirmed(study: Study) -> None:
    modes = make_buckets(study.run("baseline", 0).records("train"), edges=[2.0])
    baseline, _ = class_shares(study, buckets=modes)
    rebounding = CLASSES.index("rebounding")
    # High-entropy tokens fall by 0.5 until epoch 2 and rise by 0.5 again, in every seed (in float16).
    for interval, expected in (
        (baseline.share_in_two, 1.0),
        (baseline.confirmed, 1.0),
        (baseline.change, 0.5),
        (baseline.change_elsewhere, 0.5),
    ):
        assert interval.estimate[1, rebounding] == pytest.approx(expected, abs=2e-3)
    # Of a class that no token has, nothing is known.
    assert baseline.share.estimate[1, 0] == baseline.share_in_two.estimate[1, 0] == 0.0
    assert np.isnan([baseline.confirmed.estimate[1, 0], baseline.by_chance[1, 0], baseline.change.low[1, 0]]).all()


def by_definition(study: Study, arm: str, level: float, bucket: Array | None = None) -> dict[str, Array]:
    """The numbers of one bucket from their definitions, token by token in float64."""
    losses = []
    for seed in study.seeds:
        records = study.run(arm, seed).records("validation")
        chosen = records.predicted if bucket is None else records.predicted & bucket
        losses.append(np.array([records.loss(epoch)[chosen] for epoch in study.run(arm, seed).epochs], dtype=float))
    epochs, n = np.arange(len(losses[0])), losses[0].shape[1]
    kinds, lines = [], []
    for loss in losses:
        slope, start = np.polyfit(epochs, loss, 1)
        change, end = slope * epochs[-1], start + slope * epochs[-1]
        kind = np.where(change < -0.2, 0, np.where(change > 0.2, 2, np.where(end <= level, 1, 3)))
        kind[(loss[0] - loss.min(axis=0) > 0.2) & (loss[-1] - loss.min(axis=0) > 0.2)] = 4
        kinds.append(kind)
        lines.append(change)
    totals = {name: np.zeros(5) for name in ("members", "same", "chance", "change", "elsewhere")}
    for s, loss in enumerate(losses):
        lowest = loss.argmin(axis=0)
        others = [o for o in range(len(losses)) if o != s]
        for c in range(5):
            mine = kinds[s] == c

            def change_in(o: int, mine: Array = mine, lowest: Array = lowest, rebounds: bool = c == 4) -> float:
                rise = losses[o][-1] - losses[o][lowest, np.arange(n)]
                return float((rise if rebounds else lines[o])[mine].sum())

            totals["members"][c] += mine.sum()
            totals["change"][c] += change_in(s)
            totals["elsewhere"][c] += np.mean([change_in(o) for o in others])
            totals["same"][c] += np.mean([(mine & (kinds[o] == c)).sum() for o in others])
            totals["chance"][c] += mine.sum() * np.mean([(kinds[o] == c).mean() for o in others])
    members = totals.pop("members")
    return {"share": members / n / len(losses), **{name: total / members for name, total in totals.items()}}


def test_every_number_is_that_of_its_definition(luck: Study) -> None:
    halves = make_buckets(luck.run("baseline", 0).records("train"), n=2)
    (arm,) = class_shares(luck, buckets=halves, level=3.5)
    index = halves.index(luck.run("baseline", 0).records("validation"))
    for k in range(2):
        expected = by_definition(luck, "baseline", 3.5, index == k)
        for name, found in (
            ("share", arm.share.estimate),
            ("same", arm.confirmed.estimate),
            ("chance", arm.by_chance),
            ("change", arm.change.estimate),
            ("elsewhere", arm.change_elsewhere.estimate),
        ):
            # Lines and rises of single tokens are kept in float32.
            np.testing.assert_allclose(found[k], expected[name], atol=1e-6, err_msg=name)
        both = arm.share.estimate[k] * arm.confirmed.estimate[k]
        np.testing.assert_allclose(arm.share_in_two.estimate[k], both, rtol=1e-12)


def test_one_seed_validates_nothing(luck: Study) -> None:
    with pytest.warns(UserWarning, match="^baseline-0: classes that one seed chose .* train another seed$") as caught:
        (arm,) = class_shares(luck.run("baseline", 0))
    assert len(caught) == 1 and caught[0].filename == __file__
    assert arm.note is not None and "winner's curse" in arm.note
    assert np.isfinite(arm.share.low).all() and np.isfinite(arm.change.estimate).all()
    for unknown in (arm.share_in_two, arm.confirmed, arm.change_elsewhere):
        assert np.isnan([unknown.estimate, unknown.low, unknown.high]).all()
    assert np.isnan(arm.by_chance).all()


def test_a_seed_that_diverged_is_not_left_out(tmp_path: Path) -> None:
    def diverges(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, np.nan) if epoch == 3 else noisy(epoch, split, entropy, rng)

    runs = [
        open_run(make_run(tmp_path / str(seed), seed=seed, n_documents=120, epochs=3, loss_fn=loss))
        for seed, loss in ((0, noisy), (1, noisy), (2, diverges))
    ]
    (arm,) = class_shares(Arm("arm", runs))
    two, _ = class_shares([Arm("two", runs[:2]), Arm("arm", runs)])
    # It has no classes, so that it confirms none; what its tokens did elsewhere is not known.
    np.testing.assert_allclose(arm.share.estimate, two.share.estimate * 2 / 3)
    np.testing.assert_allclose(arm.confirmed.estimate, two.confirmed.estimate / 2)
    np.testing.assert_allclose(arm.change.estimate, two.change.estimate)
    assert np.isnan(arm.change_elsewhere.estimate).all()


def test_what_cannot_be_validated_is_refused(luck: Study, tmp_path: Path) -> None:
    runs = [
        open_run(make_run(tmp_path / str(seed), seed=seed, n_documents=120, recorded={"validation": rows}))
        for seed, rows in ((0, [0, 1, 2]), (1, [1, 2, 3]))
    ]
    with pytest.raises(InputError, match="recorded other sequences of 'validation'.*record the same ones"):
        class_shares(Arm("arm", runs))
    unknown = {
        split: np.full(luck.run("baseline", 0).records(split).predicted.shape, np.nan) for split in ("validation",)
    }
    nowhere = Buckets(np.array([1.0]), ("low", "high"), own_signal("nowhere", unknown))
    with pytest.raises(InputError, match="no predicted token is in any of the buckets"):
        class_shares(luck, buckets=nowhere)


def test_seeds_agree_on_the_map_as_far_as_tokens_last(luck: Study, study: Study) -> None:
    (nothing,) = cartography(luck)
    # Confidence holds the tokens' entropies; the deviations are noise.
    probabilities = []
    for seed in luck.seeds:
        records = luck.run("baseline", seed).records("train")
        loss = np.array([records.loss(epoch)[records.predicted] for epoch in range(1, 5)], dtype=float)
        probabilities.append(np.exp(-loss))
    pairs = [(0, 1), (0, 2), (1, 2)]
    for found, axis in ((nothing.confidence_agreement, np.mean), (nothing.variability_agreement, np.std)):
        places = [axis(p, axis=0) for p in probabilities]
        assert found == pytest.approx(np.mean([np.corrcoef(places[a], places[b])[0, 1] for a, b in pairs]), abs=1e-4)
    assert all(each.confidence_agreement == pytest.approx(1.0, abs=1e-6) for each in cartography(study))
    (alone,) = cartography(luck.run("baseline", 0))
    assert np.isnan([alone.confidence_agreement, alone.variability_agreement]).all()


def test_cartography_counts_every_predicted_token(study: Study) -> None:
    baseline, _ = cartography(study, bins=(10, 20))
    records = study.run("baseline", 0).records("train")
    assert baseline.n_tokens.shape == (10, 20)
    assert baseline.n_tokens.sum() == records.predicted.sum()
    found = token_trajectories(records)
    x = int(found.variability[0, 1] / 0.05)
    y = int(found.confidence[0, 1] / 0.05)
    inside = (found.variability // 0.05 == x) & (found.confidence // 0.05 == y)
    assert baseline.n_tokens[x, y] == pytest.approx(inside.sum(), abs=1)
    assert baseline.correctness[x, y] == pytest.approx(found.correctness[inside].mean(), abs=0.05)
    assert np.isnan(baseline.correctness[baseline.n_tokens == 0]).all()


def test_the_map_needs_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epoch 0 alone"):
        cartography(open_run(make_run(tmp_path / "run", epochs=[0])))


def test_tokens_are_followed_over_the_epochs_that_all_arms_have(tmp_path: Path) -> None:
    def falls_then_leaps(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, [4.0, 3.0, 2.0, 3.5][epoch])

    whole, cut = (
        open_run(make_run(tmp_path / name, name=name, n_documents=120, epochs=3, cut=passes, loss_fn=falls_then_leaps))
        for name, passes in (("whole", None), ("cut", 2.4))
    )
    rebounding = CLASSES.index("rebounding")
    alone = "are not validated: shares and changes hold the winner's curse; train another seed"
    with pytest.warns(UserWarning, match=f"^whole: classes that one seed .* {alone}"):
        assert [arm.share.estimate[0, rebounding] for arm in class_shares(whole)] == [1.0]
    message = "different passes over the data: tokens are followed over epochs 0 to 2, which all arms have"
    with pytest.warns(UserWarning, match=message), pytest.warns(UserWarning, match=f"^whole, cut: .* {alone}"):
        rows = class_shares([whole, cut])
    assert [arm.share.estimate[0, rebounding] for arm in rows] == [0.0, 0.0]
    with pytest.warns(UserWarning, match=message):
        first, second = cartography([whole, cut], bins=(10, 20))
    np.testing.assert_array_equal(first.n_tokens, second.n_tokens)
    # Over two epochs of training: exp(-3) and exp(-2) have the mean 0.0926, in the second of 20 bins.
    assert first.n_tokens[:, 1].sum() == first.n_tokens.sum() > 0
