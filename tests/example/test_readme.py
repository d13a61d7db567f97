"""Every number that README gives of the packaged study is computed here from it, and every word that depends on one."""

from __future__ import annotations

from typing import Any

import pytest
from support.prose import renumbered, says

from dynamics import load_example
from dynamics.analysis.comparisons.bucket_contrasts import bucket_contrasts
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.power import detectable_difference, pilot_design
from dynamics.analysis.estimands.bucket_dynamics import bucket_dynamics
from dynamics.analysis.estimands.forgetting import forgetting
from dynamics.analysis.estimands.summary import arm_summary
from dynamics.analysis.sums.arms import collect_arms
from dynamics.analysis.sums.curves import mean_curve

PAGE = "README.md"
PAIRS = [("entrodrop", "baseline"), ("random", "baseline"), ("entrodrop", "random")]


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


def test_the_opening(arms: Any, summaries: Any) -> None:
    """What was trained on what, and the three sentences below the figure."""
    baseline, of = arms["baseline"], summaries["baseline"]
    documents = baseline.runs[0].manifest["data"]["documents"]
    curve = mean_curve(baseline.sums("validation"))[:, 0]
    training = mean_curve(baseline.sums("train"))[:, 0]
    (halves,) = bucket_dynamics([baseline], buckets=2)
    low, high = halves.rebound.estimate
    assert training[-1] < training[0] and curve[-1] > curve[0] and high > low
    says(
        PAGE,
        f"SmolLM2-135M-Instruct learns {documents['train']} sections of the Python reference for "
        f"{baseline.epochs[-1]} epochs ({len(baseline.runs)} seeds, {documents['validation']} sections held out):",
    )
    says(
        PAGE,
        f"the loss on held-out text falls from {curve[0]:.2f} to {of.best:.2f} nats a token in {of.best_epoch} epochs "
        f"and is at {of.final:.2f} after {of.final_epoch}, above where it began, while that on training text falls to "
        f"{training[-1]:.2f}.",
    )
    says(
        PAGE,
        f"Tokens of which the starting model is unsure lose most: their half rises by {high:.2f} nats from its best "
        f"epoch, the other by {low:.2f}.",
    )


def test_what_dropping_tokens_comes_to(family: Any) -> None:
    """The last of the three sentences, and early stopping and random dropout among the findings."""
    stopped = family["final", "baseline (early stopping)", "baseline"]
    ends = family["final", "entrodrop", "baseline"]
    against_random = family["final", "entrodrop", "random"]
    early = family["final", "entrodrop", "baseline (early stopping)"]
    random_early = family["final", "random", "baseline (early stopping)"]
    says(
        PAGE,
        f"EntroDrop takes {-ends.estimate:.2f} nats off the end, random dropout of as many tokens "
        f"{-family['final', 'random', 'baseline'].estimate:.2f}, and stopping the baseline at its best epoch "
        f"{-stopped.estimate:.2f}.",
    )
    best = [family["best", *pair] for pair in PAIRS]
    assert min(early.estimate, random_early.estimate) > 0
    assert all(row.p_holm >= 0.05 or row.estimate > 0 for row in best[:2]), "something beats early stopping"
    says(PAGE, "**Nothing beats a baseline that is stopped early.**")
    says(
        PAGE,
        f"EntroDrop ends {difference(early)} above the baseline at its best epoch, random dropout {difference(random_early)}.",
    )
    if against_random.p_holm < 0.05:
        says(PAGE, f"**Random dropout ends {'lower' if against_random.estimate > 0 else 'higher'} than EntroDrop.**")
    else:
        says(PAGE, "**EntroDrop is not distinguishable from random dropout of as many tokens.**")
    says(PAGE, f"At their ends EntroDrop minus random dropout is {difference(against_random)};")
    says(
        PAGE,
        f"all stopped at their best epochs, EntroDrop minus the baseline is {difference(best[0])}, random dropout minus "
        f"the baseline {difference(best[1])}, EntroDrop minus random dropout {difference(best[2])}.",
    )


def test_the_frame_of_the_findings(arms: Any, family: Any) -> None:
    documents = arms["baseline"].runs[0].manifest["data"]["documents"]
    says(
        PAGE,
        f"{arms['baseline'].epochs[-1]} epochs, {len(arms['baseline'].runs)} seeds, {documents['validation']} "
        "validation documents; all intervals over seeds and documents, all p adjusted after Holm, of arms for the "
        f"study's {len(family)} comparisons, of halves of tokens for those of their kind",
    )
    assert {row.over for row in family.values()} == {"seeds_and_documents"}


def test_who_rebounds(arms: Any, summaries: Any) -> None:
    rebounds = {
        name: interval(row.rebound_cross_fitted, row.rebound_cross_fitted_low, row.rebound_cross_fitted_high)
        for name, row in summaries.items()
    }
    says(
        PAGE,
        f"From its best epoch the baseline's loss rises by {rebounds['baseline']}, EntroDrop's by "
        f"{rebounds['entrodrop']}, random dropout's by {rebounds['random']}.",
    )
    contrasts = {(row.arm, row.other): row for row in bucket_contrasts(arms.values())}
    rows = contrasts["baseline", ""], contrasts["entrodrop", "baseline"], contrasts["random", "baseline"]
    assert rows[0].p_holm < 0.05 and rows[0].estimate > 0, "the paper's diagnosis does not show"
    said = [with_p(row.estimate, row.interval_low, row.interval_high, row.p_holm) for row in rows]
    says(
        PAGE,
        f"in the baseline the high-entropy half rebounds by {said[0]} more than the low half. EntroDrop changes that "
        f"by {said[1]}, and random dropout by {said[2]}.",
    )


def test_what_is_forgotten(arms: Any) -> None:
    found = {row.arm: row.final for row in forgetting(arms.values())}
    said = {name: interval(*(end.item() for end in (of.estimate, of.low, of.high))) for name, of in found.items()}
    says(
        PAGE,
        f"the loss on the standard library's source changes by {said['baseline']} in the baseline, {said['entrodrop']} "
        f"with EntroDrop, {said['random']} with random dropout.",
    )


def test_what_the_design_could_find(arms: Any) -> None:
    least = detectable_difference(pilot_design([arms["entrodrop"], arms["random"]], "entrodrop", "random"))
    says(
        PAGE,
        f"Of EntroDrop against random dropout this design finds a difference of {least:.3f} nats in four of five cases",
    )


def test_a_page_is_renumbered_and_not_reworded() -> None:
    text = "| a | 1.0 % | 2 |\nIt rises\n  by 0.5 nats (-0.1 to 1,200), and\nby 0.5 again."
    assert renumbered(text, "It rises by −0.25 nats (2 to 3),") == text.replace(
        "0.5 nats (-0.1 to 1,200)", "−0.25 nats (2 to 3)"
    )
    assert renumbered(text, "| a | 9.0 % | 8 |") == text.replace("| a | 1.0 % | 2 |", "| a | 9.0 % | 8 |")
    assert renumbered("by 0.1 (p =\n  0.012).", "by 0.2 (p < 0.001).") == "by 0.2 (p < 0.001)."
    assert renumbered(text, "It falls by 0.25 nats") == text
