"""Whatever is asked of a summary is what the study says; what needs tokens is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from support.summaries import WORDS, Pair, summarized

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.power import detectable_difference, pilot_design
from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.analysis.estimands.bucket_maps import bucket_map, loss_landscape
from dynamics.analysis.estimands.calibration import calibration, overconfidence
from dynamics.analysis.estimands.entropy_distributions import entropy_distributions
from dynamics.analysis.estimands.forgetting import forgetting
from dynamics.analysis.estimands.learning import epochs_to_reach_loss, learning_curves
from dynamics.analysis.estimands.summary import arm_summary, dropped_share_by_epoch
from dynamics.analysis.estimands.trajectory_shares import class_shares
from dynamics.analysis.estimands.value_curves import curves_by_split, value_curves
from dynamics.analysis.sums.arms import collect_arms, reference_buckets
from dynamics.analysis.sums.ensembles import ensemble
from dynamics.analysis.sums.kept_sums import kept_group
from dynamics.analysis.tokens.buckets import make_buckets, moving_buckets
from dynamics.analysis.tokens.groups import groups_by_regex
from dynamics.analysis.tokens.matches import groups_by_match
from dynamics.errors import InputError
from dynamics.plots.arm_tables.arm_table import arm_table


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return summarized(tmp_path_factory.mktemp("kept"))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal in every field, numbers to a part in 1e9."""
    assert type(one) is type(other), where
    if is_dataclass(one):
        for field in fields(one):
            if field.name != "source":  # where the records lie
                assert_same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(one, np.ndarray) and one.dtype.kind == "f":
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-14, err_msg=where)
    elif isinstance(one, float):
        assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-14) or (math.isnan(one) and math.isnan(other)), where
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other), where
    else:
        assert one == other, where


ASKED: dict[str, Callable[[Any], Any]] = {
    "family": study_comparisons,
    "comparisons by bucket": lambda data: compare_arms(data, buckets=2),
    "comparisons on the tuning part": lambda data: compare_arms(data, quantity="best", chosen_on="tuning"),
    "matched by steps": lambda data: compare_arms(data, matched="steps"),
    "matched by tokens": lambda data: compare_arms(data, matched="tokens", quantity="area"),
    "contrasts": lambda data: bucket_contrasts(data, buckets=2),
    "power": lambda data: detectable_difference(pilot_design(data, "entrodrop", "baseline")),
    "summaries": arm_summary,
    "table": arm_table,
    "dynamics": lambda data: bucket_dynamics(data, buckets=5),
    "maps": bucket_map,
    "map of the accuracy": lambda data: bucket_map(data, value="correct", buckets=1),
    "learning": lambda data: learning_curves(data, buckets=1),
    "epochs to reach a loss": lambda data: epochs_to_reach_loss(data, loss=2.2),
    "overconfidence": lambda data: overconfidence(data, buckets=2),
    "forgetting": lambda data: forgetting(data, split="validation-general"),
    "curves by split": curves_by_split,
    "entropy": lambda data: value_curves(data, "entropy", buckets=10),
    "accuracy": lambda data: value_curves(data, "accuracy", buckets=2),
    "bits per byte": lambda data: value_curves(data, "bits_per_byte", buckets=2),
    "bits per byte of all": lambda data: value_curves(data, "bits_per_byte"),
    "accuracy on words": lambda data: value_curves(data, "accuracy", buckets=WORDS),
    "bits per byte of words": lambda data: value_curves(data, "bits_per_byte", buckets=WORDS),
    "words under another name": lambda data: value_curves(
        data, buckets=groups_by_match({"result": "(list|données)"}, name="other")
    ),
    "dropout": lambda data: [dropped_share_by_epoch(arm) for arm in collect_arms(data)],
    "at some epochs": lambda data: [arm.seed_sums("validation") for arm in collect_arms(data)],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asked", ASKED)
def test_a_summary_answers_as_the_study(pair: Pair, asked: str) -> None:
    expected = ASKED[asked](pair.study)
    assert expected
    assert_same(expected, ASKED[asked](pair.summary))


def test_edges_are_those_of_the_study_for_every_number_that_divides_ten(pair: Pair) -> None:
    for n in (1, 2, 5, 10):
        one, other = (reference_buckets(collect_arms(data), n) for data in pair)
        assert one.key == other.key


def test_the_groups_of_a_summary_are_known_by_their_name(pair: Pair) -> None:
    group = kept_group(pair.summary.run("baseline", 0), "words")
    assert group.key == WORDS.key and group.labels == ("result",)
    assert_same(value_curves(pair.study, buckets=WORDS), value_curves(pair.summary, buckets=group))
    with pytest.raises(InputError, match="keeps no sums of groups 'word'; did you mean 'words'"):
        kept_group(pair.summary.run("baseline", 0), "word")
    with pytest.raises(InputError, match="it keeps none"):
        kept_group(pair.study.run("baseline", 0), "words")
    with pytest.raises(InputError, match="document_id cannot be had"):
        group.index(pair.summary.run("baseline", 0).records("validation"))


NEED_TOKENS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "moving buckets": (calibration, r"certainty \(kept are loss, entropy, correct\) cannot be had"),
    "moving": (lambda data: value_curves(data, buckets=moving_buckets(2)), "tokens by current entropy"),
    "many buckets": (loss_landscape, "which do not make 30: ask for 1, 2, 5, 10"),
    "other groups": (
        lambda data: value_curves(data, buckets=groups_by_regex("list")),
        "tokens by text .* need the study",
    ),
    "trajectories": (class_shares, "cannot be had from it; open the study"),
    "distributions": (entropy_distributions, "cannot be had from it; open the study"),
    "ensembles": (lambda data: ensemble(collect_arms(data)[0]), "an ensemble, .* cannot be had"),
    "frequency": (
        lambda data: make_buckets(data.run("baseline", 0).records("train"), "frequency", n=2),
        "token_id cannot be had",
    ),
    "loss by token": (lambda data: data.run("baseline", 0).records("train").loss(1), "loss by token cannot be had"),
    "text": (lambda data: data.run("baseline", 0).records("train").document_text(0), "n_documents cannot be had"),
    "a data set": (lambda data: data.run("baseline", 0).records("train").to_xarray(), "a data set cannot be had"),
    "a page": (lambda data: data.run("baseline", 0).explore(), "a page of its text cannot be had"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asked", NEED_TOKENS)
def test_what_needs_tokens_is_refused_with_one_message(pair: Pair, asked: str) -> None:
    ask, message = NEED_TOKENS[asked]
    with pytest.raises(InputError, match=message):
        ask(pair.summary)


@pytest.mark.filterwarnings("ignore:comparisons with")
def test_summaries_and_studies_go_side_by_side(pair: Pair) -> None:
    names = [arm.name for arm in collect_arms([pair.study, pair.summary])]
    assert names == ["study/baseline", "study/entrodrop", "summary/baseline", "summary/entrodrop"]
    rows = compare_arms([each.run("baseline", 0) for each in pair], over="documents", early_stopping=False)
    assert [row.estimate for row in rows] == [0.0]
