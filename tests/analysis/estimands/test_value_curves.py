from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.estimands.value_curves import (
    accuracy_curves,
    bits_per_byte_curves,
    curves_by_split,
    task_curves,
    value_curves,
)
from dynamics.analysis.intervals.contributions import curve_contributions
from dynamics.analysis.intervals.over_documents import over_documents
from dynamics.analysis.intervals.over_seeds_and_documents import over_seeds_and_documents
from dynamics.analysis.sums.arms import collect_arms
from dynamics.analysis.sums.bits_per_byte import bits_per_byte_sums
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.ensembles import ensemble
from dynamics.analysis.tokens.buckets import make_buckets, moving_buckets
from dynamics.analysis.tokens.groups import groups_by_regex
from dynamics.analysis.tokens.matches import task_tokens
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study

FEW = pytest.mark.filterwarnings("ignore:intervals over", "ignore:2 seeds hardly:UserWarning")
SPLITS = ("train", "validation", "tuning", "validation-general")


def by_seed(epoch: int, split: str, entropy: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.asarray(entropy * rng.uniform(0.2, 3.0, entropy.shape) * 0.8**epoch)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("curves") / "study"
    return open_study(make_study(path, n_documents=40, epochs=2, held_out=SPLITS[1:], loss_fns={"baseline": by_seed}))


@FEW
def test_accuracy_is_the_share_of_correct_tokens(study: Study) -> None:
    halves = make_buckets(study.run("baseline", 0).records("train"), edges=[2.0])
    baseline, entrodrop = accuracy_curves(study, buckets=halves)
    assert (baseline.arm, baseline.n_seeds, baseline.unit, baseline.over) == (
        "baseline",
        2,
        "share of tokens",
        "seeds_and_documents",
    )
    assert baseline.labels == ("low", "high") and baseline.epochs.tolist() == [0, 1, 2]
    for s in range(2):
        records = study.run("baseline", s).records("validation")
        of = halves.index(records)
        for e in range(3):
            expected = [records.correct(e)[records.predicted & (of == k)].mean() for k in range(2)]
            assert baseline.by_seed[s, e] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(baseline.values.estimate, baseline.by_seed.mean(axis=0), rtol=1e-12)
    assert baseline.final.estimate.tolist() == baseline.values.estimate[-1].tolist()
    assert (baseline.values.low <= baseline.values.estimate).all() and baseline.values.high[0, 0] > 0
    assert entrodrop.arm == "entrodrop"


@FEW
def test_intervals_are_over_seeds_where_there_are_some(study: Study) -> None:
    arm = collect_arms(study)[0]
    (curve,) = bits_per_byte_curves(arm, level=0.9)
    parts = bits_per_byte_sums(arm, "validation")
    expected = over_seeds_and_documents(curve_contributions(parts)).interval(0.9)
    np.testing.assert_allclose(curve.values.low, expected.low, rtol=1e-12)
    (one,) = bits_per_byte_curves(study.run("baseline", 1), level=0.9)
    assert (one.n_seeds, one.over, one.arm) == (1, "documents", "baseline-1")
    alone = over_documents(curve_contributions(parts[1:])).interval(0.9)
    np.testing.assert_allclose(one.values.high, alone.high)
    with pytest.warns(UserWarning, match="chosen by the outcome"):
        (moved,) = value_curves(arm, "loss", buckets=moving_buckets(2, value="loss"))
    assert moved.over == "documents" and moved.by_seed.shape == (2, 3, 2)


@FEW
def test_every_split_in_one_call(study: Study) -> None:
    curves = curves_by_split(study)
    assert list(curves) == ["train", "validation", "validation-general"]  # not what is set aside for tuning
    for split, rows in curves.items():
        for row, arm in zip(rows, collect_arms(study), strict=True):
            assert (row.split, row.arm, row.unit) == (split, arm.name, "nats per token")
            np.testing.assert_allclose(row.values.estimate, mean_curve(arm.sums(split)), rtol=1e-12)
    some = curves_by_split(study, "accuracy", splits=["tuning"])
    assert list(some) == ["tuning"] and some["tuning"][0].number == "accuracy"
    with pytest.raises(InputError, match="no split 'general'"):
        curves_by_split(study, splits=["general"])


@FEW
def test_groups_ensembles_and_entropies(study: Study) -> None:
    groups = groups_by_regex({"short": r"^\d:"}, other="long")
    arm = collect_arms(study)[0]
    (loss,) = value_curves(ensemble(arm), buckets=groups)
    assert loss.labels == ("short", "long") and loss.n_seeds == 1 and loss.over == "documents"
    records = study.run("baseline", 0).records("validation")
    short = records.predicted & (records.document_id < 10)
    members = [np.exp(-run.records("validation").loss(2)[short].astype(float)) for run in arm.runs]
    assert loss.values.estimate[2, 0] == pytest.approx(-np.log(np.mean(members, axis=0)).mean(), rel=1e-12)
    (entropy,) = value_curves(study.run("entrodrop", 0), "entropy")
    whole = records.entropy(2)[records.predicted].astype(float).mean()
    assert entropy.values.estimate[2, 0] == pytest.approx(whole, rel=1e-12)
    with pytest.raises(InputError, match="'correct' of an ensemble"):
        accuracy_curves(ensemble(arm))
    with pytest.raises(InputError, match="unknown number 'acuracy'; use .*; did you mean 'accuracy'"):
        value_curves(study, "acuracy")


@pytest.mark.filterwarnings("ignore:intervals over 2 documents:UserWarning")
def test_intervals_of_shares_end_at_none_and_all(tmp_path: Path) -> None:
    def learned(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
        return np.where(rng.random(entropy.shape) < 0.5, 0.25, 4.0)

    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=1, loss_fn=learned))
    (share,), (loss,) = accuracy_curves(run), value_curves(run)
    # Two documents: Student's t with a degree of freedom, which reaches beyond.
    wide = over_documents(curve_contributions(collect_arms(run)[0].seed_sums("validation", value="correct"))).interval(
        0.95
    )
    assert (wide.low < 0.0).any() and (wide.high > 1.0).any()
    np.testing.assert_array_equal(share.values.low, np.clip(wide.low, 0.0, 1.0))
    np.testing.assert_array_equal(share.values.high, np.clip(wide.high, 0.0, 1.0))
    np.testing.assert_allclose(share.values.estimate, wide.estimate)
    assert loss.values.high.max() > 1.0


