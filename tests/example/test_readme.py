"""Every number that README gives of the packaged study is computed here, and every word that depends on one."""

from __future__ import annotations

from typing import Any

import pytest
from support.prose import renumbered, says

from dynamics import load_example
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.estimands.summary import arm_summary
from dynamics.analysis.sums.arms import collect_arms

PAGE = "README.md"


@pytest.fixture(scope="module")
def arms() -> Any:
    return {arm.name: arm for arm in collect_arms(load_example())}


@pytest.fixture(scope="module")
def summaries(arms: Any) -> Any:
    return {row.arm: row for row in arm_summary(arms.values())}


@pytest.fixture(scope="module")
def family(arms: Any) -> Any:
    return {(row.quantity, row.arm, row.other): row for row in study_comparisons(arms.values())}


def number(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no -0.000


def interval(estimate: float, low: float, high: float) -> str:
    return f"{number(estimate)} nats ({number(low)} to {number(high)})"


def with_p(estimate: float, low: float, high: float, p: float) -> str:
    return f"{interval(estimate, low, high)[:-1]}, {'p < 0.001' if p < 0.001 else f'p = {number(p)}'})"


def difference(row: Any) -> str:
    return with_p(row.estimate, row.low, row.high, row.p_holm)


def test_what_was_trained(arms: Any, family: Any) -> None:
    documents = arms["baseline"].runs[0].manifest["data"]["documents"]
    says(
        PAGE,
        f"SmolLM2-135M-Instruct learns {documents['train']} sections of the Python reference for "
        f"{arms['baseline'].epochs[-1]} epochs ({len(arms['baseline'].runs)} seeds, {documents['validation']} sections "
        "held out). Intervals are over seeds and documents; p-values are adjusted after Holm.",
    )
    assert {row.over for row in family.values()} == {"seeds_and_documents"}


def test_who_rebounds(arms: Any, summaries: Any) -> None:
    rebounds = {
        name: interval(row.rebound_cross_fitted, row.rebound_cross_fitted_low, row.rebound_cross_fitted_high)
        for name, row in summaries.items()
    }
    assert summaries["baseline"].rebound_cross_fitted_low > 0, "many epochs do not hurt"
    says(PAGE, f"From its best epoch the baseline's loss rises by {rebounds['baseline']}.")
    (row,) = [row for row in bucket_contrasts(arms.values()) if (row.arm, row.other) == ("baseline", "")]
    assert row.p_holm < 0.05 and row.estimate > 0, "the paper's diagnosis does not show"
    said = with_p(row.estimate, row.interval_low, row.interval_high, row.p_holm)
    says(PAGE, f"The high-entropy half of the tokens rises by {said} more than the low-entropy half")
    rises = [summaries[name].rebound_cross_fitted for name in ("baseline", "entrodrop", "random")]
    assert max(rises[1:]) < rises[0] / 2, "dropping tokens does not remove most of the rise"
    says(
        PAGE,
        f"With EntroDrop the loss rises by {rebounds['entrodrop']}, with random dropout by {rebounds['random']}.",
    )


def test_entrodrop_against_random_dropout(family: Any) -> None:
    row = family["final", "entrodrop", "random"]
    if row.p_holm < 0.05:
        says(PAGE, f"**Random dropout ends {'lower' if row.estimate > 0 else 'higher'} than EntroDrop.**")
    else:
        says(PAGE, "**EntroDrop is not distinguishable from random dropout of as many tokens.**")
    says(PAGE, f"At their ends EntroDrop minus random dropout is {difference(row)}.")


def test_against_early_stopping(family: Any) -> None:
    early = [family["final", arm, "baseline (early stopping)"] for arm in ("entrodrop", "random")]
    best = [family["best", arm, "baseline"] for arm in ("entrodrop", "random")]
    assert min(row.estimate for row in early) > 0
    assert all(row.p_holm >= 0.05 or row.estimate > 0 for row in best), "something beats early stopping"
    says(PAGE, "**Nothing beats a baseline that is stopped early.**")
    says(
        PAGE,
        f"EntroDrop ends {difference(early[0])} above the baseline at its best epoch, random dropout "
        f"{difference(early[1])}.",
    )


def test_a_page_is_renumbered_and_not_reworded() -> None:
    text = "| a | 1.0 % | 2 |\nIt rises\n  by 0.5 nats (-0.1 to 1,200), and\nby 0.5 again."
    assert renumbered(text, "It rises by −0.25 nats (2 to 3),") == text.replace(
        "0.5 nats (-0.1 to 1,200)", "−0.25 nats (2 to 3)"
    )
    assert renumbered(text, "| a | 9.0 % | 8 |") == text.replace("| a | 1.0 % | 2 |", "| a | 9.0 % | 8 |")
    assert renumbered("by 0.1 (p =\n  0.012).", "by 0.2 (p < 0.001).") == "by 0.2 (p < 0.001)."
    assert renumbered(text, "It falls by 0.25 nats") == text