@FEW
def test_the_curve_of_a_task(study: Study) -> None:
    task = r"donn\w+"
    baseline, entrodrop = task_curves(study, task)
    assert (baseline.arm, baseline.number, baseline.labels, baseline.over) == (
        "baseline",
        "accuracy",
        ("result",),
        "seeds_and_documents",
    )
    having = set()
    for s in range(2):
        records = study.run("baseline", s).records("validation")
        within = np.zeros(records.token_id.shape, dtype=bool)
        for row, at in np.argwhere(records.predicted):
            raw = records.document_bytes(records.document_id[row, at])
            first, end = records.byte_start[row, at], records.byte_end[row, at]
            # All the words are ASCII but for this one's last letters and "über".
            for word in re.finditer("données".encode(), raw):
                within[row, at] |= first < word.end() and word.start() < end
        having |= set(records.document_id[within].tolist())
        assert baseline.by_seed[s, :, 0] == pytest.approx([records.correct(e)[within].mean() for e in range(3)])
    assert (baseline.n_documents, baseline.n_left_out) == (len(having), 20 - len(having)) and len(having) < 20
    np.testing.assert_allclose(
        baseline.values.low, accuracy_curves(study, buckets=task_tokens(task))[0].values.low, rtol=1e-12
    )
    assert task_curves(study, task, split="train", level=0.5)[1].arm == entrodrop.arm
    with pytest.raises(InputError, match="no document of the validation split of .* matches 'nowhere'"):
        task_curves(study, "nowhere")


@FEW
def test_a_diverged_model_has_no_accuracy(tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
        return np.where((epoch == 1) & (entropy > 2), np.nan, entropy)

    run = open_run(make_run(tmp_path / "run", epochs=2, loss_fn=diverged))
    halves = make_buckets(run.records("train"), edges=[2.0])
    (curve,) = accuracy_curves(run, buckets=halves)
    assert np.isnan(curve.values.estimate).tolist() == [[False, False], [False, True], [False, False]]


@FEW
def test_bits_per_byte_compare_what_has_other_tokens(tmp_path: Path) -> None:
    one = open_study(make_study(tmp_path / "one", n_documents=8, epochs=1, corpus_seed=1))
    two = open_study(make_study(tmp_path / "two", n_documents=8, epochs=1, corpus_seed=2))
    alone = open_run(make_run(tmp_path / "alone", n_documents=8, epochs=1, corpus_seed=3, name="alone"))
    curves = bits_per_byte_curves([one, two, alone], buckets=2)
    assert [curve.arm for curve in curves] == [
        "one/baseline",
        "one/entrodrop",
        "two/baseline",
        "two/entrodrop",
        "alone",
    ]
    (apart, _) = bits_per_byte_curves(two, buckets=2)
    np.testing.assert_array_equal(curves[2].values.estimate, apart.values.estimate)
    with pytest.raises(InputError, match="different tokens"):
        value_curves([one, two])
    with pytest.raises(InputError, match="no complete epoch is recorded in nothing"):
        bits_per_byte_curves([])
